"""What Slurm writes of resources: TRES, the older GRES, and counts and sizes with a unit.

https://slurm.schedmd.com/tres.html: `billing=64,cpu=64,gres/gpu:a100=8,gres/gpu=8,mem=512G,node=1`.
Typed and untyped GPUs are the same devices and count once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pandas as pd

_UNITS = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40, "P": 2.0**50}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)(?:i?B)?", re.IGNORECASE)
_MEMORY = re.compile(r"(\d+(?:\.\d+)?[KMGTP]?)(?:i?B)?([cn]?)", re.IGNORECASE)
#: old form: gpu:2, gpu:tesla:2, gpu:a100:4(S:0-1)
_GRES = re.compile(r"(?:gres[:/])?([A-Za-z]\w*)(?::([^:=(]+))??(?:[:=](\d+))?(?:\([^)]*\))?")
_GIB, _MIB = 2.0**30, 2.0**20
#: parts of GPUs: the pods of a job that has them take whole ones
SHARES = ("shard", "mps")
#: TRES that say nothing about which nodes a job fits on
_PASSED_OVER = ("billing", "energy", "pages", "vmem", "fs/", "bb/", "license/", "ic/", "usage/",
                "gres/gpumem", "gres/gpuutil")  # fmt: skip
WHAT = "must be resources such as cpu=64,mem=512G,node=1,gres/gpu=8"
COLUMNS = ("gpus", "model", "shares", "cpu", "mem_gib", "nodes", "strange", "wrong")


def quantity(text: str) -> float:
    """Return a count such as 64, 1.5K or 1M; NaN if it is not a count."""
    match = _QUANTITY.fullmatch(text.strip())
    return float(match[1]) * _UNITS[match[2].upper()] if match else math.nan


def memory_gib(text: str) -> float:
    """Return a size in GiB; without a unit it is in MiB. NaN if it is none."""
    size = quantity(text)
    return size * (_MIB if text.strip()[-1:].isdigit() else 1.0) / _GIB


def requested_gib(text: str, num_cpus: float, num_nodes: float) -> float:
    """Return ReqMem in GiB for the whole job: 4Gc is per CPU, 64Gn per node."""
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        return math.nan
    times = {"c": num_cpus, "n": num_nodes}.get(match[2].lower(), 1.0)
    return memory_gib(match[1]) * times


def tres(texts: pd.Series[str]) -> pd.DataFrame:
    """Return what each cell of AllocTRES or ReqTRES holds: `COLUMNS`; NaN or "" if not named."""
    return _each(texts, _tres)


def gres(texts: pd.Series[str]) -> pd.DataFrame:
    """Return what each cell of AllocGRES or ReqGRES holds, the GPUs of all nodes together."""
    return _each(texts, _gres)


def _each(texts: pd.Series[str], parse: Callable[[str], tuple[object, ...]]) -> pd.DataFrame:
    """Parse each distinct text once."""
    codes, words = pd.factorize(texts.fillna("").astype("str"))
    parsed = pd.DataFrame([parse(str(word)) for word in words], columns=list(COLUMNS))
    return parsed.iloc[codes].set_index(texts.index)


def _tres(text: str) -> tuple[object, ...]:
    typed: dict[str, float] = {}
    untyped = shares = cpu = mem_gib = nodes = math.nan
    strange: list[str] = []
    wrong = False
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        name = name.lower()
        if name == "gres/gpu":
            untyped = quantity(value)
        elif name.startswith("gres/gpu:"):
            typed[part[len("gres/gpu:") : -len(value) - 1]] = quantity(value)
        elif name == "cpu":
            cpu = quantity(value)
        elif name == "mem":
            mem_gib = memory_gib(value)
        elif name == "node":
            nodes = quantity(value)
        elif name.removeprefix("gres/").partition(":")[0] in SHARES:
            shares = quantity(value)
        elif name.startswith(_PASSED_OVER):
            continue
        else:
            strange.append(name)
        wrong |= math.isnan(quantity(value))
    return (*_gpus(typed, untyped), shares, cpu, mem_gib, nodes, ",".join(strange), wrong)


def _gres(text: str) -> tuple[object, ...]:
    typed: dict[str, float] = {}
    untyped = shares = math.nan
    strange: list[str] = []
    wrong = False
    for part in filter(None, re.split(r",(?![^(]*\))", text)):
        match = _GRES.fullmatch(part.strip())
        count = float(match[3] or 1) if match else math.nan
        if match is None:
            wrong = True
        elif match[1].lower() in SHARES:
            shares = count
        elif match[1].lower() != "gpu":
            strange.append(match[1])
        elif match[2]:
            typed[match[2]] = typed.get(match[2], 0.0) + count
        else:
            untyped = count
    return (*_gpus(typed, untyped), shares, np.nan, np.nan, np.nan, ",".join(strange), wrong)


def _gpus(typed: dict[str, float], untyped: float) -> tuple[float, str]:
    """Return the number of GPUs, and their types."""
    total = sum(typed.values()) if typed else math.nan
    both = total if math.isnan(untyped) else untyped
    return both, "+".join(sorted(name for name, count in typed.items() if count))
