"""Workloads of Batsim: JSON with `jobs` and `profiles`.

Fields: https://github.com/oar-team/batsim, docs/input-workload.rst, of version 5 and, in names of
profile types, of those before. Dutot et al., "Batsim: a realistic language-independent resources
and jobs management systems simulator", JSSPP 2016. A resource becomes a pod of one GPU, or
`gpus_per_pod` resources a pod.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd

from traces.formats.interface import Options, Reading
from traces.formats.items import json_of
from traces.formats.outcomes import COMPLETED, FAILED
from traces.formats.rows import (
    RawTable,
    numbers,
    pods_of_processors,
    reject,
    sound_and,
    unique,
)
from traces.formats.source import Source
from traces.schema import LARGEST, BadCell, TraceError, fill

DELAYS = ("DelayProfile", "delay")
SEQUENCES = ("SequentialCompositionProfile", "composed")
#: sequences within sequences
DEEPEST = 32


class Profile(msgspec.Struct):
    """How a job runs."""

    type: str
    delay: float | None = None
    seq: list[str] = []
    repeat: int = 1
    ret: int = 0


class Job(msgspec.Struct):
    """One job of a workload."""

    id: str | int | None = None
    subtime: float | None = None
    res: int | None = None
    profile: str | None = None
    walltime: float | None = None


class Workload(msgspec.Struct):
    """A file."""

    jobs: list[msgspec.Raw]
    profiles: dict[str, msgspec.Raw]


class _Length(NamedTuple):
    """How long a profile runs, or why that is not known."""

    seconds: float
    why_not: str = ""


def read(source: Source, options: Options) -> Reading:
    """Return the jobs whose run time the file says.

    That are delays and sequences of delays. A job stops at its walltime and has then failed, as it
    has if its profile returns another code than 0. How long computations, communications and
    replayed traces take depends on the platform: jobs with these are bad items.

    Raises:
        TraceError: the file is not of that form, or has bad items and `on_bad_row` is "fail".
    """
    try:
        workload = msgspec.json.decode(json_of(source), type=Workload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise TraceError(f"jobs file {str(source)!r} is not a Batsim workload: {error}") from None
    if not workload.jobs:
        raise TraceError(f"jobs file {str(source)!r} has no jobs: the list is empty")
    torn: list[BadCell] = []
    found = [_job(row, raw, torn) for row, raw in enumerate(workload.jobs)]
    rows = pd.DataFrame({name: _text(found, name) for name in Job.__struct_fields__})
    lines = pd.Series(range(1, len(rows) + 1))
    table = RawTable(rows, lines, str(source), tuple(torn), "item")
    bad: list[BadCell] = []
    names = unique(table, "id", bad)
    submit_s = numbers(table, "subtime", 0.0, bad)
    resources = numbers(table, "res", 1.0, bad, whole=True)
    walltime_s = numbers(table, "walltime", -1.0, bad, missing=-1.0)
    profiles = _profiles(workload)
    known: dict[str, _Length] = {}
    lengths = [_length(job.profile or "", profiles, known) for job in found]
    bad += [
        BadCell(row, "profile", found[row].profile or "", length.why_not)
        for row, length in enumerate(lengths)
        if length.why_not
    ]
    bad = sound_and(table, bad)
    rejected = reject(table, bad, options.on_bad_row)
    kept = table.rows_but(bad)
    delay_s = pd.Series([length.seconds for length in lengths])
    limit_s = walltime_s.where(walltime_s > 0, np.inf)
    returned = np.array([_returns(job.profile or "", profiles) for job in found])
    failed = ((delay_s > limit_s).to_numpy() | (returned != 0))[kept]
    notes = []
    if cut := int((delay_s > limit_s)[kept].sum()):
        notes.append(
            f"jobs that run into their walltime, which ends them: {cut:,}; they count as failed"
        )
    jobs = pd.DataFrame(
        {
            "job": names[kept],
            "submit_s": submit_s[kept],
            "duration_s": np.minimum(delay_s, limit_s)[kept],
            "walltime_s": walltime_s.where(walltime_s > 0)[kept],
            **pods_of_processors(resources[kept], options.gpus_per_pod or 1),
            "outcome": np.where(failed, FAILED, COMPLETED),
        }
    )
    return Reading(fill(jobs), rejected, notes=tuple(notes))


def _job(row: int, raw: msgspec.Raw, torn: list[BadCell]) -> Job:
    try:
        return msgspec.json.decode(raw, type=Job)
    except (msgspec.DecodeError, RecursionError) as error:
        start = bytes(raw)[:200].decode("utf-8", "replace")
        torn.append(BadCell(row, "", start, f"is not a job of a workload ({error})"))
        return Job()


def _text(found: list[Job], name: str) -> pd.Series[str]:
    values = (getattr(job, name) for job in found)
    return pd.Series([None if value is None else str(value) for value in values], dtype="str")


def _profiles(workload: Workload) -> dict[str, Profile | str]:
    """Return every profile, or what is wrong with it."""
    found: dict[str, Profile | str] = {}
    for name, raw in workload.profiles.items():
        try:
            found[name] = msgspec.json.decode(raw, type=Profile)
        except (msgspec.DecodeError, RecursionError) as error:
            found[name] = str(error)
    return found


def _returns(name: str, profiles: dict[str, Profile | str]) -> int:
    profile = profiles.get(name)
    return profile.ret if isinstance(profile, Profile) else 0


def _length(
    name: str, profiles: dict[str, Profile | str], known: dict[str, _Length], depth: int = 0
) -> _Length:
    """Return how long a profile runs; `known` has those that were looked at."""
    if name in known:
        return known[name]
    known[name] = _Length(0.0, "is a sequence of itself")  # unless it ends
    profile = profiles.get(name)
    if profile is None:
        length = _Length(0.0, f"{name!r} is not among the profiles")
    elif isinstance(profile, str):
        length = _Length(0.0, f"{name!r} is no sound profile ({profile})")
    elif profile.type in SEQUENCES and depth < DEEPEST:
        parts = [_length(part, profiles, known, depth + 1) for part in profile.seq]
        wrong = next((part.why_not for part in parts if part.why_not), "")
        length = _Length(profile.repeat * sum(part.seconds for part in parts), wrong)
    elif profile.type in SEQUENCES:
        length = _Length(0.0, f"nests more than {DEEPEST} sequences")
    elif profile.type not in DELAYS:
        length = _Length(
            0.0,
            f"is of type {profile.type}, whose run time depends on the platform: simulate it with "
            "Batsim and give the run time as a delay",
        )
    elif profile.delay is None or not 0 <= profile.delay <= LARGEST:
        length = _Length(0.0, "must have a delay of 0 s or more")
    else:
        length = _Length(profile.delay)
    known[name] = length
    return length
