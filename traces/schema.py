"""The canonical jobs table: columns, defaults and checks. docs/tables.md says what each means."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import pandas as pd

#: `gpus` is split into pods of at most so many
GPUS_PER_NODE = 8

INT_MAX = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True)
class Column:
    """One column and what its values may be."""

    name: str
    dtype: str  #: str, float64 or int32
    default: object = None  #: None: required, or derived from other columns
    at_least: float = -np.inf
    above: float = -np.inf

    def wants(self) -> str:
        """Say what a value must be."""
        kind = {"str": "text", "float64": "a number", "int32": "a whole number"}[self.dtype]
        if self.above > -np.inf:
            return f"{kind} above {self.above:g}"
        return f"{kind}, at least {self.at_least:g}" if self.at_least > -np.inf else kind


COLUMNS: tuple[Column, ...] = (
    Column("job", "str"),
    Column("user", "str", ""),
    Column("queue", "str", ""),
    Column("priority", "int32", 0),
    Column("submit_s", "float64", at_least=0.0),
    Column("duration_s", "float64", at_least=0.0),
    Column("walltime_s", "float64", above=0.0),
    Column("num_pods", "int32", at_least=1),
    Column("gpus_per_pod", "int32", at_least=0),
    Column("last_pod_gpus", "int32", at_least=0),
    Column("min_member", "int32", at_least=1),
    Column("gpu_model", "str", ""),
    Column("pool", "str", ""),
    Column("cpu_per_pod", "float64", 0.0, at_least=0.0),
    Column("mem_gib_per_pod", "float64", 0.0, at_least=0.0),
    Column("outcome", "str", "completed"),
)
BY_NAME = {column.name: column for column in COLUMNS}
GPUS = Column("gpus", "int32", at_least=1)
REQUIRED = ("job", "submit_s", "duration_s")


class TraceError(ValueError):
    """Input that is not a jobs table; the text names file, line, column and value."""


class BadCell(NamedTuple):
    """One rejected value; `row` counts from 0 in the table."""

    row: int
    column: str
    value: str
    reason: str


def check_columns(names: list[str], source: str) -> None:
    """Raise TraceError if a required column is missing or a column is unknown."""
    known = [*BY_NAME, GPUS.name]
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise TraceError(
                f"{source}: column {name!r} is unknown; {hint}known columns: {', '.join(known)}"
            )
        if names.count(name) > 1:
            raise TraceError(f"{source}: column {name!r} stands twice; keep one")
    missing = [name for name in REQUIRED if name not in names]
    if "gpus" not in names:
        missing += [name for name in ("num_pods", "gpus_per_pod") if name not in names]
    elif {"num_pods", "gpus_per_pod"} & set(names):
        raise TraceError(
            f"{source}: it has 'gpus' beside 'num_pods' or 'gpus_per_pod'; give one or the other"
        )
    if missing:
        raise TraceError(
            f"{source}: column {missing[0]!r} is missing; a jobs table needs job, submit_s, "
            "duration_s, and num_pods with gpus_per_pod, or gpus"
        )


def parse(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[BadCell]]:
    """Turn text columns into typed ones; return them with every value that cannot be.

    Rows with a bad value hold a stand-in there and must be dropped by the caller. Missing
    optional values take their default.
    """
    typed: dict[str, pd.Series] = {}
    bad: list[BadCell] = []
    for name in raw.columns:
        column = BY_NAME.get(name, GPUS)
        text = raw[name]
        if column.dtype == "str":
            typed[name] = text.fillna("").astype("str")
            if name == "job":
                bad += _bad_names(typed[name])
            continue
        values, wrong = _numbers(text, column)
        typed[name] = values
        bad += [
            BadCell(int(row), name, str(text.iloc[row]), f"must be {column.wants()}")
            for row in np.flatnonzero(wrong)
        ]
    for small, large in (("min_member", "num_pods"), ("last_pod_gpus", "gpus_per_pod")):
        if small in typed and large in typed:
            over = (typed[small] > typed[large]).to_numpy()
            bad += [
                BadCell(int(row), small, str(raw[small].iloc[row]), f"must not exceed {large!r}")
                for row in np.flatnonzero(over)
            ]
    return pd.DataFrame(typed), sorted(bad)


def _numbers(text: pd.Series, column: Column) -> tuple[pd.Series, np.ndarray]:
    """Return typed values and which of them are wrong."""
    values = pd.to_numeric(text, errors="coerce").astype("float64")
    stripped = text.astype("str").str.strip() if text.dtype.kind not in "iuf" else None
    empty = text.isna().to_numpy()
    if stripped is not None:
        empty = empty | (stripped == "").to_numpy()
    default = _stand_in(column)
    is_optional = column.default is not None or column.name in (
        "walltime_s",
        "min_member",
        "last_pod_gpus",
    )
    array = values.to_numpy().copy()
    if column.name == "walltime_s":  # -1 says that there is none, as in SWF
        empty = empty | (array == -1)
    wrong: np.ndarray = ~np.isfinite(array) | (array < column.at_least) | (array <= column.above)
    if column.dtype == "int32":
        wrong |= (array != np.floor(array)) | (np.abs(array) > INT_MAX)
    else:
        wrong |= np.abs(array) > 1e15
    wrong &= ~empty if is_optional else True
    array[wrong | empty] = default
    dtype = "float64" if column.name in ("walltime_s", "min_member", "last_pod_gpus") else None
    return pd.Series(array, index=text.index).astype(dtype or column.dtype), wrong


def _stand_in(column: Column) -> float:
    if column.default is not None:
        return float(str(column.default))
    if column.name in ("walltime_s", "min_member", "last_pod_gpus"):
        return np.nan  # derived in `complete`
    return 1.0


def _bad_names(names: pd.Series) -> list[BadCell]:
    empty = np.flatnonzero((names.str.strip() == "").to_numpy())
    bad = [BadCell(int(row), "job", "", "must be a name") for row in empty]
    twice = names.duplicated(keep="first").to_numpy().copy()
    twice[empty] = False
    if twice.any():
        first = {name: row for row, name in reversed(list(enumerate(names)))}
        bad += [
            BadCell(
                int(row), "job", names.iloc[row], f"stands in row {first[names.iloc[row]] + 1} too"
            )
            for row in np.flatnonzero(twice)
        ]
    return bad


def complete(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return a table with every canonical column, typed, in order of submission.

    Takes a DataFrame with the required columns; ties in `submit_s` keep their order.

    Raises:
        TraceError: a column is missing or unknown, or a value cannot be.
    """
    if list(jobs.columns) == list(BY_NAME) and all(_has_type(jobs[c.name], c) for c in COLUMNS):
        return _by_submission(jobs)
    check_columns([str(name) for name in jobs.columns], "jobs table")
    typed, bad = parse(jobs)
    if bad:
        first = bad[0]
        raise TraceError(
            f"jobs table, row {first.row + 1}, column {first.column!r}: {first.value!r} "
            f"{first.reason} ({len(bad)} bad values in all)"
        )
    return _by_submission(fill(typed))


