"""Every event and decision can be written, read and replayed; so can states with queues."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from scheduler.core import decisions, events
from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, Decision, Preempt, Reserve, Wait
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    CapacityReserved,
    CheckpointSaved,
    ClaimDropped,
    ClusterEvent,
    Considered,
    EvictionsSoFar,
    ForeignPodBound,
    ForeignPodGone,
    GangCancelled,
    GangFinished,
    GangInterrupted,
    GangMends,
    GangResized,
    GangSetAside,
    GangSubmitted,
    GangTakenUp,
    MemberAppeared,
    MemberLost,
    NodeAdded,
    NodeCordoned,
    NodeLost,
    NodeReturned,
    Overtaken,
    PriorityChanged,
    QueuesChanged,
    ReservationReleased,
    UseSoFar,
)
from scheduler.core.model import Gang, Node, PodShape, Role, Selector, Slice
from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Queue,
    Queues,
    Quota,
    Serve,
    Sharing,
    Victims,
    checked,
)
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US, to_us
from scheduler.journal.history import Begin, Entry, Follower, events_of, read
from scheduler.journal.lines import decode_item, encode, lines, snapshot
from scheduler.journal.replay import replay
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.spec import PolicySpec
from tests.scheduler.policies import test_preempting, test_queued

SPEC = PolicySpec()
POLICY = catalog.policy(SPEC)
SHAPE = PodShape(2, 500, 1 << 30, 1, (("example.com/nic", 1),))
ROLE = Role(3, SHAPE, Selector("p|q", "h100"), "worker")
PLACE = (Slice(0, 0, 2, 1), Slice(0, 4, 5, 1))
QUEUES = Queues(
    (Flavor("a", "p", labels={"zone": "x"}), Flavor("b", gpu_model="h100")),
    (Cohort("root"), Cohort("team", "root", 2.0)),
    (
        Queue(
            "q",
            "team",
            0.3,
            {"a": {"gpus": Quota(8, None, 4), "cpu": Quota(1_500)}, "b": {}},
            ("b", "a"),
            Holding.EASY,
            Victims.LOWER_PRIORITY,
            Victims.ANY,
            Victims.LOWER_PRIORITY,
            max_priority=-3,
            min_runtime_s=0.1,
        ),
    ),
    {"ns/local": "q"},
    Sharing(Serve.USAGE, 3600.0, age_priority=5),
)
#: one at least of every kind, with a value other than the usual in each field
EXAMPLES: list[ClusterEvent | Decision] = [
    NodeAdded(Node("n", SHAPE, "p", "h100", ("block", "rack"))),
    NodeCordoned("n"),
    NodeReturned("n"),
    NodeLost("n"),
    GangSubmitted(Gang("g", (ROLE,), 5, 7, -2, "q", 2, 9, evicts=False, evictable=False), 1),
    GangSubmitted(Gang("g", (ROLE,))),
    MemberAppeared("g", 2),
    MemberLost("g", 1, "n"),
    GangFinished("g"),
    GangInterrupted("g"),
    GangCancelled("g"),
    GangResized("g", (ROLE, ROLE), 4),
    CheckpointSaved("g", 12),
    PriorityChanged("g", -1),
    ForeignPodBound("pod", "n", SHAPE),
    ForeignPodGone("pod"),
    CapacityReserved("g", PLACE, FOREVER_US),
    ReservationReleased("g"),
    CapacityClaimed("g", PLACE, ("x", "y")),
    ClaimDropped("g"),
    Admitted("g", PLACE, 3, FOREVER_US),
    Overtaken("g", 3),
    EvictionsSoFar("g", ("x", "y"), 2, leaving=True),
    UseSoFar(5, 4, 64, 0.1, (("q", 8, (10**18 + 1, 3)), ("r", 0, (0.25,))), (("q", 8),)),
    GangMends("g", first=True),
    GangSetAside("g"),
    GangTakenUp("g"),
    QueuesChanged(QUEUES),
    Considered(8, (("g", 5), ("h", FOREVER_US)), 3, (("g", ((0, 1), (2,)), ((0, 4),)),)),
    Admit("g", PLACE),
    Reserve("g", 7, 2),
    Preempt("g", ("x", "y"), PLACE),
    Wait((SHAPE, Selector("p")), 1, 2, "cpu", "gpus"),
    Wait((ROLE, Role(1, PodShape(1), name="master")), 1, 1),
    Wait(((SHAPE, Selector("p")), (0, 1)), 1, 2),
    Wait(((SHAPE, Selector("p")), ()), 1, 2),
    Wait(((ROLE, Role(1, PodShape(1), name="master")), (1,)), 0, 1),
]
KINDS = {*get_args(ClusterEvent), *get_args(Decision)}


def test_no_kind_is_forgotten() -> None:
    """All classes of both modules that drivers and the core exchange are of one of the unions."""
    assert {type(one) for one in EXAMPLES} == KINDS
    parts = {decisions.Shortage, decisions.QuotaShortage, decisions.Offer, decisions.Unmet}
    declared = {
        one
        for module in (events, decisions)
        for one in vars(module).values()
        if hasattr(one, "__dataclass_fields__") and one.__module__ == module.__name__
    }
    assert declared - parts - {decisions.Explanation} == KINDS


@pytest.mark.parametrize("one", EXAMPLES, ids=lambda one: type(one).__name__)
def test_what_is_written_is_read(one: ClusterEvent | Decision) -> None:
    line = json.loads(encode(1.5, one))
    found = decode_item(line["is"], line["v"])
    assert found == one
    assert encode(1.5, found) == encode(1.5, one)


def test_gangs_of_earlier_journals_evict_and_are_evicted() -> None:
    line = json.loads(encode(0.0, GangSubmitted(Gang("g", (ROLE,), evicts=False))))
    line["v"]["gang"] = line["v"]["gang"][:8]
    assert decode_item(line["is"], line["v"]) == GangSubmitted(Gang("g", (ROLE,)))


# -- random worlds -----------------------------------------------------------------------------


def facts(state: ClusterState) -> list[object]:
    """Return what events make of a state, without what passes add to it."""
    assert state.book is not None
    names = state.book.tree.names
    return [
        state.capacity.free_on_each(),
        dict(state.capacity.unschedulable),
        {
            name: (
                m.gang, m.phase, m.missing, m.held, m.present, m.queue, m.overtaken, m.mends,
                m.leaving, m.lost_claims, m.admitted_us, m.saved_us, m.expected_end_us,
            )
            for name, m in state.gangs.items()
        },
        [m.gang.name for m in state.queue.in_order()],
        dict(state.foreign),
        {n: (c.placement, c.amounts, c.victims, c.rest, c.taken) for n, c in state.claims.items()},
        list(state.claims),
        {name: others for name, others in state.gave_way.items() if others},
        state.book.tree.usage,
        state.book.file,
        None if state.past is None else state.past.told(names[: state.book.tree.num_queues]),
    ]  # fmt: skip


def of_passes(state: ClusterState) -> list[object]:
    """Return the rest."""
    return [
        {n: (r.start_us, r.placement, r.valid) for n, r in state.reservations.items()},
        state.grew,
        state.shrank,
        state.until_us,
        state.searched,
        {key: (f.fit_pods, f.free_pods) for key, f in state.queue.families.items()},
        [member.gang.name for member in state.queue.fresh],
        [line.seen and line.seen.gang.name for line in state.queue.lines],
    ]


HEADS = [Serve.BORROWING, Serve.USAGE, Serve.FAIR_TREE, Serve.SHARE]


class World:
    """A random world with queues, of which all that happens is written down."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.draw = random.Random(seed)
        self.file = self.words()
        self.state = ClusterState(test_queued.two_models(), POLICY.order, self.file)
        self.written = [snapshot(0.0, self.state, SPEC)]
        self.at = 0
        for module in (test_queued, test_preempting):
            monkeypatch.setattr(module, "apply", self.apply)

    def words(self) -> Queues:
        file = test_preempting.with_words(self.draw, test_queued.random_queues(self.draw))
        heads = self.draw.choice(HEADS)
        k = 0.5 if heads is Serve.SHARE else 0.0
        file.sharing = Sharing(heads, half_life_s=40.0, k=k)
        return checked(file, "queues.toml")

    def apply(self, state: ClusterState, event: ClusterEvent | Decision) -> None:
        apply(state, event)
        if state.under_trial is None:
            self.tell(event)

    def tell(self, event: object) -> None:
        self.written.append(encode(float(self.at), event))

    def steps(self, count: int) -> Iterator[None]:
        """Let something happen; yield between a pass and the next event."""
        draw, state = self.draw, self.state
        for at in range(count):
            self.at = at
            if draw.random() < 0.05:
                more = self.words()
                more.queues = self.file.queues
                more.cohorts = self.file.cohorts
                self.apply(state, QueuesChanged(checked(more, "queues.toml")))
            test_queued.random_event(draw, state, self.file, at)
            for name in list(state.reservations):
                self.apply(state, ReservationReleased(name))
            self.decide()
            yield
            for member in [m for m in state.gangs.values() if m.held and draw.random() < 0.3]:
                name = member.gang.name
                if member.leaving:
                    self.apply(state, GangInterrupted(name))
                else:
                    self.apply(state, CheckpointSaved(name, to_us(float(at))))
            for name in list(state.claims):
                if draw.random() < 0.05:
                    self.apply(state, ClaimDropped(name))

    def decide(self) -> None:
        """Run a pass to its end."""
        now_us = to_us(float(self.at))
        while True:
            for made in decide(self.state, POLICY, now_us):
                if isinstance(made, Admit | Preempt):
                    self.tell(made)
                if isinstance(made, Admit):
                    end_us = now_us + to_us(20.0)
                    self.apply(self.state, Admitted(made.gang, made.placement, now_us, end_us))
                elif isinstance(made, Preempt):
                    self.apply(self.state, CapacityClaimed(made.gang, made.placement, made.victims))
                else:
                    self.apply(self.state, made)
                    if isinstance(made, Considered) and self.state.until_us > now_us:
                        return


