"""What one object, or one namespace, can make the controller do is bounded."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from scheduler.controller import repelling as repel
from scheduler.controller.budget import ALWAYS, KIND_BYTES, MOST_FITS, Budget
from scheduler.controller.controller import FEW_WOKEN, LINES
from scheduler.controller.membership import LiveGang
from scheduler.controller.refusals import MOST_BANS, Refusals
from scheduler.controller.work import Work
from scheduler.controlplane.objects import node as played
from scheduler.core.audit import validate
from scheduler.core.model import PodShape
from scheduler.extender.binds import BindArgs, Binds
from scheduler.kube.objects import NodeObject, Pod, PodCondition
from scheduler.kube.watch import Change
from scheduler.status.publish import NAMESPACE_RATE
from scheduler.status.status import view
from scheduler.workloads import gangs
from scheduler.workloads.gangs import JOB_INDEX, GangKey, Rank, Source
from scheduler.workloads.requests import pod_shape
from tests.scheduler.controller.rig import RESOURCE, Rig, pod, tried

HOST = "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


REFUSED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 node(s) didn't have free ports.",
}


def own(gang: str, size: int = 1) -> dict[str, Any]:
    return {
        "labels": {"muster.dev/group": gang},
        "annotations": {"muster.dev/min-member": f"{size}"},
    }


def free_gpus(rig: Rig) -> int:
    capacity = rig.ledger.state.capacity
    return sum(capacity.free_on(at).gpus for at in range(len(capacity.nodes)))


def test_a_gang_whose_pod_lists_too_much_is_set_aside_and_told_so() -> None:
    async def story(rig: Rig) -> None:
        monster = pod("m", **own("m"), nodeSelector={f"k{n}": "v" for n in range(5000)})
        rig.see(monster, pod("a", **own("a")))
        await rig.settle()
        assert rig.problem("n/m").startswith("pod m has 5,000 node selector keys, and muster reads")
        assert ("TooMuch", rig.problem("n/m")) in rig.events()
        assert set(rig.placed()) == {"a"}
        assert rig.ledger.classes.num_known == 1
        rig.lose(monster)
        await rig.settle()

    tried(story)


@pytest.mark.parametrize(
    "kind", ["scheduler", "too much", "unread", "neighbour", "unchecked", "pinned"]
)
def test_changes_of_a_pod_bring_about_no_looks_at_it_for_ever(kind: str) -> None:
    """Ten a second for a minute; afterwards its gang is looked at as any other of its kind."""

    async def story(rig: Rig) -> None:
        more: dict[str, Any] = {}
        match kind:
            case "scheduler":
                more = {"schedulerName": "nobody"}
            case "too much":
                rig.control.tables.budget.count = lambda *_: "too much"  # type: ignore[method-assign]
            case "unread":
                rig.control.mending._mend_slots = lambda *_: 1 / 0  # type: ignore[assignment,return-value]
            case "neighbour":
                more = {"schedulerName": "muster"}
                rig.see(repelling("db", labelSelector={}, namespaceSelector={}))
            case "unchecked":
                more = {"schedulerName": "muster", "resourceClaims": [{"name": "c"}]}
            case "pinned":
                rig.control.recovery._keep_pin = lambda *_: "which is gone"  # type: ignore[method-assign]
        for number in range(600):
            rig.clock_s += 0.1
            said = own("g")
            said["annotations"]["muster.dev/saved"] = f"x{number}"
            one = pod("g", gated=kind != "pinned", **said, **more)
            rig.see(one)
            if kind == "pinned":
                gang = rig.control.names["n/g"]
                gang.pins["g"] = "node-00000"
                gang.pinned = lambda pod: "node-00000"  # type: ignore[method-assign]
            rig.control.work.touch_due(rig.control.now_s())
            rig.control.step()
        looks = 0
        honest = rig.control.mending.mend

        def mend(gang: LiveGang, now_s: float) -> None:
            nonlocal looks
            looks += 1
            honest(gang, now_s)

        rig.control.mending.mend = mend  # type: ignore[method-assign]
        for _ in range(1200):
            rig.clock_s += 0.1
            rig.control.work.touch_due(rig.control.now_s())
            if rig.control.work._touched:
                rig.control.step()
        assert 1 <= looks <= 4
        assert len(rig.control.work._timers) <= 4

    tried(story, nodes=1, direct_schedulers=["muster"])


def test_of_times_to_look_for_one_reason_the_earliest_counts_and_of_others_each() -> None:
    clock_s = [0.0]
    work = Work(lambda: clock_s[0])
    key = GangKey("n", "g", Source.OWN)
    for at_s in (9.0, 5.0, 7.0):
        work.look_again(key, at_s, "this")
    for at_s in (6.0, 6.0, 20.0):
        work.look_again(key, at_s)
    found = []
    for tenth in range(300):
        clock_s[0] = tenth / 10
        work.touch_due(work.now_s())
        if work.take():
            found.append(clock_s[0])
    assert found == [5.0, 6.0, 20.0]
    assert not work._due_s and not work._timers


def test_pods_with_ever_new_values_cost_no_new_state_each() -> None:
    async def story(rig: Rig) -> None:
        rig.see(pod("first", **own("first")))
        await rig.settle()
        before = rig.ledger.num_rebuilds
        for number in range(50):
            rig.see(pod(f"p{number}", **own(f"g{number}"), nodeSelector={"job": f"j{number}"}))
            await rig.settle()
        assert rig.ledger.num_rebuilds == before

    tried(story)


def test_one_namespace_may_have_so_many_kinds_of_pods_wait() -> None:
    def gang(number: int, namespace: str = "n") -> LiveGang:
        return LiveGang(GangKey(namespace, f"g{number}", Source.OWN), f"n/g{number}", "gpu")

    budget = Budget()
    kinds = [f"kind {number}".encode() for number in range(10_000)]
    first = gang(0)
    assert not budget.count(first, frozenset(kinds[:1000]))
    assert "more than 1,000 kinds of pods of namespace n would wait" in budget.count(
        gang(1), frozenset(kinds[1000:1001])
    )
    assert not budget.count(gang(2), frozenset(kinds[:500])), "they are known"
    for other in range(3):
        mine = frozenset(kinds[1000 * (other + 1) : 1000 * (other + 2)])
        assert not budget.count(gang(0, f"other-{other}"), mine)
    late = gang(0, "late")
    assert "4,000 kinds of pods of the cluster" in budget.count(late, frozenset(kinds[5000:6000]))
    assert not budget.count(late, frozenset(kinds[5000 : 5000 + ALWAYS]))
    assert not budget.count(first, frozenset())
    assert budget.num_kinds == 3500 + ALWAYS


def test_what_one_namespace_has_leaves_others_their_shares_and_long_kinds_count_more() -> None:
    def gang(number: int, namespace: str) -> LiveGang:
        return LiveGang(GangKey(namespace, f"g{number}", Source.OWN), f"n/g{number}", "gpu")

    budget, num_classes = Budget(), MOST_FITS // 600
    kinds = [frozenset([f"kind {number}".encode()]) for number in range(2000)]
    greedy = [gang(number, "greedy") for number in range(600)]
    assert not any(map(budget.count, greedy, kinds))
    took = sum(
        not budget.count(gang(number, "honest"), kinds[number], num_classes)
        for number in range(600)
    )
    assert took == 300, "half of what there is, as there are two of them"
    assert budget.count(gang(600, "greedy"), kinds[600], num_classes)
    for number in range(600):
        assert not budget.count(greedy[number], frozenset())
    assert budget.num_kinds == 300
    long = gang(0, "long")
    assert not budget.count(long, frozenset([b"x" * 100 * KIND_BYTES]))
    assert budget.num_kinds == 401
    assert not budget.count(long, frozenset())
    assert budget.num_kinds == 300
    assert budget.count(long, frozenset([b"x" * 1000 * KIND_BYTES]))


def test_a_gang_beyond_the_budget_waits_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.controller.budget.MOST_KINDS", 3)

    async def story(rig: Rig) -> None:
        rig.see(*(pod(f"w{n}", **own(f"w{n}"), gpus=9 + n) for n in range(4)))
        await rig.settle()
        said = [name for name in rig.control.names if "kinds of pods" in rig.problem(name)]
        assert len(said) == 1
        rig.lose(*(rig.control.pods[f"w{n}"] for n in range(4) if f"n/w{n}" not in said))
        await rig.settle()
        await rig.pass_s(61.0)
        assert not rig.problem(said[0])

    tried(story)


def test_where_kube_scheduler_refused_a_gang_is_kept_within_bounds() -> None:
    refusals = Refusals()
    for number in range(1000):
        what = frozenset({("metadata.name", f"node-{number}")})
        refusals.keep_off(Rank("worker", number % 10, ""), what, float(number), alone=True)
    kept = set().union(*(refusals.avoided(Rank("worker", number, "")) for number in range(10)))
    assert kept == {("metadata.name", f"node-{number}") for number in range(1000 - MOST_BANS, 1000)}


def test_pods_that_nobody_planned_do_not_make_a_node_larger() -> None:
    """A user names the node, its kubelet refuses the pod, and a ReplicaSet makes the next one."""

    async def story(rig: Rig) -> None:
        rig.see(*(pod(f"a{n}", **own("a", 4), node=f"node-{n:05d}") for n in range(4)))
        await rig.settle()
        rebuilds, lines = rig.ledger.num_rebuilds, len(rig.lines)
        for number in range(100):
            forced = pod(f"x{number}", **own("x"), node="node-00000")
            rig.see(forced)
            await rig.settle()
            assert free_gpus(rig) == 0
            assert all(node.capacity.gpus == 8 for node in rig.ledger.state.capacity.nodes)
            rig.see(pod(f"x{number}", **own("x"), node="node-00000", phase="Failed"))
            await rig.settle()
            rig.lose(forced)
            await rig.settle()
        assert rig.ledger.num_rebuilds == rebuilds
        assert sum(map(len, rig.lines[lines:])) < 100 * 1000
        rig.lose(*(rig.control.pods[f"a{n}"] for n in range(4)))
        await rig.pass_s(3600.0)
        assert free_gpus(rig) == 32

    tried(story)


def test_a_pod_beyond_what_its_node_has_is_counted_as_the_gangs_once_there_is_room() -> None:
    async def story(rig: Rig) -> None:
        first, second = (pod(name, **own(name), node="node-00000") for name in "ab")
        rig.see(first, second)
        await rig.settle()
        assert free_gpus(rig) == 0
        assert rig.ledger.num_rebuilds == 1
        rig.lose(first)
        await rig.pass_s(3600.0)
        assert free_gpus(rig) == 0
        assert rig.ledger.state.gangs["n/b"].held
        rig.lose(second)
        await rig.pass_s(3600.0)
        assert free_gpus(rig) == 8

    tried(story, nodes=1)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_heard_while_a_state_is_made_ends_in_the_same_state(seed: int) -> None:
    """Nodes and pods come, go and change between any two turns of a step."""
    draw = random.Random(seed)

    async def story(rig: Rig) -> None:
        num_nodes, number = 30, 0
        for _ in range(6):
            for _ in range(draw.randrange(1, 6)):
                name, node = f"p{number}", f"node-{draw.randrange(30):05d}"
                number += 1
                where = draw.choice([{"node": node}, {"nodeSelector": {HOST: node}}, {}])
                rig.see(pod(name, **own(name), gpus=draw.choice([1, 4, 8]), **where))
            rig.ledger.begin_anew()
            for _ in rig.control.turns():
                match draw.randrange(500):
                    case 0:
                        rig.node(draw.randrange(num_nodes), change=Change.DELETED)
                    case 1:
                        rig.node(draw.randrange(num_nodes), gpus=draw.choice([4, 8]))
                    case 2:
                        rig.see(pod(f"l{number}", node=f"node-{draw.randrange(30):05d}", gpus=1))
                        number += 1
                    case 3 if rig.control.pods:
                        rig.lose(draw.choice(list(rig.control.pods.values())))
                    case 4 if rig.ledger.requests:
                        gang = rig.control.names.get(draw.choice(list(rig.ledger.requests)))
                        if gang is not None and not gang.slots:
                            rig.control.tables.ask_nothing(gang)
            await rig.settle()
            validate(rig.ledger.state)
        seen = {
            node.name: (node, rig.ledger.state.capacity.free_on(at))
            for at, node in enumerate(rig.ledger.state.capacity.nodes)
        }
        gangs = {name: member.held and True for name, member in rig.ledger.state.gangs.items()}
        rig.ledger.begin_anew()
        rig.ledger.settle(rig.control.now_s())
        for at, node in enumerate(rig.ledger.state.capacity.nodes):
            was, free = seen.pop(node.name)
            assert free == rig.ledger.state.capacity.free_on(at), node.name
            assert was.capacity == node.capacity
        assert not seen
        assert gangs == {
            name: member.held and True for name, member in rig.ledger.state.gangs.items()
        }

    tried(story, nodes=30)


def test_one_object_has_its_own_gangs_looked_at_and_no_others() -> None:
    async def story(rig: Rig) -> None:
        group = "scheduling.x-k8s.io/pod-group"
        rig.see(*(pod(f"p{n}", labels={group: f"g-{n}"}, gpus=1) for n in range(50)))
        jobs = ("Job", "g", "uid-g")
        rig.see(pod("mine", labels={group: "g"}, gpus=1), pod("by", **own("by"), owner=jobs))
        rig.see(pod("step", labels={group: "g", gangs.TRAIN_STEP: "dataset-initializer"}, gpus=1))
        await rig.settle()
        rig.thing("coscheduling", "g", {"minMember": 1})
        touched = {key.name for key in rig.control.work.take()}
        assert touched == {"g", "by", "g-dataset-initializer"}
        rig.lose(*list(rig.control.pods.values()))
        await rig.settle()
        assert not rig.control.tables._about

    tried(story)


def test_names_of_owners_that_change_are_forgotten() -> None:
    async def story(rig: Rig) -> None:
        for number in range(1_000):
            rig.see(pod("p", **own("g"), owner=("Job", f"j-{number}", "uid-j")))
        await rig.settle()
        assert len(rig.control.names["n/g"].objects) < 50
        assert len(rig.control.tables._about) < 50
        assert [gang.key.name for gang in rig.control.tables.about("n", "j-999")] == ["g"]
        rig.lose(*list(rig.control.pods.values()))
        await rig.settle()
        assert not rig.control.tables._about

    tried(story)


def test_a_replica_that_does_not_lead_forgets_gangs_that_are_gone() -> None:
    """It looks at none, and would be out of memory when it is to lead."""

    def kept(rig: Rig) -> int:
        control = rig.control
        tables = (control.gangs, control.names, control.pods, control.key_of_pod)
        heard = [*control.ledger._heard, *control.ledger._heard_of.values()]
        return sum(map(len, (*tables, control.tables._about, control.work._touched, heard)))

    async def story(rig: Rig) -> None:
        rig.control.active = False
        stays = pod("stays", **own("stays", 2))
        rig.see(stays)
        before = kept(rig)
        for number in range(20):
            there = [pod(f"{of}-{number}", **own(of, 2)) for of in ("stays", f"g-{number}")]
            rig.see(*there)
            rig.see(*(pod(one.metadata.name, **own("x"), node="node-00000") for one in there))
            rig.lose(*there)
        job = pod("j", labels={JOB_INDEX: "0"}, owner=("Job", "j", "uid-j"))
        rig.see(job)
        rig.thing("Job", "j", {"parallelism": 1, "completions": 1})  # no gang, as it turns out
        rig.lose(job)
        assert kept(rig) == before
        rig.control.active = True
        rig.see(pod("stays-too", **own("stays", 2)))
        await rig.settle()
        assert len(rig.placed()) == 2

    tried(story, nodes=2)


def test_gangs_of_one_name_are_told_apart_at_once_whatever_their_owners_are_called() -> None:
    tables = Rig().control.tables
    keys = [GangKey("n", "g", Source.KUBEFLOW, f"uid-alike-{n}") for n in range(3000)]

    class Names(dict[str, LiveGang]):
        looks = 0

        def __contains__(self, key: object) -> bool:
            Names.looks += 1
            return super().__contains__(key)

    tables.names = Names()
    assert len({tables.gang(key).name for key in keys}) == 3000
    assert Names.looks < 5 * 3000
    odd = tables.gang(GangKey("n", "g", Source.KUBEFLOW, "\x1b[2J\n"))
    assert odd.name.isprintable()


def repelling(name: str, namespace: str = "n", **term: Any) -> Pod:
    """Return a running pod of no gang that keeps others off its node."""
    rule = {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": HOST, **term}
    affinity = {"podAntiAffinity": {REQUIRED: [rule]}}
    made = pod(name, node="node-00000", gpus=0, affinity=affinity)
    made.metadata.namespace = namespace
    return made


@pytest.mark.parametrize(
    ("term", "kept_off"),
    [
        ({}, True),
        ({"labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}, True),
        ({"labelSelector": {"matchLabels": {"app": "web"}}}, False),
        ({"labelSelector": {}}, True),
        ({"labelSelector": None}, False),
        ({"namespaces": ["other"]}, False),
        ({"namespaceSelector": {}}, True),
    ],
)
def test_muster_binds_no_pod_by_itself_that_a_neighbour_keeps_off(
    term: dict[str, Any], kept_off: bool
) -> None:
    async def story(rig: Rig) -> None:
        there = repelling("db", **term)
        rig.see(there)
        labels = {"muster.dev/group": "a", "muster.dev/min-member": "1", "app": "db"}
        rig.see(pod("a", labels=labels, schedulerName="muster"))
        await rig.settle()
        assert not rig.problem("n/a")
        said = view(rig.control.names["n/a"], rig.ledger, rig.control.now_s()).text
        kept = "other pods keep it off nodes with kubernetes.io/hostname=node-00000"
        assert (kept in said) is kept_off
        assert ("a" in rig.placed()) is not kept_off
        rig.lose(there)
        await rig.pass_s(61.0)
        assert rig.lanes()["a"] == "direct"
        assert not rig.control.tables.repelling._terms

    tried(story, nodes=1, direct_schedulers=["muster"])


@pytest.mark.parametrize(
    ("topology", "where"),
    [
        ({"topologyKey": HOST}, {"node-00001", "node-00002"}),
        ({"topologyKey": "rack"}, {"node-00002", "node-00003"}),
        ({"topologyKey": "unheard-of"}, {"node-00000", "node-00001"}),
    ],
)
def test_a_neighbour_that_keeps_everybody_off_closes_its_own_place_alone(
    topology: dict[str, str], where: set[str]
) -> None:
    """Racks of two: a tenant's pod on the first node does not want to be beside anybody."""

    async def story(rig: Rig) -> None:
        for number in range(4):
            item = played(number, 8)
            item["metadata"]["labels"]["rack"] = f"r{number // 2}"
            rig.control.on_node(Change.MODIFIED, msgspec.convert(item, NodeObject))
        rig.see(repelling("db", "tenant", labelSelector={}, namespaceSelector={}, **topology))
        rig.see(*(pod(f"a-{n}", **own("a", 2), schedulerName="muster") for n in range(2)))
        await rig.settle()
        assert set(rig.placed().values()) == where
        assert set(rig.lanes().values()) == {"direct"}
        rig.replay()

    tried(story, nodes=0, direct_schedulers=["muster"])