def _has_type(values: pd.Series, column: Column) -> bool:
    return str(values.dtype) == column.dtype


def fill(typed: pd.DataFrame) -> pd.DataFrame:
    """Add what is missing and derive what follows from other columns.

    `gpus` becomes pods of 8 GPUs, the last with the remainder; up to 8 GPUs are one pod.
    """
    table = typed.reset_index(drop=True)
    if "gpus" in table:
        gpus = table.pop("gpus").to_numpy(np.int64)
        per_pod = np.minimum(gpus, GPUS_PER_NODE)
        num_pods = -(-gpus // GPUS_PER_NODE)
        table["num_pods"], table["gpus_per_pod"] = num_pods, per_pod
        table["last_pod_gpus"] = gpus - (num_pods - 1) * per_pod
    for name, source in (
        ("last_pod_gpus", "gpus_per_pod"),
        ("min_member", "num_pods"),
        ("walltime_s", "duration_s"),
    ):
        derived = table[source]
        if name in table:
            derived = table[name].astype("float64").fillna(derived.astype("float64"))
        table[name] = derived
    # a job of no duration still asks for some time
    table["walltime_s"] = table["walltime_s"].astype("float64").clip(lower=1e-9)
    filled = {}
    for column in COLUMNS:
        values = table[column.name] if column.name in table else column.default
        filled[column.name] = pd.Series(values, index=table.index, dtype=column.dtype)
    return pd.DataFrame(filled)


def _by_submission(jobs: pd.DataFrame) -> pd.DataFrame:
    if jobs["submit_s"].is_monotonic_increasing:
        return jobs.reset_index(drop=True)
    return jobs.sort_values("submit_s", kind="stable", ignore_index=True)
