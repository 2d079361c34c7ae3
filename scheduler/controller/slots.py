"""Slots: a node for each rank of a gang, in a state that changes only by named steps.

    planned -> telling -> released -> bound -> ending
       ^          |           |         |        |
       |          +-> planned +-> cleared        v
       +------ vacant <- (a pod that is gone)   gone

From each state a slot may be given back; what is gone stays gone. A step that is none of these is
an error of muster, and says what led to it.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import NamedTuple

from scheduler.core.model import PodShape
from scheduler.workloads.gangs import Rank

ZERO = PodShape(0)
MOST_STEPS = 32  #: of one slot that are remembered


class SlotState(StrEnum):
    """How far a slot has come."""

    PLANNED = "planned"  #: a pod has the node, and nobody knows of it
    TELLING = "telling"  #: a write is under way, or was not answered: somebody may bind the pod
    RELEASED = "released"  #: the write succeeded; kube-scheduler may bind the pod at any time
    CLEARED = "cleared"  #: it was released, and the API server says that it is not bound
    BOUND = "bound"
    VACANT = "vacant"  #: its pod is gone; the node is kept for the one that comes after it
    ENDING = "ending"  #: its pod was evicted with the gang, or is overdue: nobody comes after it
    GONE = "gone"  #: given back


_PLANNED, _TELLING, _RELEASED = SlotState.PLANNED, SlotState.TELLING, SlotState.RELEASED
_CLEARED, _BOUND, _VACANT = SlotState.CLEARED, SlotState.BOUND, SlotState.VACANT
_ENDING, _GONE = SlotState.ENDING, SlotState.GONE
_UNBOUND = (_PLANNED, _TELLING, _RELEASED, _CLEARED)


class Step(NamedTuple):
    """One change of a slot."""

    at_s: float
    state: SlotState
    cause: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.at_s:.3f} s {self.state}: {self.cause}"


class IllegalStepError(Exception):
    """A slot was to take a step that its state does not allow; lists the steps before it."""

    def __init__(self, slot: Slot, cause: str) -> None:
        story = "; ".join(map(str, slot.story))
        super().__init__(
            f"slot of rank {slot.rank.role}-{slot.rank.number} on {slot.node} is {slot.state} "
            f"and cannot be {cause!r}; its history: {story}"
        )


class Plan(NamedTuple):
    """The common data of slots that were planned together."""

    generation: int  #: counts the plans of a gang
    num_pods: int  #: 0 if they were found bound


class Slot:
    """A node for one rank."""

    __slots__ = (
        "attempt", "deadline_s", "is_bound", "is_denied", "is_held", "is_noted", "is_passed",
        "is_told", "is_void", "node", "num_failed", "num_lives", "num_told", "num_writing", "part",
        "plan", "queued_s", "rank", "shape", "since_s", "state", "story", "told_s", "uid",
    )  # fmt: skip

    def __init__(
        self,
        rank: Rank,
        node: str,
        uid: str,
        plan: Plan,
        now_s: float,
        state: SlotState = _PLANNED,
        cause: str = "planned",
    ) -> None:
        self.rank = rank
        self.node = node
        self.uid = uid  #: of the pod that has it; empty while its successor is awaited
        self.plan = plan
        self.part = ""  #: of the gang's request
        self.shape = ZERO
        self.attempt = 0  #: of a JobSet that starts again, which counts them
        self.deadline_s = 0.0  #: told by then or not, its pod is bound, or gives it up; 0: not told
        self.told_s = now_s  #: since when its scheduler may bind it
        self.queued_s = now_s  #: since when it stands in its scheduler's queue
        self.is_passed = False  #: by its scheduler, in favour of pods that were told later
        self.is_void = False  #: its plan must not be carried out
        self.is_noted = False  #: it was written down that its node is kept
        self.num_told = 0  #: attempts to tell this pod
        self.is_denied = False  #: the last was refused: by rights, a policy, a webhook that is gone
        self.num_writing = 0  #: binds under way: what the API server says may change yet
        self.num_lives = 1  #: pods that had it
        self.num_failed = 0  #: of them, the latest in a row that failed before they started
        self.story: deque[Step] = deque(maxlen=MOST_STEPS)
        self._be(state, now_s, cause)

    def _be(self, state: SlotState, now_s: float, cause: str) -> None:
        self.state, self.since_s = state, now_s
        # worked out here, as each is asked for by every look at the gang
        #: its pod has the node for good, whether it stays or goes
        self.is_bound = state is _BOUND or state is _ENDING
        #: somebody else may know of it and nobody has bound its pod yet
        self.is_told = state is _TELLING or state is _RELEASED or state is _CLEARED
        #: the node is the gang's, now or for a rank that comes again
        self.is_held = state is not _ENDING and state is not _GONE
        self.story.append(Step(now_s, state, cause))

    # -- what it is ----------------------------------------------------------------------------

    def is_of(self, uid: str) -> bool:
        """True if it is this pod's."""
        return self.uid == uid and self.state is not _GONE

    # -- steps ---------------------------------------------------------------------------------

    def telling(self, now_s: float, who: str) -> None:
        """Somebody may bind the pod from now on."""
        if self.state is _PLANNED:
            self._step(_TELLING, now_s, f"{who} may bind it", _PLANNED)
        elif self.state is _CLEARED:
            self._step(_RELEASED, now_s, f"{who} may bind it after all", _CLEARED)
        elif not (self.is_told or self.state is _BOUND):
            raise IllegalStepError(self, f"bound by {who}")

    def released(self, now_s: float) -> None:
        """The write to the pod succeeded."""
        if self.state is not _BOUND:  # the watch may have been faster than the answer
            self.told_s = self.queued_s = now_s
            self.is_passed = False
            self._step(_RELEASED, now_s, "the write succeeded", _TELLING, _RELEASED)

    def queues(self, now_s: float) -> None:
        """Its scheduler puts the pod behind all others: it is new there, or was not bound yet."""
        self.queued_s, self.is_passed = now_s, False

    def cleared(self, now_s: float) -> None:
        """The API server says that the pod is not bound, and no write is in flight."""
        to = _PLANNED if self.state is _TELLING else _CLEARED
        self._step(to, now_s, "the API server says that it is not bound", _TELLING, _RELEASED)

    def trusted(self, now_s: float) -> None:
        """It need not be given up after all: whether it is bound is no longer known."""
        self._step(_RELEASED, now_s, "its node serves again", _CLEARED)

    def bound(self, now_s: float, node: str) -> None:
        """The pod is on a node, which others than muster may have chosen."""
        if not self.is_bound or node != self.node:
            self.node = node
            self._step(_BOUND, now_s, f"bound to {node}", *_UNBOUND)

    def vacated(self, now_s: float) -> None:
        """The pod is gone, and its successor may have the node."""
        self._step(_VACANT, now_s, f"pod {self.uid} is gone", *_UNBOUND, _BOUND)
        self.uid, self.is_noted = "", False

    def filled(self, now_s: float, uid: str, rank: Rank) -> None:
        """The pod of its rank was recreated."""
        self._step(_PLANNED, now_s, f"pod {uid} replaced it", _VACANT)
        self.uid, self.rank = uid, rank
        self.num_told, self.deadline_s = 0, 0.0
        self.num_lives += 1

    def ending(self, now_s: float, cause: str = "evicted with its gang") -> None:
        """The pod is evicted with its gang, or should be gone by now."""
        self._step(_ENDING, now_s, cause, _BOUND)

    def stays(self, now_s: float) -> None:
        """The pod may not be evicted."""
        self._step(_BOUND, now_s, "its eviction was refused", _ENDING)

    def gone(self, now_s: float, cause: str) -> None:
        """The node is given back."""
        self._step(_GONE, now_s, cause, *_UNBOUND, _BOUND, _VACANT, _ENDING)

    def _step(self, to: SlotState, now_s: float, cause: str, *may: SlotState) -> None:
        if self.state not in may:
            raise IllegalStepError(self, cause)
        self._be(to, now_s, cause)