def test_a_neighbour_that_comes_between_a_plan_and_its_bind_is_heeded() -> None:
    async def story(rig: Rig) -> None:
        for number in range(2):
            rig.node(number)
        rig.see(*(pod(f"a-{n}", **own("a", 1), schedulerName="muster") for n in range(1)))
        rig.control.step()  # it is planned; nothing is written before others have their turn
        (slot,) = rig.control.names["n/a"].slots
        there = repelling("db", "tenant", labelSelector={}, namespaceSelector={})
        there.spec.node_name = slot.node
        rig.see(there)
        for _ in range(3):
            await rig.pass_s(31.0)
        (other,) = {"node-00000", "node-00001"} - {slot.node}
        assert rig.placed() == {"a-0": other}

    tried(story, nodes=0, direct_schedulers=["muster"])


def test_more_selectors_than_are_looked_at_close_their_own_places_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repel, "MOST_TERMS", 3)

    async def story(rig: Rig) -> None:
        for number in range(10):
            app = {"matchLabels": {"app": f"x{number}"}}
            rig.see(repelling(f"db-{number}", "tenant", labelSelector=app, namespaceSelector={}))
        rig.see(pod("a", **own("a", 1), schedulerName="muster"))
        await rig.settle()
        assert rig.placed() == {"a": "node-00001"}

    tried(story, nodes=2, direct_schedulers=["muster"])


