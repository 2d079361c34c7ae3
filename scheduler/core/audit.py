"""`validate`: recompute everything the state keeps, from scratch, and compare."""

from __future__ import annotations

from collections import Counter

from scheduler.core.claims import wanted
from scheduler.core.model import NodeStatus, Phase, PodShape
from scheduler.core.moves import place_in_queue
from scheduler.core.queueing import family_key, family_size
from scheduler.core.quota import NO_PARENT
from scheduler.core.quotabook import QuotaBook
from scheduler.core.state import ClusterState
from scheduler.core.times import FOREVER_US


def validate(state: ClusterState) -> None:
    """Check every invariant of the state.

    Raises:
        AssertionError: names the invariant and the values that break it.
    """
    _validate_nodes(state)
    _validate_gangs(state)
    _validate_queue(state)
    _validate_claims(state)
    if state.book is not None:
        _validate_quota(state, state.book)
        _validate_running(state)


def _validate_running(state: ClusterState) -> None:
    running: list[set[str]] = [set() for _ in state.queue.lines]
    for name, member in state.gangs.items():
        if member.held and not member.leaving:
            running[member.queue].add(name)
    noted = [{member.gang.name for member in line.running} for line in state.queue.lines]
    assert noted == running, f"running are {running}, noted are {noted}"
    for line in state.queue.lines:
        demands = [
            demand
            for family in state.queue.families.values()
            for demand in family.demands.values()
            if demand.queue == line.queue
        ]
        assert set(line.demands) == set(demands), "the demands of a line are off"
        for below in {member.gang.priority + 1 for member in line.running}:
            gpus = sum(m.gang.gpus for m in line.running if m.gang.priority < below)
            noted_gpus = line.gpus_below(below)
            assert noted_gpus == gpus, f"{gpus} GPUs run below {below}, noted are {noted_gpus}"
    leaving = {name for name, member in state.gangs.items() if member.leaving}
    noted_leaving = {member.gang.name for member in state.queue.leaving}
    assert noted_leaving == leaving, f"leaving are {leaving}, noted are {noted_leaving}"


def _validate_nodes(state: ClusterState) -> None:
    capacity = state.capacity
    used = [PodShape(0)] * len(capacity.nodes)
    owners: list[list[str]] = [[] for _ in capacity.nodes]
    held = [
        (member.gang.name, member.gang.roles, piece)
        for member in state.gangs.values()
        for piece in member.held
    ] + [
        (name, state.gangs[name].gang.roles, piece)
        for name, reservation in state.reservations.items()
        for piece in reservation.placement
    ]
    for name, roles, piece in held:
        for at in range(piece.lo, piece.hi):
            used[at] = used[at].plus(roles[piece.role].pod, piece.pods_per_node)
            owners[at].append(name)
    for name, (at, shape) in state.foreign.items():
        used[at] = used[at].plus(shape)
        owners[at].append(name)
    for claim in state.claims.values():
        for at, shape in claim.taken.items():
            used[at] = used[at].plus(shape)
    for i, node in enumerate(capacity.nodes):
        free = node.capacity.plus(used[i], -1)
        assert not free.is_overdrawn, (
            f"node {node.name!r} is overcommitted: {used[i]} of {node.capacity}"
        )
        says = capacity.free_on(i)
        assert free == says, f"node {node.name!r}: free {says}, is {free}"
        assert sorted(owners[i]) == sorted(state.on_node[i]), (
            f"node {node.name!r}: owners {state.on_node[i]}, are {owners[i]}"
        )
    for group in capacity.groups:
        members = [i for i, g in enumerate(capacity.group_of) if g is group]
        assert group.num_nodes == len(members), "a group miscounts its nodes"
        empty = Counter(capacity.nodes[i].capacity for i in members)
        assert group.capacities == empty, "a group miscounts what its nodes have"
        assert {has.gpus for has in empty} <= {group.gpus_each}
        in_service = [i for i in members if i not in capacity.unschedulable]
        indexed = {
            i: free for free, nodes in group.by_free() for lo, hi in nodes for i in range(lo, hi)
        }
        free_on = {i: capacity.free_on(i) for i in in_service}
        filed = {i: free for i, free in free_on.items() if free.gpus or group.files_full}
        assert indexed == filed, "the free index is off"
        assert group.free_gpus == sum(free.gpus for free in free_on.values())
        assert all(nodes.size == sum(hi - lo for lo, hi in nodes) for nodes in group.nodes)
        for fit in group.counted():
            assert fit.num_pods == sum(free.holds(fit.pod) for free in free_on.values()), (
                f"room for {fit.pod}: {fit.num_pods} is off"
            )


