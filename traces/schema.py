"""The canonical jobs table: columns, defaults and checks. docs/tables.md says what each means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import sliding_window_view

HOUR_S = 3_600.0
DAY_S = 86_400.0
#: `gpus` is split into pods of at most so many
GPUS_PER_NODE = 8

ASCII = 128  #: bytes from there on are of other letters
#: names that are hashed together, and what spreads their bits: 2^64 over the golden ratio
HASHED_ROWS, MIXER = 1 << 15, np.uint64(0x9E3779B97F4A7C15)
INT_MAX = int(np.iinfo(np.int32).max)
LARGEST = 1e15
#: a submission from there on counts finer units than seconds: 1e11 s are 3,000 years
FINER_UNITS = {
    1e17: ("nanoseconds", 10**9),
    1e14: ("microseconds", 10**6),
    1e11: ("milliseconds", 10**3),
}
LATEST_S = min(FINER_UNITS)
_KINDS = {"str": "text", "float64": "a number", "int32": "a whole number", "bool": "true or false"}
#: words of a column of `bool`, in any case
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Column:
    """One column and what its values may be."""

    name: str
    dtype: str  #: str, float64, int32 or bool
    default: object = None  #: None: required, or derived from other columns
    at_least: float = -np.inf
    above: float = -np.inf

    def wants(self) -> str:
        """Say what a value must be."""
        kind = _KINDS[self.dtype]
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
    Column("evicts", "bool", True),
    Column("evictable", "bool", True),
    Column("outcome", "str", "completed"),
)
BY_NAME = {column.name: column for column in COLUMNS}
GPUS = Column("gpus", "int32", at_least=0)
REQUIRED = ("job", "submit_s", "duration_s")
#: what other programs write into an empty cell
EMPTY = ("NA", "N/A", "n/a", "#N/A", "NaN", "NAN", "nan", "None", "none", "NONE", "NULL", "Null",
         "null", "<NA>")  # fmt: skip
#: missing values follow from another column
DERIVED = {"last_pod_gpus": "gpus_per_pod", "min_member": "num_pods", "walltime_s": "duration_s"}


class TraceError(ValueError):
    """Input that is not a jobs table; the text names file, line, column and value."""


class BadCell(NamedTuple):
    """One rejected value; `row` counts from 0 in the table."""

    row: int
    column: str
    value: str
    reason: str


def check_columns(names: list[str], source: str, *, is_file: bool = True) -> None:
    """Raise TraceError if a required column is missing or a column is unknown."""
    known = [*BY_NAME, GPUS.name]
    for name in names:
        if names.count(name) > 1:
            raise TraceError(f"{source}: column {name!r} occurs twice; keep one")
    if strange := [name for name in names if name not in known]:
        raise TraceError(f"{source}: {unknown_columns(strange, known, is_file=is_file)}")
    missing = [name for name in REQUIRED if name not in names]
    if "gpus" not in names:
        missing += [name for name in ("num_pods", "gpus_per_pod") if name not in names]
    for name in ("num_pods", "gpus_per_pod", "last_pod_gpus"):
        if "gpus" in names and name in names:
            raise TraceError(f"{source}: it has 'gpus' and {name!r}; give one or the other")
    if missing:
        raise TraceError(
            f"{source}: column {missing[0]!r} is missing; a jobs table needs job, submit_s, "
            "duration_s, and num_pods with gpus_per_pod, or gpus"
        )


def unknown_columns(strange: list[str], known: list[str], *, is_file: bool = True) -> str:
    """Say which columns are unknown, and what to do about them in a file or a data frame."""
    them = "it" if len(strange) == 1 else "them"
    way_out = (
        f"rename {them} with --map theirs=ours or ignore {them} with --ignore-extra"
        if is_file
        else f"rename {them} with jobs.rename(columns=...) or leave {them} out with "
        "jobs.drop(columns=...)"
    )
    named = ", ".join(map(repr, strange))
    hints = [
        f"{name!r} may be {close[0]!r}"
        for name in strange
        if (close := get_close_matches(name.lower(), known, n=1))
    ]
    return (
        f"{'column' if len(strange) == 1 else 'columns'} {named} "
        f"{'is' if len(strange) == 1 else 'are'} unknown"
        + (f" ({', '.join(hints)})" if hints else "")
        + f"; {way_out}; known columns: {', '.join(known)}"
    )


def parse(
    raw: pd.DataFrame,
    lines: pd.Series[int] | None = None,
    gpus_per_node: int = GPUS_PER_NODE,
) -> tuple[pd.DataFrame, list[BadCell]]:
    """Turn text columns into typed ones; return them with every value that cannot be.

    Rows with a bad value hold a stand-in there and must be dropped by the caller. Missing
    optional values take their default. `lines` has the line of each row in its file; `gpus` is cut
    into pods of at most `gpus_per_node`.
    """
    typed: dict[str, pd.Series] = {}
    bad: list[BadCell] = []
    for name in raw.columns:
        column = BY_NAME.get(name, GPUS)
        if column.dtype == "str":
            typed[name] = raw[name].fillna(str(column.default or "")).astype("str")
            if name == "job":
                bad += bad_names(typed[name], name, lines)
            continue
        typed[name], wrong = (_flags if column.dtype == "bool" else _numbers)(raw[name], column)
        bad += [
            no_number(int(row), name, raw[name].iloc[row], column.wants())
            for row in np.flatnonzero(wrong)
        ]
        if name == "submit_s":
            finer = _finer(raw[name], typed[name], np.flatnonzero(wrong).tolist())
            known = {cell.row for cell in finer}
            bad = [cell for cell in bad if cell.column != name or cell.row not in known] + finer
    for small, large in (("min_member", "num_pods"), ("last_pod_gpus", "gpus_per_pod")):
        if small in typed and (large in typed or "gpus" in typed):
            most = typed[large] if large in typed else pods_of(typed["gpus"], gpus_per_node)
            known = {cell.row for cell in bad if cell.column in (small, large, "gpus")}
            bad += [
                BadCell(int(row), small, shown(raw[small].iloc[row]), f"must not exceed {large!r}")
                for row in np.flatnonzero((typed[small] > most).to_numpy())
                if int(row) not in known
            ]
    return pd.DataFrame(typed, copy=False), sorted(bad)


def finer_unit(value: float) -> str:
    """Say that a time of submission is not in seconds, and the way out; "" if it may be."""
    if value > LATEST_S and any(is_written_date(value / parts) for parts in (1e4, 1e6)):
        return "looks like a date; write it as 2024-03-01 08:00:00"
    for least, (unit, divisor) in FINER_UNITS.items():
        if value > least:
            return f"looks like {unit} since 1970; divide by {divisor}"
    return ""


def is_written_date(value: float) -> bool:
    """True if the digits before the point are those of a date, such as 20240301."""
    year, rest = divmod(int(value), 10_000)
    month, day = divmod(rest, 100)
    return 1990 <= year < 2100 and 1 <= month <= 12 and 1 <= day <= 31


def _finer(raw: pd.Series, typed: pd.Series, wrong: Iterable[int]) -> list[BadCell]:
    """Return every submission in a finer unit than seconds; `wrong` rows have a stand-in there."""
    values = typed.to_numpy(np.float64, copy=True)
    for row in wrong:
        try:
            values[row] = float(raw.iloc[row])
        except (TypeError, ValueError):
            values[row] = np.nan
    fine = np.flatnonzero(np.isfinite(values) & (values > LATEST_S)).tolist()
    return [
        BadCell(row, "submit_s", shown(raw.iloc[row]), finer_unit(float(values[row])))
        for row in fine
    ]


def _flags(
    raw: pd.Series, column: Column
) -> tuple[pd.Series, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Return which rows are true, and which are neither; those hold the default."""
    if raw.dtype == bool:
        return raw, np.zeros(len(raw), bool)
    codes, cells = pd.factorize(raw)
    known = [*(flag_of(cell, column) for cell in cells), bool(column.default)]
    flags = np.array([column.default if one is None else one for one in known], bool)
    wrong = np.array([one is None for one in known])
    return pd.Series(flags[codes], index=raw.index), wrong[codes]