Build = Callable[[int], World]
SEEDS = range(12)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Build:
    return lambda seed: World(seed, monkeypatch)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_journal_with_queues_makes_the_same_state_and_decisions(
    seed: int, world: Build, tmp_path: Path
) -> None:
    live = world(seed)
    for _ in live.steps(80):
        pass
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in live.written))
    follower = Follower()
    for entry in read([path]):
        follower.follow(entry)
    assert facts(follower.state) == facts(live.state)
    assert of_passes(follower.state) == of_passes(live.state)
    done = replay(path)
    assert (done.difference, done.num_states) == ("", 1)
    assert done.num_decisions == sum(
        line["is"] in {kind.__name__ for kind in get_args(Decision)} for _, line in lines(path)
    )


def rebuilt(state: ClusterState) -> ClusterState:
    """Return the state that its own events make, written and read."""
    assert state.book is not None
    follower = Follower()
    follower.follow(
        Entry("start", 0.0, Begin(state.capacity.nodes, SPEC, 0.0, 0.0, state.book.file))
    )
    for event in events_of(state):
        line = json.loads(encode(0.0, event))
        follower.follow(Entry("then", 0.0, decode_item(line["is"], line["v"])))  # type: ignore[arg-type]
    return follower.state


@pytest.mark.parametrize("seed", SEEDS)
def test_a_state_with_queues_is_rebuilt_from_its_events(seed: int, world: Build) -> None:
    live = world(100 + seed)
    num_claims = num_leaving = 0
    for _ in live.steps(80):
        copy = rebuilt(live.state)
        validate(copy)
        for mine, theirs in zip(facts(live.state), facts(copy), strict=True):
            assert theirs == mine
        num_claims += len(live.state.claims)
        num_leaving += sum(member.leaving for member in live.state.gangs.values())
    if seed == 0:  # what it is about happens
        assert num_claims and num_leaving and live.state.gave_way
