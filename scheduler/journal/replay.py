"""Replay: feed the events of a live session to the core again; it must decide the same."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.core import decisions
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    Considered,
    GangResized,
    GangSubmitted,
)
from scheduler.core.model import Gang, PodShape, Role, of_one_shape
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_us
from scheduler.journal.history import UNREADABLE, check
from scheduler.journal.lines import (
    FORMAT,
    Gap,
    decode_item,
    decode_nodes,
    decode_policy,
    decode_queues,
    ends_whole,
    lines,
)
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.policy import Policy

DECISIONS = (
    decisions.Admit,
    decisions.Reserve,
    decisions.Preempt,
    decisions.Wait,
    Considered,
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How much was replayed, and the first place where the core decided otherwise."""

    num_lines: int
    num_decisions: int
    num_states: int
    difference: str = ""
    gaps: tuple[str, ...] = ()  #: where lines could not be written, and how many


def replay(path: Path) -> Replayed:
    """Feed a journal to the core and compare decisions line by line.

    Raises:
        ValueError: the file is not a journal; the text names the line.
    """
    feed = _Feed()
    for number, line in lines(path):
        feed.num_lines += 1
        place = f"{path}:{number}"
        try:
            difference = feed.take(line, place)
        except UNREADABLE as error:
            raise ValueError(f"{place}: {error}") from None
        if difference:
            return feed.replayed(f"{place}: {difference}")
    if ends_whole(path) and (lacking := feed.lacking()):
        return feed.replayed(f"{path}: the file ends, but {lacking}")
    return feed.replayed()


class _Feed:
    """The core, fed with one line after the other."""

    def __init__(self) -> None:
        self.num_lines = 0
        self._num_decisions = self._num_states = 0
        self._state: ClusterState | None = None
        self._policy: Policy | None = None
        self._zero_unix_s: object = None
        self._expected: deque[decisions.Decision] = deque()
        self._may_lack = False  #: the version that wrote this may have left out a `Wait`
        #: the decision that the next line carries out
        self._undone: decisions.Admit | decisions.Preempt | None = None
        self._told = ""  #: gang of the line before, if that told of its pods
        self._gaps: list[str] = []
        self._format = FORMAT

    def replayed(self, difference: str = "") -> Replayed:
        """Return the sum."""
        return Replayed(
            self.num_lines, self._num_decisions, self._num_states, difference, tuple(self._gaps)
        )

    def lacking(self) -> str:
        """Return which decision of a pass was not met, or nothing."""
        if self._undone is not None:
            return f"{self._undone} was not carried out"
        return f"the core now also decides {self._expected[0]}" if self._expected else ""

    def take(self, line: dict[str, Any], place: str) -> str:
        """Feed a line; return what the core decides otherwise, or nothing.

        Raises:
            ValueError: it is not a journal line.
        """
        if line["is"] == "Snapshot":
            return self._begin(line)
        item = decode_item(line["is"], line["v"])
        check(item)
        if isinstance(item, Gap):
            self._gaps.append(f"{place}: {item.lost} lines lost: {item.why}")
            self._state = None
            self._forget_pass()
            return ""
        state, policy = self._state, self._policy
        if state is None or policy is None:
            raise ValueError("a journal begins with a snapshot")
        if isinstance(item, DECISIONS):
            if self._says_less(item):
                self._num_decisions += 1
                return ""
            if self._undone is not None:
                return f"live {item}, but {self.lacking()}"
            self._num_decisions += 1
            if not self._expected:
                self._may_lack = self._format <= 2 and state.shrank
                self._expected.extend(decide(state, policy, to_us(float(line["t"]))))
            wanted = self._expected.popleft()
            while wanted != item and isinstance(wanted, decisions.Wait):
                if self._says_less(wanted):
                    apply(state, wanted)
                elif not self._may_lack:
                    break
                wanted = self._expected.popleft()
            if wanted != item:
                return f"live {item}; the core now decides {wanted}"
            if isinstance(item, decisions.Admit | decisions.Preempt):
                self._undone = item
                return ""
        elif isinstance(item, Admitted) and isinstance(self._undone, decisions.Admit):
            if (item.gang, item.placement) != (self._undone.gang, self._undone.placement):
                return f"live {item}, but {self.lacking()}"
            self._undone = None
        elif isinstance(item, CapacityClaimed) and isinstance(self._undone, decisions.Preempt):
            made = self._undone
            claimed = (item.gang, item.placement, item.victims)
            if claimed != (made.gang, made.placement, made.victims):
                return f"live {item}, but {self.lacking()}"
            self._undone = None
        elif lacking := self.lacking():
            return f"live {item}, but {lacking}"
        elif isinstance(item, CapacityClaimed) or (
            isinstance(item, Admitted) and item.gang != self._told
        ):
            return f"live {item}, which the core did not decide"
        if self._format == 1 and isinstance(item, GangSubmitted):
            _check_known(item.gang)
        # what runs without a decision of the core is told at once: the pods, and their nodes
        self._told = item.gang.name if isinstance(item, GangSubmitted) else ""
        if isinstance(item, GangResized):
            self._told = item.gang
        apply(state, item)  # type: ignore[arg-type]
        return ""

    def _begin(self, line: dict[str, Any]) -> str:
        same = line.get("zero_unix_s") == self._zero_unix_s and self._state is not None
        if same and (lacking := self.lacking()):
            return f"a snapshot, but {lacking}"
        # another process: the one before was killed, and what it held back went with it
        self._zero_unix_s = line.get("zero_unix_s")
        self._policy = catalog.policy(decode_policy(line["policy"]))
        words = line.get("queues")
        queues = None if words is None else decode_queues(words)
        self._state = ClusterState(decode_nodes(line["nodes"]), self._policy.order, queues)
        self._format = int(line.get("format", 1))
        self._num_states += 1
        self._forget_pass()
        return ""

    def _says_less(self, item: object) -> bool:
        """True for what format 1 said with GPUs in mind only: it is not compared."""
        if self._format > 1 or not isinstance(item, decisions.Wait):
            return False
        return any(
            isinstance(part, PodShape) and part != PodShape(part.gpus)
            for part in (p.pod if isinstance(p, Role) else p for p in item.family)
        )

    def _forget_pass(self) -> None:
        self._expected.clear()
        self._undone = None


def _check_known(gang: Gang) -> None:
    """Refuse what a version that wrote format 1 decided by other rules."""
    if len(gang.roles) > 1 and of_one_shape(gang.roles) is not None:
        names = ", ".join(repr(role.name) for role in gang.roles)
        raise ValueError(
            f"gang {gang.name!r} has equal pods in its roles {names}; the version that wrote "
            "this journal treated them as different and decided otherwise; replay it with that "
            "version"
        )