def flag_of(cell: object, column: Column) -> bool | None:
    """Return what one cell says; the default where it is blank, None where it is no word for it."""
    text = str(cell).strip().lower()
    if isinstance(cell, float) and cell in (0.0, 1.0):
        text = str(int(cell))
    return FLAGS.get(text) if text else bool(column.default)


def _numbers(
    raw: pd.Series, column: Column
) -> tuple[pd.Series, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Return typed values and which of them are wrong."""
    if (sound := _typed_already(raw, column)) is not None:
        return sound, np.zeros(len(raw), bool)
    array = _plain_numbers(raw)
    if array is None:
        try:
            array = pd.to_numeric(raw, errors="coerce").to_numpy(np.float64, na_value=np.nan).copy()
        except (TypeError, ValueError):  # lists and the like, from Parquet
            array = np.full(len(raw), np.nan)
    is_derived = column.name in DERIVED
    empty = raw.isna().to_numpy()
    if column.name == "walltime_s":  # -1 says that there is none, as in SWF
        empty = empty | (array == -1)
    wrong = ~np.isfinite(array) | (array < column.at_least) | (array <= column.above)
    wrong |= np.abs(array) > (INT_MAX if column.dtype == "int32" else LARGEST)
    if column.dtype == "int32":
        wrong |= array != np.floor(array)
    if is_derived or column.default is not None:
        wrong &= ~empty
    default = float(str(column.default)) if column.default is not None else 1.0
    array[wrong | empty] = np.nan if is_derived else default  # derived in `fill`
    return pd.Series(array, index=raw.index, dtype="float64" if is_derived else column.dtype), wrong


def _typed_already(raw: pd.Series, column: Column) -> pd.Series | None:
    """Return a column of sound numbers in its type; None if it may not be one."""
    if getattr(raw.dtype, "kind", "") not in "if" or not len(raw) or raw.hasnans:
        return None
    low, high = float(raw.min()), float(raw.max())
    most = INT_MAX if column.dtype == "int32" else LARGEST
    if not (column.at_least <= low and column.above < low and -most <= low and high <= most):
        return None
    if column.dtype == "int32" and raw.dtype.kind == "f":
        return None
    wanted: Any = "float64" if column.name in DERIVED else column.dtype
    return raw.astype(wanted)


def _plain_numbers(raw: pd.Series) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """Return the values of a column that has a few digits in every cell; None if it has not."""
    if raw.dtype != "str":
        return None
    cells = pa.array(raw)
    plain = pc.match_substring_regex(cells, "^[0-9]{1,15}$")
    if not pc.all(plain, skip_nulls=False).as_py():
        return None
    return np.array(pc.cast(cells, pa.int64()), np.float64)


def counted(count: float, noun: str) -> str:
    """Return a count with its noun: 1 job, 4,312 jobs."""
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def total_gpus(jobs: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the GPUs of each job of a canonical table [num_jobs]."""
    pods, each, last = (
        jobs[name].to_numpy(np.int64) for name in ("num_pods", "gpus_per_pod", "last_pod_gpus")
    )
    return np.asarray((pods - 1) * each + last)


def check_gpus(
    names: Sequence[str] | pd.Series[str],
    gpus: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]],
    num_pods: Sequence[int] | pd.Series[int],
    where: str = "",
) -> None:
    """Raise TraceError for the job of the most GPUs if a table cannot hold that many.

    `where` begins its message.
    """
    found = np.asarray(gpus, np.int64)
    if not len(found) or found.max() <= INT_MAX:
        return
    row = int(found.argmax())
    raise TraceError(
        f"{where}job {list(names)[row]!r} asks for {found[row]:,} GPUs in "
        f"{list(num_pods)[row]:,} pods; a table holds up to {INT_MAX:,} for one job: correct its "
        "row, or leave it out"
    )


