"""What counts on a node, and which rank has done its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from scheduler.controller import membership
from scheduler.controlplane.objects import node as played
from scheduler.core.model import PodShape
from scheduler.extender.verbs import Extender
from scheduler.kube.devices import DeviceClass, ResourceClaim, ResourceSlice
from scheduler.kube.objects import NodeObject, Pod
from scheduler.kube.watch import Change
from scheduler.status.status import view
from scheduler.workloads.gangs import JOB_INDEX, KUBEFLOW_INDEX, KUBEFLOW_JOB, KUBEFLOW_TYPE
from scheduler.workloads.requests import pod_shape
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.extender.test_filter import answer
from tests.scheduler.workloads.test_devices import SHIPPED, claim, class_of, device, slice_of

GROUP = "scheduling.x-k8s.io/pod-group"
NODE = "node-00000"
PAIR = {"muster.dev/group": "g", "muster.dev/min-member": "2"}


def own(name: str, **more: Any) -> Pod:
    """Return a gang of one pod."""
    said = {"muster.dev/group": name, "muster.dev/min-member": "1", **more.pop("annotations", {})}
    return pod(name, annotations=said, **more)


def tell_node(rig: Rig, number: int = 0, **allocatable: str) -> None:
    """Tell of a node with 8 GPUs, 96 CPUs, and what is given here instead of its usual size."""
    found = played(number, 8)
    named = {name.replace("__", "/").replace("_", "-"): v for name, v in allocatable.items()}
    found["status"] = {"allocatable": {**found["status"]["allocatable"], **named}}
    rig.control.on_node(Change.MODIFIED, msgspec.convert(found, NodeObject))


def foreign(name: str, node: str = NODE, **more: Any) -> Pod:
    """Return a pod of no gang, with no requests unless they are given."""
    requests = more.pop("requests", {})
    container = {"name": "main", "resources": {"requests": requests}}
    return pod(name, gated=False, node=node, containers=[container], **more)


def with_status(one: Pod, **status: Any) -> Pod:
    """Return the pod with another status."""
    found = msgspec.to_builtins(one)
    return msgspec.convert({**found, "status": {**found["status"], **status}}, Pod)


def cpus(requests: str) -> dict[str, Any]:
    """Return a container with 8 GPUs and so many CPUs."""
    resources = {"limits": {"nvidia.com/gpu": "8"}, "requests": {"cpu": requests}}
    return {"containers": [{"name": "main", "resources": resources}]}


def free(rig: Rig, node: str = NODE) -> PodShape:
    """Return what the core has free on a node."""
    room = rig.ledger.room(node)
    assert room is not None
    return room


def test_pods_without_requests_fill_a_nodes_places() -> None:
    async def story(rig: Rig) -> None:
        tell_node(rig, pods="2")
        rig.see(foreign("daemon"), foreign("shell", phase="Pending"))
        rig.see(foreign("over", phase="Succeeded"), foreign("broken", phase="Failed"))
        rig.see(own("a"))
        await rig.settle()
        assert free(rig).pods == 0
        assert rig.placed() == {}
        rig.lose(foreign("shell"))
        await rig.settle()
        assert rig.placed() == {"a": NODE}
        assert free(rig) == PodShape(0, 96_000, 1 << 40, 0)

    tried(story, nodes=1)


def test_a_terminating_pod_has_its_place_until_it_is_gone() -> None:
    async def story(rig: Rig) -> None:
        tell_node(rig, pods="1")
        going = foreign("going")
        going.metadata.deletion_timestamp = "2026-01-01T01:00:00Z"
        rig.see(going, own("a"))
        await rig.settle()
        assert rig.placed() == {}
        rig.lose(going)
        await rig.settle()
        assert rig.placed() == {"a": NODE}

    tried(story, nodes=1)


def test_a_gang_has_as_many_pods_on_a_node_as_it_takes() -> None:
    async def story(rig: Rig) -> None:
        for number in range(2):
            tell_node(rig, number, pods="3")
        label = {GROUP: "g"}
        rig.thing("coscheduling", "g", {"minMember": 6})
        rig.see(*(pod(f"g-{i}", labels=label, gpus=1) for i in range(6)))
        await rig.settle()
        nodes = list(rig.placed().values())
        assert sorted(nodes.count(name) for name in set(nodes)) == [3, 3]

    tried(story, nodes=2)


@pytest.mark.parametrize("lane", ["slow", "fast"])
def test_further_resources_are_counted_in_every_lane(lane: str) -> None:
    asked = {"nvidia.com/gpu": "1", "rdma/hca": "1", "hugepages-2Mi": "2Mi"}
    spec = {"containers": [{"name": "main", "resources": {"limits": asked}}]}
    said = {"muster.dev/queue": lane}

    async def story(rig: Rig) -> None:
        tell_node(rig, 1, rdma__hca="2", hugepages_2Mi="64Mi")
        tell_node(rig, 2, rdma__hca="2")
        for name in ("a", "b", "c"):
            rig.see(own(name, annotations=said, **spec))
        await rig.settle()
        assert rig.placed() == {"a": "node-00001", "b": "node-00001"}
        assert set(rig.lanes().values()) == {"direct" if lane == "fast" else "pinned"}
        tell_node(rig, 2, rdma__hca="2", hugepages_2Mi="2Mi")
        await rig.settle()
        assert rig.placed()["c"] == "node-00002"

    tried(story, direct_queues=["fast"])


# -- in-place resize ------------------------------------------------------------------------------


def test_a_foreign_pod_that_is_resized_counts_for_more_at_once_and_for_less_when_it_is() -> None:
    def resized(asked: str, has: str) -> Pod:
        one = foreign("web", requests={"cpu": asked})
        status = {"name": "main", "resources": {"requests": {"cpu": has}}}
        return with_status(one, containerStatuses=[status])

    async def story(rig: Rig) -> None:
        used = []
        for asked, has in (("1", "1"), ("90", "1"), ("90", "90"), ("2", "90"), ("2", "2")):
            rig.see(resized(asked, has))
            await rig.settle()
            used.append(96 - free(rig).cpu_milli // 1000)
        assert used == [1, 90, 90, 90, 2]

    tried(story, nodes=1)


def test_a_rank_that_is_resized_counts_for_more_at_once_and_for_less_when_it_is() -> None:
    async def story(rig: Rig) -> None:
        label = {GROUP: "g"}
        rig.thing("coscheduling", "g", {"minMember": 2})

        def ranks(asked: str, has: str) -> list[Pod]:
            first, other = (
                pod(f"g-{i}", labels=label, node=f"node-0000{i}", **cpus(asked if i else "8"))
                for i in range(2)
            )
            status = {"name": "main", "resources": {"requests": {"cpu": has}}}
            return [first, with_status(other, containerStatuses=[status])]

        used = []
        for asked, has in (("8", "8"), ("90", "8"), ("90", "90"), ("2", "90"), ("2", "2")):
            rig.see(*ranks(asked, has))
            await rig.settle()
            used.append(96 - free(rig, "node-00001").cpu_milli // 1000)
            assert free(rig).cpu_milli == 88_000
        assert used == [8, 90, 90, 90, 2]
        assert not rig.evicted()

    tried(story, nodes=2)


def test_what_a_bound_pod_takes_is_not_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 2})
        pods = [pod(f"g-{i}", labels={GROUP: "g"}) for i in range(2)]
        rig.see(*pods)
        await rig.settle()
        asked: list[Pod] = []

        def counted(one: Pod, resource: str) -> PodShape:
            asked.append(one)
            return pod_shape(one, resource)

        monkeypatch.setattr(membership, "pod_shape", counted)
        rig.see(
            *(pod(f"g-{i}", labels={GROUP: "g"}, node=rig.placed()[f"g-{i}"]) for i in range(2))
        )
        rig.control.step()
        monkeypatch.undo()
        assert len(asked) <= 1, "one of them, to tell whether the gang holds GPUs"

    tried(story, nodes=2)


def test_a_rank_that_comes_again_with_another_request_is_counted_as_it_is() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 2})
        labels = {GROUP: "g"}
        ranks = [pod(f"g-{i}", labels=labels, node=f"node-0000{i}", **cpus("8")) for i in range(2)]
        rig.see(*ranks)
        await rig.settle()
        rig.lose(ranks[0])
        await rig.settle()
        rig.see(pod("g-0", uid="again", labels=labels, **cpus("16")))
        await rig.settle()
        assert rig.placed() == {"g-0": NODE}
        assert free(rig).cpu_milli == 80_000

    tried(story, nodes=2)


def test_a_rank_that_outgrew_its_node_is_counted_as_it_is() -> None:
    async def story(rig: Rig) -> None:
        rig.see(foreign("web", requests={"cpu": "90"}))
        rig.see(own("a", node=NODE, gated=False, **cpus("4")))
        await rig.settle()
        assert free(rig).cpu_milli == 2_000
        rig.see(own("a", node=NODE, gated=False, **cpus("100")))
        await rig.settle()
        assert free(rig).cpu_milli == 0
        rig.see(own("a", node=NODE, gated=False, **cpus("4")))
        await rig.settle()
        assert free(rig).cpu_milli == 2_000
        assert not rig.evicted()

    tried(story, nodes=1)


# -- GPUs that are devices ------------------------------------------------------------------------

NO_PLUGIN = {"nvidia.com/gpu": "0"}


def tell(rig: Rig, *items: DeviceClass | ResourceSlice | ResourceClaim, gone: bool = False) -> None:
    """Tell of objects of dynamic resource allocation."""
    for item in items:
        rig.control.on_devices(Change.DELETED if gone else Change.ADDED, item)


@pytest.mark.parametrize("first", ["nodes", "slices", "class"])
def test_gpus_that_are_devices_are_counted_whatever_is_seen_first(first: str) -> None:
    async def story(rig: Rig) -> None:
        steps: dict[str, Callable[[], object]] = {
            "nodes": lambda: [tell_node(rig, n, **NO_PLUGIN) for n in range(2)],
            "slices": lambda: tell(rig, *(slice_of(f"node-0000{n}") for n in range(2))),
            "class": lambda: tell(rig, class_of(SHIPPED)),
        }
        for step in (steps.pop(first), *steps.values()):
            step()
        label = {GROUP: "g"}
        rig.thing("coscheduling", "g", {"minMember": 2})
        rig.see(*(pod(f"g-{i}", labels=label, gpus=2) for i in range(2)))
        await rig.settle()
        rig.see(own("late", gpus=1))
        await rig.settle()
        assert sorted(rig.placed()) == ["g-0", "g-1"]
        assert free(rig).gpus == 0
        tell(rig, slice_of(NODE, device("a"), device("b"), device("c"), generation=2))
        await rig.settle()
        assert rig.placed()["late"] == NODE
        assert rig.ledger.devices.not_understood == {}

    tried(story, nodes=2)


def test_a_node_with_gpus_that_are_allocatable_has_no_others() -> None:
    async def story(rig: Rig) -> None:
        tell(rig, class_of(SHIPPED), slice_of(NODE))
        await rig.settle()
        assert free(rig).gpus == 8

    tried(story, nodes=1)


def test_claims_take_nothing_of_gpus_that_are_allocatable() -> None:
    async def story(rig: Rig) -> None:
        tell(rig, class_of(SHIPPED), slice_of(NODE), claim("gpu-0", pool=NODE))
        await rig.settle()
        assert free(rig).gpus == 8

    tried(story, nodes=1)


def test_devices_that_claims_hold_are_not_free() -> None:
    async def story(rig: Rig) -> None:
        tell_node(rig, **NO_PLUGIN)
        tell(rig, class_of(SHIPPED), slice_of(NODE), claim("gpu-0", pool=NODE))
        await rig.settle()
        assert free(rig).gpus == 1
        tell(rig, slice_of(NODE, device("gpu-1")))
        await rig.settle()
        assert free(rig).gpus == 1, "the claimed one is gone"
        tell(rig, slice_of(NODE), claim("gpu-0", "gpu-1", pool=NODE))
        await rig.settle()
        assert free(rig).gpus == 0
        tell(rig, claim("gpu-0", "gpu-1", pool=NODE), gone=True)
        await rig.settle()
        assert free(rig).gpus == 2

    tried(story, nodes=1)


OF_REQUESTS = {"resource.kubernetes.io/extended-resource-claim": "true"}
OF_TEMPLATE = {"resource.kubernetes.io/pod-claim-name": "gpus"}


@pytest.mark.parametrize("of_a_gang", [False, True])
@pytest.mark.parametrize("first", ["claim", "pod"])
@pytest.mark.parametrize(
    ("more", "said", "free_gpus"),
    [
        ({"gpus": 1}, {}, 1),
        ({"gpus": 1}, OF_TEMPLATE, 0),
        ({"gpus": 1, "resourceClaims": [{"name": "x", "resourceClaimName": "other"}]}, {}, 1),
        ({"gpus": 1, "resourceClaims": [{"name": "x", "resourceClaimName": "c"}]}, {}, 0),
        ({"gpus": 0}, {}, 1),
        (None, {}, 1),
    ],
)
def test_a_claim_stands_for_requests_only_where_kube_scheduler_made_it(
    more: dict[str, Any] | None, said: dict[str, str], free_gpus: int, first: str, of_a_gang: bool
) -> None:
    """Two devices, one of them claimed; whoever makes a claim writes its annotations."""

    async def story(rig: Rig) -> None:
        tell_node(rig, **NO_PLUGIN)
        tell(rig, class_of(SHIPPED), slice_of(NODE))
        made = claim("gpu-0", pool=NODE, pods=("holds",), annotations=OF_REQUESTS | said)
        steps = [lambda: tell(rig, made)]
        if more is not None:
            holds = (own if of_a_gang else pod)("holds", node=NODE, **more)
            steps.append(lambda: rig.see(holds))
        for step in steps if first == "claim" else reversed(steps):
            step()
        await rig.settle()
        assert free(rig).gpus == free_gpus

    tried(story, nodes=1)


@pytest.mark.parametrize("first", ["claim", "pod"])
@pytest.mark.parametrize("whose", ["nobody's", "a gang's", "a gang's later"])
def test_a_head_waits_for_devices_only_that_a_gang_gives_back(first: str, whose: str) -> None:
    """Two devices, one of them claimed: who needs both lets others pass, or keeps its turn."""

    async def story(rig: Rig) -> None:
        tell_node(rig, **NO_PLUGIN)
        tell(rig, class_of(SHIPPED), slice_of(NODE))
        held = claim("gpu-0", pool=NODE, pods=("holds",))
        holds = (own if whose == "a gang's" else pod)("holds", gpus=0, node=NODE)
        steps = [lambda: tell(rig, held), lambda: rig.see(holds)]
        for step in steps if first == "claim" else reversed(steps):
            step()
        if whose == "a gang's later":
            rig.see(own("holds", gpus=0, node=NODE))
        await rig.settle()
        rig.see(own("both", gpus=2))
        await rig.settle()
        rig.see(own("one", gpus=1))
        await rig.pass_s(60.0)
        assert sorted(rig.placed()) == (["one"] if whose == "nobody's" else [])
        tell(rig, held, gone=True)
        rig.lose(own("one", gpus=1))
        await rig.pass_s(60.0)
        assert "both" in rig.placed()

    tried(story, nodes=1)


def test_only_kube_scheduler_hands_devices_out() -> None:
    async def story(rig: Rig) -> None:
        tell_node(rig, **NO_PLUGIN)
        tell(rig, class_of(SHIPPED), slice_of(NODE))
        said = {"muster.dev/queue": "fast"}
        rig.see(own("a", gpus=1, annotations=said))
        rig.see(own("b", gpus=1, gated=False, schedulerName="muster-direct"))
        await rig.settle()
        assert rig.lanes() == {"a": "pinned"}
        assert "pod b has devices for nvidia.com/gpu" in rig.problem("n/b")

    tried(story, nodes=1, direct_queues=["fast"])


def test_a_node_whose_devices_are_not_understood_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story(rig: Rig) -> None:
        for number in range(2):
            tell_node(rig, number, **NO_PLUGIN)
        tell(rig, class_of("device.isNice()"), slice_of(NODE), slice_of("node-00001"))
        rig.see(own("a", gpus=1))
        await rig.settle()
        assert free(rig).gpus == 0
        assert set(rig.ledger.devices.not_understood) == {"node node-00000", "node node-00001"}
        seen = view(rig.control.names["n/a"], rig.ledger, rig.control.now_s())
        assert "devices of node node-00000 are not counted, nor of 1 more: " in seen.text
        assert "selector 'device.isNice()' is too complex for muster" in seen.text
        tell(rig, class_of(SHIPPED))
        await rig.settle()
        assert rig.ledger.devices.not_understood == {}
        assert set(rig.placed()) == {"a"}

    tried(story, nodes=2)
    said = [r.getMessage() for r in caplog.records if r.name == "muster.devices"]
    assert len(said) == 1, "once for all nodes of a kind"
    assert said[0].startswith("devices of node node-0000")


def test_a_pod_of_no_gang_may_go_where_muster_does_not_know_what_is_free() -> None:
    async def story(rig: Rig) -> None:
        for number in range(2):
            tell_node(rig, number, **NO_PLUGIN)
        tell(rig, class_of("device.isNice()"), slice_of(NODE))
        await rig.settle()
        lone = pod("lone", gpus=1, gated=False)
        found = answer(Extender(rig.control), lone, [NODE, "node-00001"])
        assert found["NodeNames"] == [NODE]

    tried(story, nodes=2)


# -- ranks that exit with 0 -----------------------------------------------------------------------

TOLD = {"deletionTimestamp": "2026-01-01T01:00:30Z", "deletionGracePeriodSeconds": 30}


def rank(number: int, **more: Any) -> Pod:
    """Return a rank of the gang."""
    return pod(f"g-{number}", labels={GROUP: "g"}, **more)


def ended(number: int, at: str = "", **meta: Any) -> Pod:
    """Return a rank whose container exited with 0; `at` is when."""
    found = msgspec.to_builtins(rank(number, node=f"node-0000{number}", phase="Succeeded"))
    found["metadata"] |= meta
    if at:
        state = {"terminated": {"exitCode": 0, "finishedAt": at}}
        found["status"]["containerStatuses"] = [{"name": "main", "state": state}]
    return msgspec.convert(found, Pod)


async def run_three(rig: Rig) -> None:
    """Let a gang of three run."""
    rig.thing("coscheduling", "g", {"minMember": 3})
    rig.see(*(rank(i, node=f"node-0000{i}") for i in range(3)))
    await rig.settle()


@pytest.mark.parametrize("seen_going", [True, False])
def test_a_rank_that_exits_0_while_it_is_deleted_is_lost_and_its_node_is_kept(
    seen_going: bool,
) -> None:
    async def story(rig: Rig) -> None:
        await run_three(rig)
        rig.see(own("filler"))
        if seen_going:
            going = msgspec.to_builtins(rank(1, node="node-00001"))
            going["metadata"] |= TOLD
            rig.see(msgspec.convert(going, Pod))
            await rig.settle()
        over = ended(1, "2026-01-01T01:00:05Z", **TOLD)
        rig.see(over)
        await rig.settle()
        assert rig.control.names["n/g"].num_succeeded == 0
        rig.lose(over)
        await rig.settle()
        assert rig.placed() == {}, "the node is the next rank 1's"
        rig.see(rank(1, uid="again"))
        await rig.settle()
        assert rig.placed() == {"g-1": "node-00001"}

    tried(story, nodes=3)


def test_a_rank_that_exits_0_while_it_is_deleted_and_does_not_come_again_ends_the_gang() -> None:
    async def story(rig: Rig) -> None:
        await run_three(rig)
        rig.see(ended(1, "2026-01-01T01:00:05Z", **TOLD))
        await rig.settle()
        await rig.pass_s(61)
        await rig.pass_s(61)
        assert sorted(rig.evicted()) == ["g-0", "g-2"]

    tried(story, nodes=3)


@pytest.mark.parametrize("policy", ["Failed", "TerminatingOrFailed", None])
def test_an_index_that_its_job_takes_for_completed_is_done(policy: str | None) -> None:
    """A Job that replaces only what failed never makes a pod for it again."""
    job = ("Job", "j", "uid-j")

    def index(number: int, **more: Any) -> Pod:
        labels = {"batch.kubernetes.io/job-completion-index": str(number)}
        return pod(f"j-{number}", labels=labels, owner=job, node=f"node-0000{number}", **more)

    async def story(rig: Rig) -> None:
        spec = {"parallelism": 3, "completions": 3, "completionMode": "Indexed"}
        rig.thing("Job", "j", {**spec, **({"podReplacementPolicy": policy} if policy else {})})
        rig.see(*(index(i) for i in range(3)))
        await rig.settle()
        over = msgspec.to_builtins(index(1, phase="Succeeded"))
        over["metadata"] |= TOLD
        rig.see(msgspec.convert(over, Pod))
        await rig.settle()
        await rig.pass_s(61)
        await rig.pass_s(61)
        assert sorted(rig.evicted()) == ([] if policy == "Failed" else ["j-0", "j-2"])

    tried(story, nodes=3)


@pytest.mark.parametrize("seen", ["before", "after"])
def test_a_rank_that_had_ended_when_it_was_deleted_has_done_its_work(seen: str) -> None:
    """What is left of it is cleared away; muster may have been down when it ended."""

    async def story(rig: Rig) -> None:
        await run_three(rig)
        if seen == "before":
            rig.see(ended(1))
            await rig.settle()
        rig.see(ended(1, "2026-01-01T00:59:59Z", **TOLD))
        await rig.pass_s(1000)
        await rig.pass_s(1000)
        assert rig.evicted() == []
        rig.see(own("filler"))
        await rig.settle()
        assert rig.placed() == {"filler": "node-00001"}

    tried(story, nodes=3)


@pytest.mark.parametrize(
    ("at", "meta", "well"),
    [
        ("", {}, True),
        ("2026-01-01T00:59:59Z", TOLD, True),
        ("2026-01-01T01:00:00Z", TOLD, False),  # in the second of the call
        ("2026-01-01T01:00:29Z", TOLD, False),
        ("", TOLD, False),
        ("2026-01-01T00:59:59Z", {**TOLD, "deletionGracePeriodSeconds": None}, True),
    ],
)
def test_when_a_rank_ended_tells_why_it_did(at: str, meta: dict[str, Any], well: bool) -> None:
    assert ended(1, at, **meta).ended_well is well


@pytest.mark.parametrize("began", ["before", "while it is away"])
@pytest.mark.parametrize("was_known", [False, True])
def test_a_rank_counts_on_a_node_that_is_heard_of_later(was_known: bool, began: str) -> None:
    """The watch of nodes may be behind, and a node may leave for a moment and come again."""

    async def story(rig: Rig) -> None:
        if not was_known:
            rig.node(1, change=Change.DELETED)
            await rig.settle()
        rig.see(*(pod(f"g-{i}", annotations=PAIR, node=f"node-0000{i}") for i in range(2)))
        await rig.settle()
        rig.node(1, change=Change.DELETED)
        await rig.settle()
        if began == "while it is away":
            rig = rig.restarted()
            await rig.settle()
        rig.node(1)
        rig.see(own("k"))
        await rig.settle()
        await rig.pass_s(rig.settings.timeouts.repair_s + 1)
        assert rig.placed() == {}
        assert rig.evicted() == []

    tried(story, nodes=2)


@pytest.mark.parametrize("was_told", [False, True])
def test_ranks_count_where_they_are_though_nobody_can_read_their_gang(was_told: bool) -> None:
    async def story(rig: Rig) -> None:
        owner, label = ("PyTorchJob", "j", "uid-j"), {"training.kubeflow.org/job-name": "j"}
        spec = {"pytorchReplicaSpecs": {"Worker": {"replicas": 2}}}
        if was_told:
            rig.thing("PyTorchJob", "j", spec)
            rig.see(*(pod(f"j-{i}", labels=label, owner=owner) for i in range(2)))
            await rig.settle()
            assert rig.placed() == {"j-0": "node-00000", "j-1": "node-00001"}
        rig.thing("PyTorchJob", "j", {"pytorchReplicaSpecs": {"Worker": {"replicas": -1}}})
        await rig.settle()
        at = {"j-0": "node-00001", "j-1": "node-00002"}
        runs = [pod(name, labels=label, owner=owner, node=node) for name, node in at.items()]
        rig.see(*runs)
        rig.see(own("k"), own("l"))
        await rig.settle()
        others = [node for name, node in rig.placed().items() if name in ("k", "l")]
        assert others == ["node-00000"], "one has to wait"
        rig.thing("PyTorchJob", "j", spec)
        await rig.settle()
        await rig.pass_s(rig.settings.timeouts.repair_s + 1)
        assert rig.evicted() == []
        rig.lose(*runs)
        await rig.settle()
        await rig.pass_s(rig.settings.timeouts.repair_s + 1)
        assert len(rig.placed()) == 2 + 2 * was_told

    tried(story, nodes=3)


TRAINING = {
    "Job": ({"parallelism": 3, "completions": 3, "completionMode": "Indexed"}, {}, JOB_INDEX),
    "PyTorchJob": (
        {"pytorchReplicaSpecs": {"Worker": {"replicas": 3}}},
        {KUBEFLOW_JOB: "j", KUBEFLOW_TYPE: "worker"},
        KUBEFLOW_INDEX,
    ),
}


@pytest.mark.parametrize("kind", TRAINING)
def test_a_rank_that_is_there_twice_is_none_of_those_that_are_missing(kind: str) -> None:
    spec, labels, index = TRAINING[kind]

    def rank(number: int, uid: str, **more: Any) -> Pod:
        said = {**labels, index: str(number)}
        return pod(f"j-{number}-{uid}", uid=uid, labels=said, owner=(kind, "j", "uid-j"), **more)

    async def story(rig: Rig) -> None:
        rig.thing(kind, "j", spec)
        rig.see(rank(0, "a"), rank(1, "b"), rank(1, "z"))
        await rig.settle()
        assert rig.placed() == {}
        rig.see(rank(2, "c"))
        await rig.settle()
        at = rig.placed()
        assert sorted(at) == ["j-0-a", "j-1-b", "j-2-c"]
        rig.see(*(rank(i, uid, node=at[f"j-{i}-{uid}"]) for i, uid in enumerate("abc")))
        await rig.pass_s(1.0)
        assert len(rig.placed()) == 3, "nor does a gang grow by it"
        rig.lose(rank(1, "b"))
        await rig.settle()
        assert "j-1-z" in rig.placed()

    tried(story, nodes=5)


def test_ranks_of_several_jobs_of_one_group_are_told_apart() -> None:
    async def story(rig: Rig) -> None:
        said = {"muster.dev/group": "g", "muster.dev/min-member": "4"}
        rig.see(
            *(
                pod(f"{of}-{i}", labels={JOB_INDEX: str(i), **said}, owner=("Job", of, f"uid-{of}"))
                for of in "jk"
                for i in range(2)
            )
        )
        await rig.settle()
        assert len(rig.placed()) == 4

    tried(story)
