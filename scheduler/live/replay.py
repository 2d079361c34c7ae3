"""Replay: the events of a live session go through the core again, and it must decide the same."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from scheduler import catalog, decisions
from scheduler.events import Considered
from scheduler.live.journal import decode_item, decode_nodes, lines
from scheduler.policy import Policy, decide
from scheduler.state import ClusterState, apply

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


def replay(path: Path) -> Replayed:
    """Feed a journal to the core and compare decisions line by line.

    Raises:
        ValueError: the file is no journal; the text names the line.
    """
    state: ClusterState | None = None
    policy: Policy | None = None
    expected: deque[decisions.Decision] = deque()
    num_lines = num_decisions = num_states = 0
    for number, line in lines(path):
        num_lines += 1
        if line["is"] == "Snapshot":
            names = line["policy"]
            policy = catalog.policy(
                names["order"], names["discipline"], names["backfill"], names["placement"]
            )
            state = ClusterState(decode_nodes(line["nodes"]), order=policy.order)
            expected.clear()
            num_states += 1
            continue
        if state is None or policy is None:
            raise ValueError(f"{path}:{number}: a journal begins with a snapshot")
        try:
            item = decode_item(line["is"], line["v"])
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        if isinstance(item, DECISIONS):
            num_decisions += 1
            if not expected:
                expected.extend(decide(state, policy, float(line["t"])))
            wanted = expected.popleft()
            if wanted != item:
                text = f"{path}:{number}: live {item}; the core now decides {wanted}"
                return Replayed(num_lines, num_decisions, num_states, text)
            if isinstance(item, decisions.Admit):
                continue
        apply(state, item)  # type: ignore[arg-type]
    return Replayed(num_lines, num_decisions, num_states)