def test_labels_in_which_pods_of_a_gang_differ_may_be_meant_by_any_selector() -> None:
    pods = [pod(f"a{n}", labels={"app": "db", "index": f"{n}"}) for n in range(3)]
    for selector, kept_off in (
        ({"matchLabels": {"index": "7"}}, True),
        ({"matchLabels": {"app": "web", "index": "1"}}, False),
        ({"matchExpressions": [{"key": "index", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ):
        rig = Rig()
        rig.see(repelling("db", labelSelector=selector))
        found = rig.control.tables.repelling.keeps_off("n", pods)
        assert found == ({(HOST, "node-00000")} if kept_off else frozenset()), selector


def test_a_pod_that_a_neighbour_keeps_off_is_left_to_kube_scheduler_where_it_serves_it() -> None:
    async def story(rig: Rig) -> None:
        rig.see(repelling("db"))
        labels = {"muster.dev/group": "a", "muster.dev/min-member": "1", "app": "db",
                  "kueue.x-k8s.io/queue-name": "fast"}  # fmt: skip
        rig.see(pod("a", labels=labels))
        await rig.settle()
        assert rig.lanes()["a"] == "pinned"

    tried(story, nodes=1, direct_queues=["fast"])


def test_what_muster_binds_for_others_is_seen_though_nothing_else_happens() -> None:
    """A Deployment is scaled up: the watch tells what muster knows by its own binds already."""

    async def story(rig: Rig) -> None:
        pods = [pod(f"d{n}", gpus=1, gated=False) for n in range(20)]
        rig.see(*pods)
        await rig.settle()
        assert free_gpus(rig) == 32
        rig.control.work._wake.clear()
        binds, gone = Binds(rig.control), asyncio.get_running_loop().create_future()
        for number, one in enumerate(pods):
            uid = one.metadata.uid
            args = BindArgs(one.metadata.name, "n", uid, f"node-{number % 4:05d}")
            assert not (await binds.bind(args, gone.get_loop().time(), gone)).error
            rig.see(bound_to(one, args.node))
        assert rig.control.work._wake.is_set()
        await rig.settle()
        assert free_gpus(rig) == 12

    tried(story)


def bound_to(one: Pod, node: str) -> Pod:
    return msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, node_name=node))


def test_lone_pods_are_woken_for_the_room_that_there_is_and_each_once() -> None:
    async def story(rig: Rig) -> None:
        rig.see(pod("g", **own("g")))
        await rig.settle()
        rig.see(pod("g", **own("g"), node="node-00000"))
        lone = [pod(f"l{number}", gpus=1, gated=False) for number in range(500)]
        rig.see(*lone)
        await rig.settle()
        rig.control.refused |= {one.metadata.uid: None for one in lone}
        before = len(rig.api.requests)

        def woken() -> list[str]:
            return [path for method, path, _ in rig.api.requests[before:] if "/pods/l" in path]

        rig.lose(rig.control.pods["g"])
        await rig.settle()
        await rig.pass_s(3.0)
        assert 8 <= len(woken()) <= 4 * FEW_WOKEN
        for _ in range(60):
            await rig.pass_s(1.0)
        assert len(set(woken())) == len(woken()), "one that was woken is not until more is free"
        assert len(woken()) == 500, "in the end all are"

    tried(story, nodes=1)


def test_a_lone_pod_that_cannot_be_read_wakes_nobody_and_stops_nothing() -> None:
    async def story(rig: Rig) -> None:
        rig.see(pod("g", **own("g"), node="node-00000"))
        bad = pod("bad", gpus=1, gated=False)
        bad.spec.containers[0].resources.requests["memory"] = str(1 << 80)
        rig.see(bad, pod("good", gpus=1, gated=False))
        await rig.settle()
        rig.control.refused |= {"bad": None, "good": None}
        rig.lose(rig.control.pods["g"])
        await rig.settle()
        poked = [path for method, path, _ in rig.api.requests if method == "PATCH"]
        assert [path.rpartition("/")[2] for path in poked] == ["good"]
        assert not rig.control._to_wake

    tried(story, nodes=1)


def test_what_one_user_does_to_many_gangs_is_said_of_some(caplog: pytest.LogCaptureFixture) -> None:
    async def story(rig: Rig) -> None:
        labels = {gangs.KUBEFLOW_JOB: "g"}
        rig.see(
            *(pod(f"p{n}", labels=labels, owner=("PyTorchJob", "g", f"u{n}")) for n in range(200))
        )
        other = pod("other", labels=labels, owner=("PyTorchJob", "g", "u"))
        other.metadata.namespace = "other"
        rig.see(other)
        await rig.settle()
        rig.publisher._queue = asyncio.Queue()
        rig.thing("PyTorchJob", "g", spec := {"pytorchReplicaSpecs": {"Odd": 7}})
        rig.thing("PyTorchJob", "g", spec, namespace="other")
        await rig.settle()
        told = []
        while not rig.publisher._queue.empty():
            told.append(rig.publisher._queue.get_nowait()[0])
        assert sum("/namespaces/n/" in path for path in told) == NAMESPACE_RATE[0]
        assert sum("/namespaces/other/" in path for path in told) == 1
        assert all(gang.problem for gang in rig.control.gangs.values())

    tried(story)
    said = [record for record in caplog.records if "set aside" in record.getMessage()]
    assert len(said) == LINES + 1
    assert not any(record.exc_info for record in said), "a user's mistake has no traceback"


def test_a_node_that_closes_costs_a_look_at_gangs_that_await_binds_alone() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(pod(f"r{n}", **own(f"r{n}"), gpus=1) for n in range(20)))
        await rig.settle()
        placed = rig.placed()
        rig.see(*(pod(f"r{n}", **own(f"r{n}"), gpus=1, node=placed[f"r{n}"]) for n in range(20)))
        rig.see(pod("w", **own("w"), gpus=1))
        await rig.settle()
        rig.node(0)
        tables = rig.control.tables
        assert len(rig.control.slot_of) == 21
        assert [gang.name for gang in tables.awaiting_binds()] == ["n/w"]
        assert [gang.name for gang in tables.unplaced.values()] == ["n/w"], "and none for long"
        assert tables.promised_nodes() == {rig.placed()["w"]}
        rig.lose(rig.control.pods["r7"])
        await rig.settle()
        awaiting = {gang.name for gang in tables.awaiting_binds()}
        assert awaiting == {
            gang.name for gang in rig.control.gangs.values() if not gang.is_placed()
        }

    tried(story, nodes=4)


def test_what_equal_pods_of_a_gang_take_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Pod] = []

    def counted(one: Pod, resource: str) -> PodShape:
        looks.append(one)
        return pod_shape(one, resource)

    monkeypatch.setattr("scheduler.controller.membership.pod_shape", counted)

    async def story(rig: Rig) -> None:
        rig.see(*(pod(f"g-{number}", **own("g"), gpus=1) for number in range(20)))
        rig.see(
            pod("g-20", **own("g"), gpus=2), pod("g-21", **own("g"), gpus=1, overhead={"cpu": "1"})
        )
        await rig.settle()
        gang = rig.control.names["n/g"]
        assert len({one.metadata.uid for one in looks}) <= 4
        for one in gang.pods.values():
            assert gang.facts(one).shape == pod_shape(one, RESOURCE)

    tried(story)


