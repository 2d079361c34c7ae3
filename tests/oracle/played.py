"""Small worlds of queues, played through `apply` and `decide` event by event.

A world is nodes, a queues file and jobs. Whoever is evicted leaves after its grace, has lost its
work, and queues again at once. Every step is checked: the state recomputed from scratch, whole
gangs inside one flavor per role, nobody above quota, and nobody evicted who is within nominal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, Decision, Preempt
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    ClaimDropped,
    ClusterEvent,
    Considered,
    GangFinished,
    GangInterrupted,
    GangSubmitted,
    NodeLost,
    NodeReturned,
)
from scheduler.core.model import Gang, Node, PodShape, Role, Selector
from scheduler.core.queues import Queues
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US, ends_us, to_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.policy import Policy
from scheduler.policies.spec import PolicySpec

POLICY = catalog.policy(PolicySpec())


@dataclass(frozen=True)
class Asks:
    """A job: pods of some GPUs each, for so long."""

    name: str
    queue: str
    submit_s: int
    duration_s: int
    num_pods: int
    gpus: int = 1  #: of each pod
    priority: int = 0
    walltime_s: int = 0  #: 0: that of its duration
    grace_s: int = 0  #: from its eviction until it has left
    model: str = ""  #: the GPU model of its nodes; empty: any
    is_stuck: bool = False  #: it never leaves on its own; the claim is dropped after the grace


@dataclass
class World:
    """What is played."""

    nodes: list[Node]
    queues: Queues
    jobs: list[Asks]
    outages: list[tuple[int, int, str]] = field(default_factory=list)  #: from, to, node
    policy: Policy = POLICY

    @property
    def longest_s(self) -> int:
        """The longest run time of a job."""
        return max(job.duration_s for job in self.jobs)


@dataclass
class Eviction:
    """A decision to evict."""

    at_s: int
    gang: str
    victims: tuple[str, ...]
    ended: str = ""  #: why it came to its end: started, or what became of the claim


#: called before each decision, to make the state forget what it remembers
Forget = Callable[[ClusterState], None]


class Played:
    """One world from the first event to the last."""

    def __init__(self, world: World, forget: Forget | None = None, audit: bool = True) -> None:
        self.world = world
        self.state = ClusterState(world.nodes, world.policy.order, world.queues)
        self.asks = {job.name: job for job in world.jobs}
        self.starts: dict[str, list[int]] = {job.name: [] for job in world.jobs}
        self.ends: dict[str, int] = {}
        self.evictions: list[Eviction] = []
        self.made: list[
            tuple[int, Admit | Preempt]
        ] = []  #: admissions and evictions, with their times
        self.now_s = 0
        self._forget = forget
        self._audit = audit
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._num = 0
        self._life = dict.fromkeys(self.asks, 0)  #: how often each began or was stopped

    # -- the agenda --------------------------------------------------------------------------

    def at(self, time_s: int, act: Callable[[], None]) -> None:
        """Do something later."""
        self._num += 1
        heappush(self._agenda, (time_s, self._num, act))

    def apply(self, event: ClusterEvent | Decision) -> None:
        """Tell the state, and check all of it."""
        apply(self.state, event)
        if self._audit:
            validate(self.state)

    def run(self) -> Played:
        """Play to the end; raise AssertionError if there is none."""
        for ordinal, job in enumerate(self.world.jobs):
            self.at(job.submit_s, lambda job=job, n=ordinal: self._submit(job, n))  # type: ignore[misc]
        for from_s, to_s, name in self.world.outages:
            self.at(from_s, lambda name=name: self._lose(name))  # type: ignore[misc]
            self.at(to_s, lambda name=name: self.apply(NodeReturned(name)))  # type: ignore[misc]
        for _ in range(200 * len(self.asks) + 1000):
            if not self._agenda:
                return self
            self.now_s = self._agenda[0][0]
            while self._agenda and self._agenda[0][0] == self.now_s:
                heappop(self._agenda)[2]()
            self._decide()
        raise AssertionError(f"it does not end: {self.evictions[-20:]}")

    def _submit(self, job: Asks, ordinal: int) -> None:
        roles = (Role(job.num_pods, PodShape(job.gpus), Selector("", job.model)),)
        walltime_us = to_us(job.walltime_s or job.duration_s)
        gang = Gang(job.name, roles, to_us(job.submit_s), walltime_us, job.priority, job.queue)
        self.apply(GangSubmitted(gang._replace(ordinal=ordinal)))

    def _lose(self, name: str) -> None:
        """Lose a node: whoever is on it loses all its pods, the claims on it are dropped."""
        state = self.state
        node = state.capacity.index_of[name]
        for claim in state.claims.values():
            if node in claim.rest or node in claim.taken:
                self._claim_ended(claim.gang, "node lost")
        for member in [m for m in state.gangs.values() if m.held]:
            if any(piece.lo <= node < piece.hi for piece in member.held):
                self._stop(member.gang.name)
        self.apply(NodeLost(name))

    def _stop(self, name: str) -> None:
        self._life[name] += 1
        self.apply(GangInterrupted(name))

    # -- decisions ---------------------------------------------------------------------------

    def _decide(self) -> None:
        now_us = to_us(self.now_s)
        for _ in range(20 * len(self.asks) + 100):
            if self._forget is not None:
                self._forget(self.state)
            for decision in decide(self.state, self.world.policy, now_us):
                if isinstance(decision, Admit):
                    self._admit(decision, now_us)
                elif isinstance(decision, Preempt):
                    self._preempt(decision)
                else:
                    self.apply(decision)  # type: ignore[arg-type]
                if isinstance(decision, Considered) and decision.until_us > now_us:
                    if decision.until_us < FOREVER_US:
                        self.at(-(-decision.until_us // 1_000_000), lambda: None)
                    return
        raise AssertionError(f"the pass at {self.now_s} s does not end: {self.made[-9:]}")

    def _admit(self, decision: Admit, now_us: int) -> None:
        state, name = self.state, decision.gang
        member = state.gangs[name]
        book = state.book
        assert book is not None
        assert len(book.flavors_held(decision.placement)) == 1, f"{name} is in several flavors"
        if name in state.claims:
            self._claim_ended(name, "started")
        else:
            takes = book.amounts_of(member.missing, decision.placement)
            assert book.fits(member.queue, takes), f"{name} starts above its quota"
        self.made.append((self.now_s, decision))
        self.starts[name].append(self.now_s)
        end_us = ends_us(now_us, member.gang.walltime_us)
        self.apply(Admitted(name, decision.placement, now_us, end_us))
        assert not member.missing, f"{name} started in part"
        self._life[name] += 1
        life = self._life[name]
        self.at(self.now_s + self.asks[name].duration_s, lambda: self._finish(name, life))

    def _finish(self, name: str, life: int) -> None:
        if self._life[name] == life:
            self._life[name] += 1
            self.ends[name] = self.now_s
            self.apply(GangFinished(name))

    def _preempt(self, decision: Preempt) -> None:
        state, name = self.state, decision.gang
        self._check_rights(decision)
        fresh = [victim for victim in decision.victims if not state.gangs[victim].leaving]
        self.made.append((self.now_s, decision))
        eviction = Eviction(self.now_s, name, tuple(fresh))
        self.evictions.append(eviction)
        self.apply(CapacityClaimed(name, decision.placement, decision.victims))
        for victim in fresh:
            grace_s, life = self.asks[victim].grace_s, self._life[victim]
            if not grace_s:
                self._stop(victim)
            elif not self.asks[victim].is_stuck:
                self.at(self.now_s + grace_s, lambda v=victim, n=life: self._left(v, n))  # type: ignore[misc]
            else:
                self.at(self.now_s + grace_s, lambda: self._give_up(eviction))

    def _left(self, victim: str, life: int) -> None:
        if self._life[victim] == life:
            self._stop(victim)

    def _give_up(self, eviction: Eviction) -> None:
        if not eviction.ended:
            self._claim_ended(eviction.gang, "a victim is stuck")
            self.apply(ClaimDropped(eviction.gang))

    def _claim_ended(self, name: str, why: str) -> None:
        last = next(each for each in reversed(self.evictions) if each.gang == name)
        assert not last.ended, f"{name} has no claim to end: {last}"
        last.ended = why

    def _check_rights(self, decision: Preempt) -> None:
        """Check that no other queue that is within its own loses a gang."""
        state = self.state
        book = state.book
        assert book is not None
        tree, gang = book.tree, state.gangs[decision.gang]
        outer = tree.begin_trial()
        for member in state.gangs.values():
            if member.leaving:
                tree.give_back(member.queue, member.quota_taken(book))
        for victim in decision.victims:
            member = state.gangs[victim]
            if member.leaving:
                continue
            assert victim not in state.gave_way.get(decision.gang, ())
            if member.queue != gang.queue:
                cells = [cell for cell, _ in member.quota_taken(book)]
                if book.file.sharing.victims:  # a share is of all flavors together
                    cells = list(tree.cells.values())
                assert any(tree.borrows(member.queue, cell) for cell in cells), (
                    f"{victim} is within the quota of {tree.names[member.queue]}"
                )
            tree.give_back(member.queue, member.quota_taken(book))
        tree.undo_trial(outer)


def check_all_ended(played: Played) -> None:
    """Check that every job that could ever start ended, and every eviction came to something."""
    state = played.state
    assert not state.gangs or all(m.phase == "impossible" for m in state.gangs.values()), {
        name: member.phase for name, member in state.gangs.items()
    }
    for eviction in played.evictions:
        assert eviction.ended, f"{eviction} came to nothing"


def made_by(played: Played) -> list[tuple[int, str, tuple[str, ...]]]:
    """Return who started or evicted whom, and when."""
    return [
        (at, one.gang, one.victims if isinstance(one, Preempt) else ()) for at, one in played.made
    ]