def _validate_gangs(state: ClusterState) -> None:
    for name, member in state.gangs.items():
        placed = [0] * len(member.gang.roles)
        for piece in member.held:
            assert piece.num_pods > 0, f"gang {name!r} holds an empty slice"
            placed[piece.role] += piece.num_pods
        lacks = {
            role.name: role.count - have
            for role, have in zip(member.gang.roles, placed, strict=True)
            if role.count > have
        }
        says = {role.name: role.count for role in member.missing}
        assert lacks == says, f"gang {name!r} lacks {lacks}, says {says}"
        assert bool(member.held) == (member.admitted_us < FOREVER_US), (
            f"gang {name!r} holds {member.held}, admitted at {member.admitted_us} us"
        )
        assert member.saved_us == -FOREVER_US or member.saved_us >= member.admitted_us, (
            f"gang {name!r} saved at {member.saved_us} us, admitted at {member.admitted_us} us"
        )
        waits = name in state.queue.members
        if member.phase is Phase.RUNNING:
            assert member.held or not lacks, f"gang {name!r} runs on nothing"
        if member.phase is Phase.WAITING:
            assert waits and not member.held, f"gang {name!r} waits outside the queue"
        assert (member.phase is Phase.PREEMPTING) is (name in state.claims)
        assert member.held or not member.leaving, f"gang {name!r} leaves no nodes"
        if member.phase is not Phase.RUNNING and member.phase is not Phase.WAITING:
            assert not waits, f"gang {name!r} is queued before it can be admitted"
    running = sorted(
        (m.expected_end_us, m.gang.ordinal, m.gang.name) for m in state.gangs.values() if m.held
    )
    assert [entry[:3] for entry in state.ends] == running, "the list of expected ends is off"
    for down, status in state.capacity.unschedulable.items():
        if status is NodeStatus.DOWN:
            gangs = [o for o in state.on_node[down] if o in state.gangs]
            assert not gangs, f"gangs {gangs} hold a lost node"


def _validate_queue(state: ClusterState) -> None:
    queue = state.queue
    expected = sorted((m.key, m.gang.name) for m in queue.members.values())
    assert [(m.key, m.gang.name) for m in queue.in_order()] == expected, "the queue is out of order"
    head = queue.head()
    assert (head.gang.name if head else None) == (expected[0][1] if expected else None)
    listed = {
        entry[1].gang.name
        for family in queue.families.values()
        for demand in family.demands.values()
        for entry in demand.entries
    }
    assert listed in (set(), set(queue.members)), "families and members differ"
    known = Counter(id(member.family) for member in state.gangs.values())
    kept = {id(family): family.num_gangs for family in state.families.values()}
    assert kept == {family: known[family] for family in kept}, "a family miscounts its gangs"
    assert kept.keys() >= known.keys(), "the family of a gang was forgotten"
    counted = Counter(id(member.family) for member in queue.members.values())
    assert {id(family): family.num_waiting for family in queue.families.values()} == counted
    for family in queue.families.values():
        assert family.sizes == sorted(family.demands)
        for number, demand in family.demands.items():
            assert number == demand.num_pods * family.num_queues + demand.queue
            assert demand.entries == sorted(demand.entries, key=lambda e: e[0])
            assert demand.entries, "an empty demand is kept"
            for key, member in demand.entries:
                assert key == member.key == place_in_queue(state, member)
                base = family_key(member.missing)
                flavors = state.flavors_for(member)
                assert family.key == (base if state.book is None else (base, flavors))
                assert family_size(member.missing) == demand.num_pods
                assert member.queue == demand.queue
    for name, reservation in state.reservations.items():
        assert name in state.gangs, f"reservation for unknown gang {name!r}"
        assert reservation.start_us <= FOREVER_US


def _validate_claims(state: ClusterState) -> None:
    """Check that gangs that leave hold all that claims still want."""
    leaving: dict[int, PodShape] = {}
    for member in state.gangs.values():
        if member.leaving:
            for at, shape in wanted(member.gang.roles, member.held).items():
                leaving[at] = leaving.get(at, PodShape(0)).plus(shape)
    to_come: dict[int, PodShape] = {}
    for name, claim in state.claims.items():
        member = state.gangs[name]
        assert not member.held, f"gang {name!r} holds nodes and claims others"
        kept = dict(claim.taken)
        for at, shape in claim.rest.items():
            kept[at] = kept.get(at, PodShape(0)).plus(shape)
            to_come[at] = to_come.get(at, PodShape(0)).plus(shape)
        assert kept == wanted(member.gang.roles, claim.placement), f"claim of {name!r} is off"
        for victim in claim.victims:
            assert state.gangs[victim].leaving, f"{name!r} waits for {victim!r}, which stays"
    for at, shape in to_come.items():
        node = state.capacity.nodes[at].name
        assert at not in state.capacity.unschedulable, f"node {node!r} is claimed and closed"
        has = leaving.get(at, PodShape(0))
        assert has.covers(shape), f"node {node!r}: {shape} is claimed, {has} becomes free"


def _validate_quota(state: ClusterState, book: QuotaBook) -> None:
    tree = book.tree
    usage = [[0] * len(tree.cells) for _ in tree.names]
    held = [(member, member.held) for member in state.gangs.values()]
    held += [(state.gangs[name], each.placement) for name, each in state.reservations.items()]
    held += [(state.gangs[name], each.placement) for name, each in state.claims.items()]
    for member, placement in held:
        for cell, amount in book.amounts_of(member.gang.roles, placement):
            usage[member.queue][cell] += amount
    rising = sorted(range(len(tree.names)), key=lambda node: tree.heights[node])
    for node in rising:  # children come before their parents
        above = tree.parent[node]
        for cell in range(len(tree.cells)):
            says, used = tree.usage[node][cell], usage[node][cell]
            assert used == says, (
                f"{tree.names[node]!r} uses {used} of {book.resource(cell)}, says {says}"
            )
            if above != NO_PARENT:
                usage[above][cell] += max(0, used - tree.local[node][cell])
    open_lines = {at for at, line in enumerate(state.queue.lines) if line.head() is not None}
    assert open_lines == state.queue.open_lines.keys(), "lines with waiting gangs are off"
    for index, line in enumerate(state.queue.lines):
        expected = sorted(
            (m.key, m.gang.name) for m in state.queue.members.values() if m.queue == index
        )
        found = [(member.key, member.gang.name) for _, member in line.entries()]
        assert found == expected, f"the line of queue {tree.names[index]!r} is out of order"
