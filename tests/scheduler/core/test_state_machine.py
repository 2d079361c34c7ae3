"""Whatever happens to a cluster and whenever, the core keeps its promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, PendingReason, Reserve
from scheduler.core.events import (
    Admitted,
    CapacityReserved,
    CheckpointSaved,
    Considered,
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
    PriorityChanged,
    ReservationReleased,
)
from scheduler.core.model import Gang, Node, NodeStatus, Phase, PodShape, Role, Selector, Slice
from scheduler.core.placement import pack, place
from scheduler.core.queueing import GangState
from scheduler.core.state import ClusterState, apply
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.explain import explain
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import check_reasons

ORDERS = ["fifo", "priority", "sjf", "smallest"]
POOLS = ["", "a", "b"]


def shape_of(gpus: int, number: int) -> PodShape:
    """A node takes a pod less than it has GPUs, has half as many cards, and memory of its own."""
    return PodShape(gpus, 10 * gpus, 100 + number % 3, gpus - 1, (("nic", gpus // 2),))


def times(member: GangState) -> tuple[int, ...]:
    return (member.admitted_us, member.saved_us, member.expected_end_us)


def snapshot(state: ClusterState) -> object:
    """Return everything a decision may look at, as plain values."""
    capacity = state.capacity
    return (
        capacity.free_on_each(),
        dict(capacity.unschedulable),
        [
            (
                g.num_nodes,
                g.free_gpus,
                {f: tuple(n) for f, n in g.by_free() if f.gpus},
            )
            for g in capacity.groups
        ],
        {
            name: (m.gang, m.phase, m.missing, m.held, m.present, m.key, m.size, *times(m))
            for name, m in state.gangs.items()
        },
        [m.gang.name for m in state.queue.in_order()],
        [m.gang.name for m in state.queue.fresh],
        state.queue.head_seen and state.queue.head_seen.gang.name,
        {key: (f.fit_pods, f.free_pods, f.num_waiting) for key, f in state.families.items()},
        {
            name: (r.start_us, r.spare_pods, r.placement, r.expires_us, r.valid)
            for name, r in state.reservations.items()
        },
        dict(state.foreign),
        state.grew,
        state.shrank,
        [entry[:3] for entry in state.ends],
    )


class ClusterMachine(RuleBasedStateMachine):
    """Events at random; beside the state stand the machine's own books."""

    @initialize(
        order=st.sampled_from(ORDERS),
        discipline=st.sampled_from(["strict", "skip", "easy"]),
        placer=st.sampled_from(["pack", "pack", "spread", "first-fit"]),
        sizes=st.lists(
            st.tuples(st.sampled_from([4, 8, 8]), st.sampled_from(["a", "b"])),
            min_size=1,
            max_size=5,
        ),
    )
    def build(self, order: str, discipline: str, placer: str, sizes: list[tuple[int, str]]) -> None:
        self.policy = catalog.policy(PolicySpec(order, discipline, placer))
        self.order, self.discipline = order, discipline
        nodes = [
            Node(f"n{i}", shape_of(gpus, i), pool, topology=(f"rack{i // 2}",))
            for i, (gpus, pool) in enumerate(sizes)
        ]
        self.state = ClusterState(nodes, self.policy.order)
        self.now_us = 0
        self.made = 0
        self.capacity = {node.name: node for node in nodes}
        self.off: set[str] = set()
        self.gangs: dict[str, Gang] = {}
        self.where: dict[str, Counter[tuple[int, str]]] = {}  #: gang -> (role, node) -> pods
        self.ends_us: dict[str, float] = {}
        self.foreign: dict[str, tuple[str, PodShape]] = {}
        self.kept: dict[str, Counter[tuple[int, str]]] = {}  #: reservations
        self.promised: dict[str, float] = {}
        self.overtaken: Counter[str] = Counter()

    # -- what the machine knows by itself --------------------------------------------------

    def key(self, gang: Gang) -> tuple[object, ...]:
        first = {
            "fifo": (),
            "priority": (-gang.priority,),
            "sjf": (gang.walltime_us,),
            "smallest": (sum(role.count * role.pod.gpus for role in gang.roles),),
        }[self.order]
        mends = self.state.gangs[gang.name].mends and bool(self.where.get(gang.name))
        return (not mends, *first, gang.submit_us, gang.name)

    def waiting(self) -> list[str]:
        return [name for name in self.gangs if name in self.state.queue.members]

    def running(self) -> list[str]:
        return [name for name in self.gangs if self.where.get(name)]

    def pods(self, placement: object, roles: tuple[Role, ...]) -> Counter[tuple[int, str]]:
        found: Counter[tuple[int, str]] = Counter()
        for piece in placement:  # type: ignore[attr-defined]
            for i in range(piece.lo, piece.hi):
                found[piece.role, self.state.capacity.nodes[i].name] += piece.pods_per_node
        return found

    def disturb(self) -> None:
        """Something that no scheduler foresees: earlier promises are void."""
        self.promised.clear()

    def slots(self, role: Role) -> int:
        return sum(
            min(
                have // need
                for have, need in (
                    (node.capacity.gpus, role.pod.gpus),
                    (node.capacity.cpu_milli, role.pod.cpu_milli),
                    (node.capacity.mem_bytes, role.pod.mem_bytes),
                    (node.capacity.pods, role.pod.pods),
                    (dict(node.capacity.others).get("nic", 0), dict(role.pod.others).get("nic", 0)),
                )
                if need
            )
            for node in self.capacity.values()
            if role.selector.pool in ("", node.pool)
        )

    # -- decisions -------------------------------------------------------------------------

    def carry_out(self) -> None:
        while True:
            before = snapshot(self.state)
            decisions = decide(self.state, self.policy, self.now_us)
            assert snapshot(self.state) == before, "decide changed the state"
            assert decide(self.state, self.policy, self.now_us) == decisions, "not repeatable"
            for decision in decisions:
                if isinstance(decision, Admit):
                    self.admit(decision)
                elif isinstance(decision, Considered):
                    apply(self.state, decision)
                    check_reasons(self.state, self.policy)
                    return
                else:
                    if isinstance(decision, Reserve):
                        before_us = self.promised.get(decision.gang, inf)
                        assert decision.start_us <= before_us, "the head's promise was put off"
                        self.promised[decision.gang] = decision.start_us
                    apply(self.state, decision)  # type: ignore[arg-type]

    def admit(self, decision: Admit) -> None:
        name = decision.gang
        gang = self.gangs[name]
        if self.discipline == "strict":
            first = min(self.waiting(), key=lambda other: self.key(self.gangs[other]))
            assert name == first, f"{name} overtook {first}"
        head = min(self.waiting(), key=lambda other: self.key(self.gangs[other]))
        if name != head and not self.where.get(name):  # what only gets a rank back passes nobody
            self.overtaken[head] += 1
        self.overtaken[name] = 0
        missing = self.state.gangs[name].missing
        asked = Counter({i: role.count for i, role in enumerate(missing)})
        got: Counter[int] = Counter()
        names = [role.name for role in gang.roles]
        had = self.where.setdefault(name, Counter())
        keeps_hold = name in self.kept
        for (role, node), count in self.pods(decision.placement, missing).items():
            assert keeps_hold or node not in self.off, f"{name} was sent to {node}"
            assert missing[role].selector.pool in ("", self.capacity[node].pool)
            got[role] += count
            had[names.index(missing[role].name), node] += count
        assert got == asked, f"{name} asked for {asked} and got {got}"
        self.kept.pop(name, None)
        self.promised.pop(name, None)
        end_us = self.now_us + gang.walltime_us
        # A third ends when it said, the others earlier.
        self.ends_us[name] = self.now_us + gang.walltime_us // (1 + int(name[1:]) % 3)
        apply(self.state, Admitted(name, decision.placement, self.now_us, end_us))

    # -- rules -----------------------------------------------------------------------------

    @rule(
        count=st.integers(1, 6),
        gpus=st.sampled_from([1, 2, 4, 8]),
        cpu=st.sampled_from([0, 0, 20]),
        memory=st.sampled_from([0, 0, 51]),
        places=st.integers(0, 1),
        nics=st.sampled_from([0, 0, 1, 3]),
        pool=st.sampled_from(POOLS),
        master=st.booleans(),
        walltime_us=st.integers(1, 20),
        priority=st.integers(0, 2),
        missing=st.sampled_from([0, 0, 1]),
    )
    def gang_comes(
        self,
        count: int,
        gpus: int,
        cpu: int,
        memory: int,
        places: int,
        nics: int,
        pool: str,
        master: bool,
        walltime_us: int,
        priority: int,
        missing: int,
    ) -> None:
        name = f"g{self.made:04}"
        self.made += 1
        shape = PodShape(gpus, cpu, memory, places, (("nic", nics),) if nics else ())
        roles = [Role(count, shape, Selector(pool))]
        if master:
            roles.append(Role(1, PodShape(1, pods=places), Selector(pool), "master"))
        gang = Gang(name, tuple(roles), self.now_us, walltime_us, priority)
        self.gangs[name] = gang
        present = gang.num_pods - missing
        apply(self.state, GangSubmitted(gang, present))
        if self.order != "fifo" and not missing:
            self.disturb()  # it may come before the head
        if not missing and len(roles) == 1:
            is_impossible = self.state.gangs[name].phase is Phase.IMPOSSIBLE
            assert is_impossible == (self.slots(roles[0]) < count)

    @rule(data=st.data())
    def last_members_appear(self, data: st.DataObject) -> None:
        gathering = [n for n, m in self.state.gangs.items() if m.phase is Phase.GATHERING]
        if gathering:
            name = data.draw(st.sampled_from(gathering))
            assert explain(self.state, name).reason is PendingReason.MEMBERS
            lacking = self.gangs[name].num_pods - self.state.gangs[name].present
            for num_pods in [1] if lacking == 1 else [lacking - 1, 1]:
                assert self.state.gangs[name].phase is Phase.GATHERING
                apply(self.state, MemberAppeared(name, num_pods))
            waits = Phase.RUNNING if self.where.get(name) else Phase.WAITING
            assert self.state.gangs[name].phase in (waits, Phase.IMPOSSIBLE)
            self.disturb()

    @rule()
    def scheduler_passes(self) -> None:
        self.carry_out()

    @rule(seconds=st.integers(0, 12))
    def time_passes(self, seconds: int) -> None:
        until_us = self.now_us + seconds
        self.carry_out()
        while True:
            due = [(end_us, name) for name, end_us in self.ends_us.items() if end_us <= until_us]
            if not due:
                break
            self.now_us = max(self.now_us, min(due)[0])
            for end_us, name in sorted(due):
                if end_us <= self.now_us:
                    self.leaves(name, GangFinished(name))
            self.carry_out()
        self.now_us = until_us
        self.carry_out()
        for name, start_us in self.promised.items():
            waits = name in self.state.queue.members
            assert not waits or start_us >= self.now_us, f"{name} was promised {start_us}"

    def leaves(self, name: str, event: GangFinished | GangCancelled) -> None:
        apply(self.state, event)
        for books in (self.gangs, self.where, self.ends_us, self.kept, self.promised):
            books.pop(name, None)  # type: ignore[attr-defined]

    @precondition(lambda self: self.gangs)
    @rule(data=st.data())
    def user_cancels(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.gangs)))
        self.leaves(name, GangCancelled(name))

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def member_is_lost(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.running()))
        role, node = data.draw(st.sampled_from(sorted(self.where[name])))
        self.drop_reservation(name)
        apply(self.state, MemberLost(name, role, node))
        self.where[name] -= Counter({(role, node): 1})
        self.ends_us.pop(name, None)
        self.disturb()

    # -- as the live driver tells one gang's life ------------------------------------------

    def resized(self, name: str, roles: tuple[Role, ...], present: int | None = None) -> None:
        """Tell of new roles; the books count roles by their number."""
        self.kept.pop(name, None)
        old = [role.name for role in self.gangs[name].roles]
        new = [role.name for role in roles]
        held = self.where.get(name, Counter())
        self.where[name] = Counter(
            {(new.index(old[role]), node): count for (role, node), count in held.items() if count}
        )
        apply(self.state, GangResized(name, roles, present))
        self.gangs[name] = self.gangs[name]._replace(roles=roles)
        self.ends_us.pop(name, None)
        self.disturb()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), comes_back=st.booleans())
    def rank_goes_and_its_pod_with_it(self, data: st.DataObject, comes_back: bool) -> None:
        """Its node is given up; the gang asks for another once its successor exists."""
        name = data.draw(st.sampled_from(self.running()))
        role, node = data.draw(st.sampled_from(sorted(+self.where[name])))
        roles = self.gangs[name].roles
        self.drop_reservation(name)
        apply(self.state, MemberLost(name, role, node))
        self.where[name] -= Counter({(role, node): 1})
        placed = sum(self.where[name].values())
        self.resized(name, roles, placed)
        assert self.state.gangs[name].phase is Phase.GATHERING
        assert name not in self.state.queue.members
        if comes_back:
            lacking = self.gangs[name].num_pods - placed
            apply(self.state, MemberAppeared(name, lacking))
            assert self.state.gangs[name].phase is not Phase.GATHERING

    @precondition(lambda self: self.gangs)
    @rule(data=st.data(), more=st.integers(0, 3), other=st.booleans(), lacks=st.integers(0, 2))
    def gang_is_scaled(self, data: st.DataObject, more: int, other: bool, lacks: int) -> None:
        """Other counts of its roles, never below what runs, and a role that comes or goes."""
        name = data.draw(st.sampled_from(sorted(self.gangs)))
        placed: Counter[int] = Counter()
        for (role, _), count in self.where.get(name, Counter()).items():
            placed[role] += count
        least = 0 if placed else 1
        roles = [
            replace(role, count=max(placed[at], least) + (more if at == 0 else 0))
            for at, role in enumerate(self.gangs[name].roles)
            if placed[at] or role.name != "extra"
        ]
        roles = [role for role in roles if role.count]
        if other and "extra" not in [role.name for role in roles]:
            roles.insert(0, Role(1, PodShape(2), name="extra"))
        total, held = sum(role.count for role in roles), sum(placed.values())
        present = None if lacks == 2 else max(held, total - lacks)
        whole = present is None and self.state.gangs[name].present >= self.gangs[name].num_pods
        self.resized(name, tuple(roles), present)
        member = self.state.gangs[name]
        if total == held:
            assert member.phase is Phase.RUNNING
        elif present is not None and present < total:
            assert member.phase is Phase.GATHERING
        elif present == total or whole:
            assert member.phase is not Phase.GATHERING

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def pod_is_bound_by_others(self, data: st.DataObject) -> None:
        """A pod of the gang has its node already: it is counted there, decided by nobody."""
        name = data.draw(st.sampled_from(self.running()))
        roles = self.gangs[name].roles
        pod = roles[0].pod
        down = self.state.capacity.unschedulable
        room = [
            at
            for at, free in enumerate(self.state.capacity.free_on_each())
            if free.holds(pod) and down.get(at) is not NodeStatus.DOWN
        ]
        if not room:
            return
        node = data.draw(st.sampled_from(room))
        placed: Counter[int] = Counter()
        for (role, _), count in self.where[name].items():
            placed[role] += count
        here = [replace(r, count=placed[at] + (at == 0)) for at, r in enumerate(roles)]
        self.resized(name, tuple(role for role in here if role.count))
        self.resized(name, self.gangs[name].roles, self.gangs[name].num_pods)
        head = self.state.queue.head()
        if head is not None and head.gang.name != name:
            self.overtaken[head.gang.name] += 1
        self.overtaken[name] = 0
        end_us = self.now_us + self.gangs[name].walltime_us
        apply(self.state, Admitted(name, (Slice(0, node, node + 1, 1),), self.now_us, end_us))
        where = self.state.capacity.nodes[node].name
        index = [role.name for role in self.gangs[name].roles].index(roles[0].name)
        self.where[name][index, where] += 1
        self.disturb()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), ago_us=st.integers(0, 5))
    def checkpoint_is_committed(self, data: st.DataObject, ago_us: int) -> None:
        name = data.draw(st.sampled_from(self.running()))
        member = self.state.gangs[name]
        saved_us = max(member.admitted_us, self.now_us - ago_us)
        before_us = member.saved_us
        apply(self.state, CheckpointSaved(name, saved_us))
        assert member.saved_us == max(before_us, saved_us) <= self.now_us

    @precondition(lambda self: self.gangs)
    @rule(data=st.data())
    def gang_is_interrupted(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.gangs)))
        apply(self.state, GangInterrupted(name))
        self.where.pop(name, None)
        self.ends_us.pop(name, None)
        self.disturb()

    @precondition(lambda self: self.gangs)
    @rule(data=st.data(), priority=st.integers(0, 3))
    def priority_changes(self, data: st.DataObject, priority: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.gangs)))
        apply(self.state, PriorityChanged(name, priority))
        self.gangs[name] = self.gangs[name]._replace(priority=priority)
        self.disturb()

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def gang_is_set_aside(self, data: st.DataObject) -> None:
        """It blocks nobody, and comes back to the place that its age gives it."""
        name = data.draw(st.sampled_from(self.waiting()))
        before = self.waiting()
        self.drop_reservation(name)
        apply(self.state, GangSetAside(name))
        assert sorted(self.waiting()) == sorted(set(before) - {name})
        assert explain(self.state, name).aside
        self.disturb()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), first=st.booleans())
    def gang_mends(self, data: st.DataObject, first: bool) -> None:
        """One that runs in part stands before all others, as long as its driver says so."""
        name = data.draw(st.sampled_from(self.running()))
        apply(self.state, GangMends(name, first=first))
        waiting = self.waiting()
        if waiting:
            head = self.state.queue.head()
            foremost = min(waiting, key=lambda other: self.key(self.gangs[other]))
            assert head is not None and head.gang.name == foremost
        self.disturb()

    @rule(data=st.data())
    def gang_is_taken_up(self, data: st.DataObject) -> None:
        aside = [n for n, m in self.state.gangs.items() if m.phase is Phase.ASIDE]
        if aside:
            name = data.draw(st.sampled_from(aside))
            apply(self.state, GangTakenUp(name))
            first = min(self.waiting(), key=lambda other: self.key(self.gangs[other]))
            head = self.state.queue.head()
            assert head is not None and head.gang.name == first
            self.disturb()

    @rule(data=st.data(), how=st.sampled_from(["lost", "cordoned", "returned"]))
    def node_changes(self, data: st.DataObject, how: str) -> None:
        node = data.draw(st.sampled_from(sorted(self.capacity)))
        self.disturb()
        if how == "returned":
            apply(self.state, NodeReturned(node))
            self.off.discard(node)
            return
        self.off.add(node)
        if how == "cordoned":
            apply(self.state, NodeCordoned(node))
            return
        apply(self.state, NodeLost(node))
        for name in self.running():
            rest = Counter({at: n for at, n in self.where[name].items() if at[1] != node})
            if rest != self.where[name]:
                self.where[name] = rest
                self.ends_us.pop(name, None)
        self.foreign = {pod: at for pod, at in self.foreign.items() if at[0] != node}
        for name in [n for n, held in self.kept.items() if any(at == node for _, at in held)]:
            del self.kept[name]

    @precondition(lambda self: len(self.capacity) < 8)
    @rule(gpus=st.sampled_from([4, 8]), pool=st.sampled_from(["a", "b"]))
    def node_joins(self, gpus: int, pool: str) -> None:
        node = Node(f"n{len(self.capacity)}", shape_of(gpus, len(self.capacity)), pool)
        self.capacity[node.name] = node
        apply(self.state, NodeAdded(node))
        self.disturb()

    @rule(data=st.data(), gpus=st.integers(0, 4))
    def foreign_pod_comes(self, data: st.DataObject, gpus: int) -> None:
        at = data.draw(st.integers(0, len(self.state.capacity.nodes) - 1))
        shape = PodShape(gpus, 10, pods=1)
        if self.state.capacity.free_on(at).holds(shape):
            pod = f"foreign-{self.made}"
            self.made += 1
            node = self.state.capacity.nodes[at].name
            apply(self.state, ForeignPodBound(pod, node, shape))
            self.foreign[pod] = (node, shape)
            self.disturb()

    @precondition(lambda self: self.foreign)
    @rule(data=st.data())
    def foreign_pod_goes(self, data: st.DataObject) -> None:
        pod = data.draw(st.sampled_from(sorted(self.foreign)))
        apply(self.state, ForeignPodGone(pod))
        del self.foreign[pod]

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def capacity_is_reserved(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.waiting()))
        gang = self.gangs[name]
        self.drop_reservation(name)
        if self.where.get(name):
            return
        placement = place(self.state.capacity, gang.roles, pack)
        if placement is not None:
            apply(self.state, CapacityReserved(name, placement, self.now_us + 5))
            self.kept[name] = self.pods(placement, gang.roles)
            self.disturb()

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def reservation_expires(self, data: st.DataObject) -> None:
        self.drop_reservation(data.draw(st.sampled_from(sorted(self.kept))))

    def drop_reservation(self, name: str) -> None:
        if name in self.kept:
            apply(self.state, ReservationReleased(name))
            del self.kept[name]
            self.disturb()

    @rule(counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), undo=st.booleans())
    def what_if(self, counts: list[int], undo: bool) -> None:
        """Trials leave no trace, nested or not."""
        capacity = self.state.capacity
        before = snapshot(self.state)
        with capacity.trial():
            for count in counts:
                roles = (Role(count, PodShape(1)),)
                with capacity.trial():
                    for member in self.state.gangs.values():
                        capacity.give_back(member.gang.roles, member.held)
                placement = place(capacity, roles, self.policy.placer)
                if placement is not None:
                    capacity.take(roles, placement)
                    if undo:
                        capacity.give_back(roles, placement)
        assert snapshot(self.state) == before

    # -- invariants ------------------------------------------------------------------------

    @invariant()
    def state_is_sound(self) -> None:
        if hasattr(self, "state"):
            validate(self.state)

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "state"):
            return
        used = {name: PodShape(0) for name in self.capacity}
        for books in (self.where, self.kept):
            for name, held in books.items():
                for (role, node), count in held.items():
                    used[node] = used[node].plus(self.gangs[name].roles[role].pod, count)
        for node, shape in self.foreign.values():
            used[node] = used[node].plus(shape)
        for i, node in enumerate(self.state.capacity.nodes):
            free = node.capacity.plus(used[node.name], -1)
            assert not free.is_overdrawn, f"{node.name} gives more than it has"
            assert self.state.capacity.free_on(i) == free, node.name
        for name, gang in self.gangs.items():
            placed = sum(self.where.get(name, Counter()).values())
            lacks = sum(role.count for role in self.state.gangs[name].missing)
            assert placed + lacks == gang.num_pods, f"{name}: {placed} placed, {lacks} missing"
            if name in self.ends_us:
                assert not lacks, f"{name} is counted as running whole and lacks {lacks}"

    @invariant()
    def the_state_counts_who_was_overtaken(self) -> None:
        for name in self.waiting() if hasattr(self, "state") else ():
            assert self.state.gangs[name].overtaken == self.overtaken[name]

    @invariant()
    def every_waiting_gang_has_one_reason(self) -> None:
        for name in self.waiting() if hasattr(self, "state") else ():
            if self.state.gangs[name].family.fit_pods >= 0:
                assert explain(self.state, name).reason in (
                    PendingReason.CAPACITY,
                    PendingReason.FRAGMENTATION,
                    PendingReason.BEHIND_HEAD,
                )


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(
    max_examples=60, stateful_step_count=30, derandomize=True, deadline=None
)