def no_number(row: int, column: str, value: object, wants: str) -> BadCell:
    """Return what is wrong with a value that is no number, and the way out where it has commas."""
    text = shown(value)
    if "whole number" in wants and re.fullmatch(r"\+?\d{10,}(\.0*)?", text.strip()):
        wants = f"{wants} and at most {INT_MAX:,}"
    hint = "; write it without commas, with a point before decimals"
    commas = re.fullmatch(r"[-+]?\d[\d.]*(,\d+)+(\.\d+)?", text.strip())
    return BadCell(row, column, text, f"must be {wants}{hint if commas else ''}")


def shown(value: object) -> str:
    """Return a value as messages show it; a missing one is empty."""
    return "" if value is None or value is pd.NA or value != value else str(value)


def is_all_distinct(names: pd.Series[str]) -> bool:
    """True if no name is blank and no two are equal; False if that may be.

    Equal names have equal hashes. A set of all names would take several times their memory.
    """
    cells = pa.array(names, pa.large_string())
    if isinstance(cells, pa.ChunkedArray):  # a column that was put together from several
        cells = cells.combine_chunks()
    if cells.null_count:
        return False
    ends = np.frombuffer(cells.buffers()[1], np.int64)[cells.offset : cells.offset + len(cells) + 1]
    longest = int(np.diff(ends).max())
    if longest > 64:
        return False
    words = -(-longest // 8)
    # of the 8 bytes of a word, those that are in a text so long
    kept = np.clip(np.arange(longest + 1)[:, None] - 8 * np.arange(words), 0, 8)
    masks = np.where(kept == 8, ~np.uint64(0), (np.uint64(1) << (8 * kept % 64).astype("u8")) - 1)
    text = np.frombuffer(cells.buffers()[2], np.uint8)
    if (ends[1:] == ends[:-1]).any():
        return False
    first_byte = text[ends[:-1]]
    if (first_byte <= ord(" ")).any() or (first_byte >= ASCII).any():  # it may be a blank
        return False
    hashes = np.empty(len(cells), np.uint64)
    for first in range(0, len(cells), HASHED_ROWS):
        part = ends[first : first + HASHED_ROWS + 1]
        length = np.diff(part)
        own = np.zeros(int(part[-1] - part[0]) + 8 * words, np.uint8)
        own[: part[-1] - part[0]] = text[part[0] : part[-1]]
        rows = sliding_window_view(own, 8 * words)[part[:-1] - part[0]]
        mixed = length.astype(np.uint64)
        for word in (rows.view(np.uint64) & masks[length]).T:
            mixed = (mixed ^ word) * MIXER
            mixed ^= mixed >> np.uint64(29)
        hashes[first : first + HASHED_ROWS] = mixed
    hashes.sort()
    return bool((hashes[1:] != hashes[:-1]).all())


def bad_names(
    names: pd.Series[str],
    column: str,
    lines: pd.Series[int] | None,
    *,
    needed: bool = True,
    unit: str = "line",
) -> list[BadCell]:
    """Return the names that stood in an earlier row, and with `needed` those that are empty.

    `unit` is what `lines` counts.
    """
    if not len(names) or is_all_distinct(names):
        return []
    empty = (names.str.strip() == "").to_numpy()
    bad = [
        BadCell(int(row), column, "", "must be a name")
        for row in (np.flatnonzero(empty) if needed else ())
    ]
    twice = names.duplicated(keep="first").to_numpy() & ~empty
    if twice.any():
        first: dict[str, int] = {}
        for row, name in enumerate(names):
            first.setdefault(name, row)
        for row in np.flatnonzero(twice).tolist():
            name = names.iloc[row]
            place = (
                f"row {first[name] + 1}" if lines is None else f"{unit} {lines.iloc[first[name]]}"
            )
            bad.append(BadCell(row, column, name, f"is in {place} too"))
    return bad


def complete(jobs: pd.DataFrame, gpus_per_node: int = GPUS_PER_NODE) -> pd.DataFrame:
    """Return a table with every canonical column, typed, in order of submission.

    Takes a DataFrame with the required columns; ties in `submit_s` keep their order. `gpus` is cut
    into pods of at most `gpus_per_node`.

    Raises:
        TraceError: a column is missing or unknown, or a value cannot be.
    """
    if (
        list(jobs.columns) == list(BY_NAME)
        and all(_is_sound(jobs[column.name], column) for column in COLUMNS)
        and (jobs["min_member"] <= jobs["num_pods"]).all()
        and (jobs["last_pod_gpus"] <= jobs["gpus_per_pod"]).all()
    ):
        return by_submission(jobs)
    check_columns([str(name) for name in jobs.columns], "jobs table", is_file=False)
    typed, bad = parse(jobs, gpus_per_node=gpus_per_node)
    if bad:
        first = bad[0]
        raise TraceError(
            f"jobs table, row {first.row + 1}, column {first.column!r}: {first.value!r} "
            f"{first.reason} ({len(bad)} bad values in all)"
        )
    return by_submission(fill(typed, gpus_per_node))


def _is_sound(values: pd.Series, column: Column) -> bool:
    """True if a column needs neither typing nor a message."""
    if str(values.dtype) != column.dtype:
        return False
    if column.dtype == "str":
        return column.name != "job" or bool(values.is_unique)
    if column.dtype == "bool":
        return True
    low, high = values.min(), values.max()
    most = LATEST_S if column.name == "submit_s" else LARGEST
    return bool(low >= column.at_least and low > column.above and high <= most) and not bool(
        values.isna().any()
    )


def pods_of(gpus: pd.Series[int], gpus_per_node: int) -> pd.Series[int]:
    """Return into how many pods of at most `gpus_per_node` GPUs each job is cut."""
    return (-(-gpus // max(gpus_per_node, 1))).clip(lower=1)


def fill(typed: pd.DataFrame, gpus_per_node: int = GPUS_PER_NODE) -> pd.DataFrame:
    """Add what is missing and derive what follows from other columns.

    `gpus` becomes pods of `gpus_per_node` GPUs, the last with the remainder; fewer are one pod.
    """
    table = typed.reset_index(drop=True)
    if "gpus" in table:
        asked = table.pop("gpus").astype("int64")
        gpus, num_pods = asked.to_numpy(), pods_of(asked, gpus_per_node).to_numpy()
        per_pod = np.minimum(gpus, max(gpus_per_node, 1))
        table["num_pods"], table["gpus_per_pod"] = num_pods, per_pod
        table["last_pod_gpus"] = gpus - (num_pods - 1) * per_pod
    for name, source in DERIVED.items():
        derived = table[source]
        if name in table:
            derived = table[name].astype("float64").fillna(derived.astype("float64"))
        table[name] = derived
    # a job of no duration still asks for some time
    table["walltime_s"] = table["walltime_s"].astype("float64").clip(lower=1e-9)
    filled, texts = {}, dict[str, object]()
    for column in COLUMNS:
        values = table.get(column.name, column.default)
        if column.name not in table and column.dtype == "str":
            values = texts.setdefault(str(values), _all_alike(str(values), len(table)))
        elif column.name not in table and values == 0:  # memory that nobody reads is never taken
            values = np.zeros(len(table), column.dtype)
        filled[column.name] = pd.Series(values, index=table.index, dtype=column.dtype, copy=False)
    return pd.DataFrame(filled, copy=False)


def _all_alike(text: str, count: int) -> object:
    """Return a column of one text, for a few bytes a row."""
    code = text.encode()
    ends = np.zeros(count + 1, np.int64)
    if code:
        ends = np.arange(0, len(code) * count + 1, len(code))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(code * count)]
    return pd.array(pa.Array.from_buffers(pa.large_string(), count, buffers), dtype="str")


def by_submission(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return a canonical table in order of submission; ties keep their order."""
    if jobs["submit_s"].is_monotonic_increasing:
        return jobs.reset_index(drop=True)
    return jobs.sort_values("submit_s", kind="stable", ignore_index=True)