def test_a_state_is_made_in_slices_also_for_a_gang_that_asks_for_the_room_of_its_pins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []

    async def story(rig: Rig) -> None:
        has_room = rig.ledger.has_room

        def looked(name: str, shape: PodShape) -> bool:
            asked.append(rig.ledger.is_to_be_made)
            return has_room(name, shape)

        rig.see(*(pod(f"g-{number}", **own("g")) for number in range(2)))
        await rig.settle()
        for one in rig.pods_written():
            one.status.conditions = msgspec.convert([REFUSED], list[PodCondition])
            rig.see(one)
        await rig.settle()
        for _ in range(4):
            await rig.pass_s(31.0)
        gang = rig.control.names["n/g"]
        assert not gang.slots
        assert gang.problem
        monkeypatch.setattr(rig.ledger, "has_room", looked)
        rig.node(3, change=Change.DELETED)
        rig.control.work.touch(gang.key)
        await rig.settle()

    tried(story)
    assert asked
    assert not any(asked)


@pytest.mark.parametrize("what", [RESOURCE, "memory", "cpu", "example.com/nic"])
@pytest.mark.parametrize("of_a_gang", [True, False])
def test_what_a_pod_asks_for_is_no_more_than_the_journal_takes(what: str, of_a_gang: bool) -> None:
    """`muster replay` refused the whole journal for it, and reports left the gang out."""

    async def story(rig: Rig) -> None:
        one = pod("huge", gpus=1, **(own("g") if of_a_gang else {"node": "node-00000"}))
        main = one.spec.containers[0]
        main.resources.requests[what] = main.resources.limits[what] = str((1 << 63) - 1)
        one.spec.containers.append(main)
        rig.see(one)
        await rig.settle()
        rig.see(pod("h", **own("h"), gpus=8))
        await rig.settle()
        assert set(rig.placed()) == {"h"}

    tried(story)  # and replayed
