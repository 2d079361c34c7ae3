"""Schedules worked out by hand, one file for each discipline: they hold in every driver.

A file has the words of the policy, the jobs, and the drawing of what must come of them.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, PendingReason
from scheduler.core.events import Admitted, ClusterEvent, Considered, GangFinished, GangSubmitted
from scheduler.core.model import Gang, Node, PodShape, Role
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import ends_us, to_s, to_us
from scheduler.journal.lines import encode, snapshot
from scheduler.journal.replay import replay
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.explain import explain
from scheduler.policies.spec import PolicySpec
from sim import run
from tests.theory.test_easy_by_hand import Drawn, read_drawing

FILES = sorted((Path(__file__).parent / "schedules").glob("*.toml"))

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


class Schedule(msgspec.Struct, forbid_unknown_fields=True):
    """A file of `schedules/`."""

    gpus: int  #: of the one node
    jobs: list[tuple[str, float, float, float, int]]
    drawing: str
    policy: PolicySpec

    def starts_s(self) -> dict[str, float]:
        """Return when each job starts in the drawing."""
        return {name: float(job.start_s) for name, job in read_drawing(self.drawing).items()}


def read(file: Path) -> Schedule:
    fields: dict[str, Any] = msgspec.toml.decode(file.read_bytes())
    words = {name: fields.pop(name) for name in catalog.KEYS if name in fields}
    return msgspec.convert({**fields, "policy": catalog.read(words)}, Schedule)


def test_every_discipline_has_a_file() -> None:
    assert {read(file).policy.discipline for file in FILES} == set(catalog.DISCIPLINES)


@each_file
def test_the_simulator_draws_it(file: Path) -> None:
    schedule = read(file)
    jobs = pd.DataFrame(
        schedule.jobs, columns=["job", "submit_s", "walltime_s", "duration_s", "num_pods"]
    ).assign(gpus_per_pod=1)
    result = run(jobs, nodes=1, gpus_per_node=schedule.gpus, policy=schedule.policy, audit=True)
    found = {
        row.Index: Drawn(row.start_s, row.end_s, row.gpus)
        for row in result.jobs.set_index("job").itertuples()
    }
    assert found == read_drawing(schedule.drawing)


@each_file
def test_a_journal_of_it_replays_and_every_wait_has_a_reason(file: Path, tmp_path: Path) -> None:
    schedule = read(file)
    session = Session(schedule)
    assert session.play() == schedule.starts_s()
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b"".join(line + b"\n" for line in session.lines))
    replayed = replay(journal)
    assert not replayed.difference
    assert replayed.num_decisions > len(schedule.jobs)
    assert session.reasons


class Session:
    """A driver that writes a journal as a live muster does, and asks why each gang waits."""

    def __init__(self, schedule: Schedule) -> None:
        self.policy = catalog.policy(schedule.policy)
        self.state = ClusterState([Node("n", PodShape(schedule.gpus))], self.policy.order)
        self.lines = [snapshot(0.0, self.state, schedule.policy)]
        self.starts_s: dict[str, float] = {}
        self.reasons: set[PendingReason] = set()
        self.now_s = 0.0
        self.duration_s = {name: duration for name, _, _, duration, _ in schedule.jobs}
        #: (time, whether it is a submission, number, gang)
        self.due: list[tuple[float, bool, int, Gang]] = []
        for at, (name, submit_s, walltime_s, _, pods) in enumerate(schedule.jobs):
            role = Role(pods, PodShape(1))
            gang = Gang(name, (role,), to_us(submit_s), to_us(walltime_s), ordinal=at)
            self.due.append((submit_s, True, at, gang))
        heapify(self.due)

    def tell(self, item: ClusterEvent) -> None:
        apply(self.state, item)
        self.lines.append(encode(self.now_s, item))

    def play(self) -> dict[str, float]:
        """Let everything happen; return when each gang started."""
        until_s = inf
        while self.due or until_s < inf:
            self.now_s = min(until_s, self.due[0][0] if self.due else inf)
            while self.due and self.due[0][0] == self.now_s:
                _, is_new, _, gang = heappop(self.due)
                self.tell(GangSubmitted(gang) if is_new else GangFinished(gang.name))
            until_s = self.let_pass()
            validate(self.state)
            self.ask_why()
        return self.starts_s

    def let_pass(self) -> float:
        """Run a pass to its end; return when to come back."""
        now_us = to_us(self.now_s)
        while True:
            for decision in decide(self.state, self.policy, now_us):
                if isinstance(decision, Admit):
                    self.lines.append(encode(self.now_s, decision))
                    gang = self.state.gangs[decision.gang].gang
                    end_us = ends_us(now_us, gang.walltime_us)
                    self.tell(Admitted(gang.name, decision.placement, now_us, end_us))
                    self.starts_s[gang.name] = self.now_s
                    end_s = self.now_s + self.duration_s[gang.name]
                    heappush(self.due, (end_s, False, gang.ordinal, gang))
                else:
                    self.tell(decision)  # type: ignore[arg-type]
                    if isinstance(decision, Considered):
                        return to_s(decision.until_us)

    def ask_why(self) -> None:
        """Every gang that waits has a reason; one that would fit names the head it is behind."""
        head = self.state.queue.head()
        for name in self.state.queue.members:
            said = explain(self.state, name)
            self.reasons.add(said.reason)
            if said.reason is PendingReason.BEHIND_HEAD:
                assert head is not None
                assert said.ahead == head.gang.name
