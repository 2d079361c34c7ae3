"""Logs that engines fill while they run: plain columns, one row per attempt or batch of pods."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import inf
from struct import Struct
from typing import ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import Placement, Slice

OUTCOMES = (
    "completed",
    "rendezvous_timeout",
    "permit_timeout",
    "node_lost",
    "unfinished",
    "killed",
    "preempted",
)
(
    COMPLETED,
    RENDEZVOUS_TIMEOUT,
    PERMIT_TIMEOUT,
    NODE_LOST,
    UNFINISHED,
    KILLED,
    PREEMPTED,
) = range(len(OUTCOMES))


_ROW: Final = Struct("=11d")
_END: Final = Struct("=3d")  #: end, outcome, kept
_SLICE: Final = Struct("=4q")
_END_AT: Final = 8 * 8
_pack_row: Final = _ROW.pack
_pack_slice: Final = _SLICE.pack


class Attempts(NamedTuple):
    """Attempts as columns; times are inf where an attempt did not get so far."""

    job: NDArray[np.int64]
    created_s: NDArray[np.float64]
    admitted_s: NDArray[np.float64]
    bound_s: NDArray[np.float64]
    starting_s: NDArray[np.float64]  #: from bind to running, for each pod
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    outcome: NDArray[np.int8]
    num_nodes: NDArray[np.int64]
    kept_s: NDArray[np.float64]  #: run time that counts towards the job


class GangLog:
    """Attempts of gangs, which are admitted whole: one row each, written at admission.

    Rows are packed as they come, because that is cheapest; columns are built afterwards.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "job",
        "created_s",
        "admitted_s",
        "begin_s",
        "tokens",
        "bound_s",
        "starting_s",
        "start_s",
        "end_s",
        "outcome",
        "kept_s",
    )

    __slots__ = ("_held", "_num_rows", "_rows")

    def __init__(self) -> None:
        self._rows = bytearray()
        self._held = bytearray()
        self._num_rows = 0

    def open(
        self,
        job: int,
        created_s: float,
        admitted_s: float,
        begin_s: float,
        tokens: float,
        bound_s: float,
        starting_s: float,
        start_s: float,
    ) -> int:
        """Note that an attempt begins; return its row."""
        self._rows += _pack_row(
            job,
            created_s,
            admitted_s,
            begin_s,
            tokens,
            bound_s,
            starting_s,
            start_s,
            inf,
            UNFINISHED,
            0.0,
        )
        self._num_rows += 1
        return self._num_rows - 1

    def hold(self, row: int, placement: Placement, role_gpus: Sequence[int]) -> None:
        """Note which nodes an attempt holds; its pods have these GPUs by role."""
        for role, lo, hi, pods_per_node in placement:
            self._held += _pack_slice(row, lo, hi, role_gpus[role] * pods_per_node)

    def close(self, row: int, end_s: float, outcome: int, kept_s: float) -> None:
        """Write how an attempt ended."""
        _END.pack_into(self._rows, row * _ROW.size + _END_AT, end_s, outcome, kept_s)

    def _column(self, name: str) -> NDArray[np.float64]:
        rows = np.frombuffer(self._rows, np.float64).reshape(-1, len(self.COLUMNS))
        return np.ascontiguousarray(rows[:, self.COLUMNS.index(name)])

    def columns(self) -> Attempts:
        """Return the rows as arrays."""
        row, lo, hi, _ = self._slices()
        return Attempts(
            self._column("job").astype(np.int64),
            self._column("created_s"),
            self._column("admitted_s"),
            self._column("bound_s"),
            self._column("starting_s"),
            self._column("start_s"),
            self._column("end_s"),
            self._column("outcome").astype(np.int8),
            np.bincount(row, weights=hi - lo, minlength=len(self)).astype(np.int64),
            self._column("kept_s"),
        )

    def __len__(self) -> int:
        return self._num_rows

    def _slices(self) -> tuple[NDArray[np.int64], ...]:
        row, lo, hi, gpus = np.frombuffer(self._held, np.int64).reshape(-1, 4).T
        return row, lo, hi, gpus

    def batches(
        self, num_pods: NDArray[np.int64], gpus_per_pod: NDArray[np.int64], gpus: NDArray[np.int64]
    ) -> Batches:
        """Return one batch per attempt, from pods, GPUs per pod and GPUs of each job."""
        job = self._column("job").astype(np.int64)
        admitted_s = self._column("admitted_s")
        return Batches(
            np.arange(len(job)),
            admitted_s,
            admitted_s,
            self._column("begin_s"),
            self._column("tokens"),
            num_pods[job],
            gpus_per_pod[job],
            gpus[job],
        )

    def node_gpu_s(self, num_nodes: int) -> NDArray[np.float64]:
        """Return GPU-seconds held on each node."""
        row, lo, hi, gpus = self._slices()
        held_s = (self._column("end_s") - self._column("admitted_s"))[row] * gpus
        change = np.bincount(lo, weights=held_s, minlength=num_nodes + 1)
        change -= np.bincount(hi, weights=held_s, minlength=num_nodes + 1)
        return np.maximum(np.cumsum(change)[:num_nodes], 0.0)


