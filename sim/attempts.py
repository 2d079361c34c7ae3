"""Logs that engines fill while they run: plain columns, one row per attempt or batch of pods."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduler.model import Slice

COMPLETED, RENDEZVOUS_TIMEOUT, PERMIT_TIMEOUT, NODE_LOST, UNFINISHED = range(5)
OUTCOMES = ("completed", "rendezvous_timeout", "permit_timeout", "node_lost", "unfinished")


class AttemptLog:
    """One row per attempt, written when it ends; inf where it did not get so far."""

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
