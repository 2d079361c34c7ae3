"""Rows of a file as they were read, their places, and rejecting some without losing them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from traces.schema import INT_MAX, LARGEST, BadCell, TraceError, bad_names, counted, no_number

#: how many bad values an error message spells out
MOST_SHOWN = 5
#: how much of a bad value an error message spells out
LONGEST_SHOWN = 60

#: one truth value per row
Mask: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class RawTable:
    """Rows of text and the line of the file each stands on."""

    rows: pd.DataFrame
    lines: pd.Series[int]
    source: str
    torn: tuple[BadCell, ...] = ()  #: rows with more or fewer fields than the header
    unit: str = "line"  #: what `lines` counts
    delimiter: str = ","
    comments: int = 0  #: comment lines, ignored

    def rows_but(self, bad: list[BadCell]) -> Mask:
        """Return which rows have none of these bad values."""
        kept = np.ones(len(self.rows), bool)
        kept[[cell.row for cell in bad]] = False
        return kept

    def where(self, mask: Mask) -> RawTable:
        """Return the rows that a mask selects."""
        place = np.cumsum(mask) - 1
        return replace(
            self,
            rows=self.rows[mask].reset_index(drop=True),
            lines=self.lines[mask].reset_index(drop=True),
            torn=tuple(one._replace(row=int(place[one.row])) for one in self.torn if mask[one.row]),
        )


def sound_and(table: RawTable, bad: list[BadCell]) -> list[BadCell]:
    """Return everything that is bad, by row: torn rows, and these values of the others."""
    torn = {cell.row for cell in table.torn}
    return sorted([*table.torn, *(cell for cell in bad if cell.row not in torn)])


def reject(table: RawTable, bad: list[BadCell], on_bad_row: str) -> pd.DataFrame:
    """Return one row per rejected row: line, column, value, reason, and the row as it stands.

    Column and value are those of the first bad one; the reason names the others.

    Raises:
        TraceError: `on_bad_row` is "fail" and there are any.
    """
    if on_bad_row not in ("fail", "skip"):
        raise TraceError(f"on_bad_row is {on_bad_row!r}; choose fail or skip")
    of_row: dict[int, list[BadCell]] = {}
    for cell in bad:
        of_row.setdefault(cell.row, []).append(cell)
    if bad and on_bad_row == "fail":
        spelt = "; ".join(
            f"{table.unit} {table.lines.iloc[cell.row]}{_problem(cell)}"
            for cell in bad[:MOST_SHOWN]
        )
        more = f" and {len(bad) - MOST_SHOWN:,} more" if len(bad) > MOST_SHOWN else ""
        values = "1 bad value" if len(bad) == 1 else f"{len(bad):,} bad values"
        raise TraceError(
            f"{table.source}: {values} in {len(of_row):,} of {counted(len(table.rows), 'row')}: "
            f"{spelt}{more}; correct them, or leave those rows out with --on-bad-row skip"
        )
    concerned = table.rows.iloc[list(of_row)].astype("object")
    content = concerned.where(concerned.notna(), "").to_numpy().tolist()
    whole = {cell.row: cell.value for cell in table.torn}
    return pd.DataFrame(
        [
            {
                "line": int(table.lines.iloc[row]),
                "column": cells[0].column,
                "value": "" if row in whole else cells[0].value,
                "reason": cells[0].reason + "".join(f"{_problem(cell)}" for cell in cells[1:]),
                "row": whole.get(row) or ",".join(map(str, values)),
            }
            for (row, cells), values in zip(of_row.items(), content, strict=True)
        ],
        columns=["line", "column", "value", "reason", "row"],
    )


def leave_out(
    table: RawTable, bad: list[BadCell], ordinary: Iterable[tuple[str, Mask, str]]
) -> tuple[Mask, pd.DataFrame, dict[str, int]]:
    """Return the rows to keep, those to list as rejected, and how many are left out for what.

    `ordinary` says which rows are sound and yet no jobs to simulate: a column, a mask, and the
    reason. The first reason of a row counts; bad rows, which may be skipped here, count for none.
    """
    kept = table.rows_but(bad)
    listed = [reject(table, bad, "skip")]
    counts: dict[str, int] = {}
    for column, mask, reason in ordinary:
        rows = np.flatnonzero(mask & kept)
        if not len(rows):
            continue
        kept[rows] = False
        counts[reason] = len(rows)
        content = table.rows.iloc[rows].astype("object")
        written = content.where(content.notna(), "").astype("str")
        listed.append(
            pd.DataFrame(
                {
                    "line": table.lines.iloc[rows].to_numpy(),
                    "column": column,
                    "value": written[column].to_numpy(),
                    "reason": reason,
                    "row": [",".join(cells) for cells in written.to_numpy().tolist()],
                }
            )
        )
    rejected = pd.concat(listed) if len(listed) > 1 else listed[0]
    return kept, rejected.sort_values("line", ignore_index=True), counts


def _problem(cell: BadCell) -> str:
    if not cell.column:
        return f" {cell.reason}"
    value = cell.value
    if len(value) > LONGEST_SHOWN:
        value = f"{value[:LONGEST_SHOWN]}..."
    return f", column {cell.column!r}: {value!r} {cell.reason}"


def pods_of_processors(
    processors: pd.Series[float], per_pod: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Return the columns of jobs whose processors count as GPUs, `per_pod` of them a pod."""
    whole = np.asarray(processors, np.int64)
    num_pods = -(-whole // per_pod)
    each = np.minimum(whole, per_pod)
    last = whole - (num_pods - 1) * each
    return {"num_pods": num_pods, "gpus_per_pod": each, "last_pod_gpus": last}


def settle_columns(table: RawTable, needed: tuple[str, ...]) -> None:
    """Raise TraceError if a column that a published format has is missing."""
    missing = [name for name in needed if name not in table.rows]
    if missing:
        raise TraceError(
            f"{table.source}: column {missing[0]!r} is missing; this format has "
            f"{', '.join(needed)}, the file has {', '.join(map(str, table.rows.columns))}"
        )
    if table.rows.empty:
        raise TraceError(f"{table.source}: it has a header and no rows")


def numbers(
    table: RawTable,
    column: str,
    at_least: float,
    bad: list[BadCell],
    *,
    missing: float | None = None,
    whole: bool = False,
) -> pd.Series[float]:
    """Return a column as numbers; note in `bad` what is not a number, too small, or not whole.

    An empty cell becomes `missing`, if that is given.
    """
    text = table.rows[column]
    values = pd.to_numeric(text, errors="coerce").astype("float64")
    if missing is not None:
        values = values.where(text.notna(), missing)
    right = (values >= at_least) & (values <= (INT_MAX if whole else LARGEST))
    if whole:
        right &= values == np.floor(values)
    kind = "a whole number" if whole else "a number"
    bad += [
        no_number(int(row), column, text.iloc[row], f"{kind}, at least {at_least:g}")
        for row in (~right).to_numpy().nonzero()[0]
    ]
    return values


def unique(table: RawTable, column: str, bad: list[BadCell]) -> pd.Series[str]:
    """Return a column of names; note in `bad` what is empty or stood in an earlier row."""
    names = table.rows[column].fillna("").astype("str")
    bad += bad_names(names, column, table.lines, unit=table.unit)
    return names