class AttemptLog:
    """Attempts of gangs whose pods are placed one by one: one row each, written when it ends."""

    __slots__ = (
        "admitted_s",
        "bound_s",
        "created_s",
        "end_s",
        "job",
        "kept_s",
        "num_nodes",
        "outcome",
        "start_s",
        "starting_s",
    )

    def __init__(self) -> None:
        self.job = array("q")
        self.created_s = array("d")
        self.admitted_s = array("d")
        self.bound_s = array("d")
        self.starting_s = array("d")  #: from bind to running, for each pod
        self.start_s = array("d")
        self.end_s = array("d")
        self.outcome = array("b")
        self.num_nodes = array("q")
        self.kept_s = array("d")  #: run time that counts towards the job

    def columns(self) -> Attempts:
        """Return the rows as arrays."""
        return Attempts(
            np.frombuffer(self.job, np.int64),
            np.frombuffer(self.created_s, np.float64),
            np.frombuffer(self.admitted_s, np.float64),
            np.frombuffer(self.bound_s, np.float64),
            np.frombuffer(self.starting_s, np.float64),
            np.frombuffer(self.start_s, np.float64),
            np.frombuffer(self.end_s, np.float64),
            np.frombuffer(self.outcome, np.int8),
            np.frombuffer(self.num_nodes, np.int64),
            np.frombuffer(self.kept_s, np.float64),
        )

    def add(
        self,
        job: int,
        created_s: float,
        admitted_s: float,
        bound_s: float,
        starting_s: float,
        start_s: float,
        end_s: float,
        outcome: int,
        num_nodes: int,
        kept_s: float,
    ) -> None:
        """Append a row."""
        self.job.append(job)
        self.created_s.append(created_s)
        self.admitted_s.append(admitted_s)
        self.bound_s.append(bound_s)
        self.starting_s.append(starting_s)
        self.start_s.append(start_s)
        self.end_s.append(end_s)
        self.outcome.append(outcome)
        self.num_nodes.append(num_nodes)
        self.kept_s.append(kept_s)


class Batches(NamedTuple):
    """Pods of one attempt that were placed together, as columns."""

    attempt: NDArray[np.int64]  #: row in the attempt log
    placed_s: NDArray[np.float64]
    asked_s: NDArray[np.float64]  #: the binder was asked; inf if it never was
    begin_s: NDArray[np.float64]  #: its turn began
    tokens: NDArray[np.float64]  #: in the binder's bucket then
    pods: NDArray[np.int64]
    gpus_per_pod: NDArray[np.int64]
    gpus: NDArray[np.int64]


class BatchLog:
    """One row per batch."""

    __slots__ = ("asked_s", "attempt", "begin_s", "gpus_per_pod", "placed_s", "pods", "tokens")

    def __init__(self) -> None:
        self.attempt = array("q")
        self.placed_s = array("d")
        self.asked_s = array("d")
        self.begin_s = array("d")
        self.tokens = array("d")
        self.pods = array("q")
        self.gpus_per_pod = array("q")

    def add(
        self,
        attempt: int,
        placed_s: float,
        asked_s: float,
        begin_s: float,
        tokens: float,
        pods: int,
        gpus_per_pod: int,
    ) -> None:
        """Append a row."""
        self.attempt.append(attempt)
        self.placed_s.append(placed_s)
        self.asked_s.append(asked_s)
        self.begin_s.append(begin_s)
        self.tokens.append(tokens)
        self.pods.append(pods)
        self.gpus_per_pod.append(gpus_per_pod)

    def columns(self) -> Batches:
        """Return the rows as arrays."""
        pods = np.frombuffer(self.pods, np.int64)
        gpus_per_pod = np.frombuffer(self.gpus_per_pod, np.int64)
        return Batches(
            np.frombuffer(self.attempt, np.int64),
            np.frombuffer(self.placed_s, np.float64),
            np.frombuffer(self.asked_s, np.float64),
            np.frombuffer(self.begin_s, np.float64),
            np.frombuffer(self.tokens, np.float64),
            pods,
            gpus_per_pod,
            pods * gpus_per_pod,
        )


class NodeUse:
    """GPU-seconds held on each node, kept as differences along the node index."""

    __slots__ = ("differences",)

    def __init__(self, num_nodes: int) -> None:
        self.differences = [0.0] * (num_nodes + 1)

    def add(self, role_gpus: tuple[int, ...], held: list[Slice], seconds: float) -> int:
        """Note that `held` was held for so long; return the number of nodes."""
        differences = self.differences
        num_nodes = 0
        for role, lo, hi, pods_per_node in held:
            amount = role_gpus[role] * pods_per_node * seconds
            differences[lo] += amount
            differences[hi] -= amount
            num_nodes += hi - lo
        return num_nodes

    def gpu_s(self) -> NDArray[np.float64]:
        """Return GPU-seconds per node."""
        held: NDArray[np.float64] = np.cumsum(self.differences)[:-1]
        return np.maximum(held, 0.0)
