"""Arithmetic of step functions: the exact curves that a run records instead of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from sim.schema.tables import REASONS

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Steps:
    """Curves that change together: row i holds from `time_s[i]` to the next time or `end_s`."""

    time_s: Floats  #: [num_steps], strictly increasing, the first at the start of the curve
    values: Counts  #: [num_steps, num_columns]
    columns: tuple[str, ...]
    end_s: float

    @property
    def widths_s(self) -> Floats:
        """How long each row holds [num_steps]."""
        return np.diff(np.append(self.time_s, self.end_s))

    def column(self, name: str) -> Counts:
        """Return one curve [num_steps]."""
        curve: Counts = self.values[:, self.columns.index(name)]
        return curve

    def total(self) -> Counts:
        """Return the sum of all curves [num_steps]."""
        return np.asarray(self.values.sum(axis=1), dtype=np.int64)

    def at(self, time_s: float) -> Counts:
        """Return all values at one time [num_columns]; zeros outside the curve."""
        row = int(np.searchsorted(self.time_s, time_s, side="right")) - 1
        if row < 0 or time_s > self.end_s:
            return np.zeros(len(self.columns), dtype=np.int64)
        values: Counts = self.values[row]
        return values

    def integral(self) -> Floats:
        """Return value x seconds of every column [num_columns]."""
        return np.asarray(self.widths_s @ self.values, dtype=np.float64)

    def clip(self, start_s: float, end_s: float) -> Steps:
        """Return the part between two times; the value that holds at `start_s` comes first."""
        first = max(int(np.searchsorted(self.time_s, start_s, side="right")) - 1, 0)
        last = max(int(np.searchsorted(self.time_s, end_s, side="left")), first + 1)
        time_s = self.time_s[first:last].copy()
        time_s[0] = start_s
        return Steps(time_s, self.values[first:last], self.columns, end_s)

    def thin(self, num_bins: int) -> Steps:
        """Return what a picture `num_bins` pixels wide can show of the curves.

        In every bin the rows with the lowest and with the highest total and the last row stay, in
        their order, with all their columns: peaks survive, every row kept is a state that really
        occurred, and bins in which nothing changes show the state that held in them. Curves of no
        more rows than that stay as they are.
        """
        if len(self.time_s) <= 3 * num_bins:
            return self
        start_s = float(self.time_s[0])
        span_s = self.end_s - start_s
        total = self.total()
        bin_of = ((self.time_s - start_s) * (num_bins / span_s)).astype(np.int64)
        by_total = np.lexsort((total, bin_of))
        edges = np.flatnonzero(np.diff(bin_of[by_total], prepend=-1))
        lowest = by_total[edges]
        highest = by_total[np.append(edges[1:], len(by_total)) - 1]
        last = np.flatnonzero(np.diff(bin_of, append=-1))
        keep = np.unique(np.concatenate((lowest, highest, last, [0])))
        return Steps(self.time_s[keep], self.values[keep], self.columns, self.end_s)


def constant(columns: Sequence[str], start_s: float, end_s: float) -> Steps:
    """Return curves that are zero from `start_s` to `end_s`."""
    values = np.zeros((1, len(columns)), dtype=np.int64)
    return Steps(np.array([start_s]), values, tuple(columns), end_s)


def pending_steps(pending: pd.DataFrame, end_s: float, quantity: str = "pods") -> Steps:
    """Return the pending curves from time 0 on, one column per reason in stacking order.

    `quantity` is `pods` or `gpus`. Of several rows of a reason at one time the last counts.
    """
    columns = tuple(str(reason) for reason in REASONS)
    if pending.empty:
        return constant(columns, 0.0, end_s)
    at = pending["time_s"].to_numpy(np.float64)
    order = np.argsort(at, kind="stable")
    time_s, step = np.unique(np.append(0.0, at[order]), return_inverse=True)
    step = step[1:]
    level = pending[quantity].to_numpy(np.int64)[order]
    reasons = _whole(pa.array(pending["reason"])).dictionary_encode()
    number = {name: index for index, name in enumerate(columns)}
    codes = np.array([number.get(str(name), -1) for name in reasons.dictionary.to_pylist()])
    code = codes[reasons.indices.to_numpy()][order]
    values = np.zeros((len(time_s), len(columns)), dtype=np.int64)
    for index in range(len(columns)):
        mine = code == index
        _hold(values[:, index], step[mine], level[mine])
    return Steps(time_s, values, columns, max(end_s, float(time_s[-1])))


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def allocation_steps(allocation: pd.DataFrame, end_s: float) -> Steps:
    """Return the curves of the allocation table from time 0 on."""
    columns = ("allocated_gpus", "useful_gpus", "unavailable_gpus")
    if allocation.empty:
        return constant(columns, 0.0, end_s)
    at = allocation["time_s"].to_numpy(np.float64)
    order = np.argsort(at, kind="stable")
    time_s, step = np.unique(np.append(0.0, at[order]), return_inverse=True)
    values = np.zeros((len(time_s), len(columns)), dtype=np.int64)
    for index, name in enumerate(columns):
        _hold(values[:, index], step[1:], allocation[name].to_numpy(np.int64)[order])
    return Steps(time_s, values, columns, max(end_s, float(time_s[-1])))


def _hold(into: Counts, step: NDArray[np.intp], level: Counts) -> None:
    """Write `level[k]` from row `step[k]` on; rows before the first step stay zero."""
    last = np.full(len(into), -1, dtype=np.int64)
    last[step] = np.arange(len(step))
    np.maximum.accumulate(last, out=last)
    known = last >= 0
    into[known] = level[last[known]]


def count_quantiles(counts: Counts, weights: Floats, at: Sequence[float]) -> Floats:
    """Return, for each q in `at`, the smallest count that holds for a share q of the weight.

    NaN where there is no weight at all. Counts are not negative.
    """
    if len(counts) == 0 or float(weights.sum()) <= 0:
        return np.full(len(at), np.nan)
    reached = np.cumsum(np.bincount(counts, weights=weights))
    wanted = np.asarray(at, dtype=np.float64) * reached[-1] * (1 - 1e-12)
    return np.asarray(np.searchsorted(reached, wanted, side="left"), dtype=np.float64)
