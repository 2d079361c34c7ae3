"""What is kept of an object says the same to muster as the whole object, and little else."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from typing import Any

import msgspec
import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from bench.live_scale import ordinary
from scheduler.controlplane.objects import node as played
from scheduler.kube.api import Api
from scheduler.kube.objects import NodeObject, Pod, Thing
from scheduler.kube.watch import PAGE, Change, Informer
from scheduler.workloads.eligibility import may_use, unmodelled
from scheduler.workloads.gangs import key_of, rank_of
from scheduler.workloads.lean import lean_pod, lean_thing
from scheduler.workloads.requests import pod_shape
from scheduler.workloads.sizes import environment, size_of
from tests.scheduler.kube.serving import serving
from tests.scheduler.kube.test_watch import Server, change, served

GPU = "nvidia.com/gpu"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def pod(item: dict[str, Any]) -> Pod:
    return msgspec.json.decode(msgspec.json.encode(item), type=Pod)


def some(draw: random.Random) -> dict[str, Any]:
    """Return a pod as the API server has it, of any gang or none."""
    labels = draw.choice([
        {}, {"app": "a"}, {"muster.dev/group": "g", "muster.dev/min-member": "2"},
        {"scheduling.x-k8s.io/pod-group": "g"},
        {"training.kubeflow.org/job-name": "j", "training.kubeflow.org/replica-type": "worker",
         "training.kubeflow.org/replica-index": "3"},
        {"leaderworkerset.sigs.k8s.io/name": "l", "leaderworkerset.sigs.k8s.io/worker-index": "1"},
        {"kueue.x-k8s.io/pod-group-name": "k", "kueue.x-k8s.io/queue-name": "q"},
        {"jobset.sigs.k8s.io/jobset-name": "s", "jobset.sigs.k8s.io/job-index": "2",
         "jobset.sigs.k8s.io/replicatedjob-name": "w", "jobset.sigs.k8s.io/restart-attempt": "1"},
        {"batch.kubernetes.io/job-completion-index": "4"},
    ])  # fmt: skip
    annotations = draw.choice([
        {}, {"note": "n"}, {"scheduling.k8s.io/group-name": "v", "volcano.sh/task-spec": "ps"},
        {"muster.dev/group": "g", "muster.dev/min-member": "3"}, {"muster.dev/ignore": "true"},
        {"kueue.x-k8s.io/pod-group-total-count": "3"}, {"leaderworkerset.sigs.k8s.io/size": "2"},
    ])  # fmt: skip
    owner = {"kind": draw.choice(["Job", "ReplicaSet"]), "name": "o", "uid": "u"}
    env = [{"name": "WORLD_SIZE", "value": "4"}, {"name": "OTHER", "value": "x"}]
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    affinity = {
        "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}, PREFERRED: [{"weight": 1}]},
        "podAntiAffinity": draw.choice([{PREFERRED: [{}]}, {REQUIRED: [{"topologyKey": "t"}]}]),
    }
    has = {"requests": {"cpu": "1", GPU: "2"}, "limits": {GPU: "2"}}
    grown = {"requests": {"cpu": "3", GPU: "2"}}
    spec: dict[str, Any] = {
        "containers": [{"name": "pytorch", "env": env, "resources": has,
                        "ports": [{"containerPort": 1}, {"hostPort": draw.choice([0, 7])}]}],
        "volumes": draw.choice([[], [{"name": "a", "emptyDir": {}}],
                                [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]]),
        "affinity": draw.choice([None, affinity]), "nodeName": draw.choice(["", "node-00000"]),
        "tolerations": draw.choice([[], [{"key": "gpu", "operator": "Exists"}]]),
        "nodeSelector": draw.choice([{}, {"zone": "a"}]), "priority": 5,
    }  # fmt: skip
    if not spec["nodeName"] and draw.random() < 0.7:
        spec["schedulingGates"] = [{"name": "muster.dev/queued"}]
    status = {
        "phase": draw.choice(["Pending", "Running"]),
        "conditions": [{"type": "Ready"}, {"type": "PodScheduled", "status": "False",
                                           "reason": "Unschedulable", "message": "0/1 nodes"}],
        "containerStatuses": [{"name": "pytorch", "allocatedResources": grown["requests"],
                               "resources": draw.choice([has, grown])}],
    }  # fmt: skip
    meta = {
        "name": "p-7", "namespace": "n", "uid": "u", "labels": labels, "annotations": annotations,
        "ownerReferences": [{"kind": "Other", "name": "x"}, {**owner, "controller": True}],
    }  # fmt: skip
    return {"metadata": meta, "spec": spec, "status": status}


def says(one: Pod) -> list[object]:
    """Return what muster reads of a pod."""

    def find(*_: str) -> Thing | None:
        return None

    made = played(0, 8)
    made["metadata"]["labels"]["zone"] = "a"
    made["spec"] = {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}
    key = key_of(one, find)
    read = [key, one.metadata.controller(), pod_shape(one, GPU), one.refusal, one.gated]
    if key is None and one.spec.node_name:
        return read  # it is counted, and nothing else
    there = may_use(one, msgspec.convert(made, NodeObject))
    read += [there, unmodelled(one), one.claims_volumes, environment(one, "WORLD_SIZE")]
    return [*read, rank_of(one), size_of(key, [one], find) if key is not None else None]


@pytest.mark.parametrize("seed", range(200))
def test_what_is_kept_of_a_pod_says_the_same(seed: int) -> None:
    item = some(random.Random(seed))
    kept = lean_pod(pod(item))
    assert kept is not None
    assert says(kept) == says(pod(item))
    assert says(lean_pod(kept) or kept) == says(kept), "and once more"


def test_pods_of_no_gang_are_forgotten_when_they_end_and_those_of_gangs_are_not() -> None:
    item = ordinary(0, 1)
    item["status"]["phase"] = "Succeeded"
    assert lean_pod(pod(item)) is None
    item["metadata"]["labels"]["muster.dev/group"] = "g"
    kept = lean_pod(pod(item))
    assert kept is not None
    assert kept.ended_well


def test_an_ordinary_pod_takes_little() -> None:
    contents = [msgspec.json.encode(ordinary(number, 100)) for number in range(2000)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = [lean_pod(msgspec.json.decode(content, type=Pod)) for content in contents]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 2000
    assert (after - before) / 2000 < 2000


@pytest.mark.parametrize("phase", ["Pending", "Running", "Succeeded"])
@pytest.mark.parametrize("gated", [True, False])
def test_no_pod_takes_much(phase: str, gated: bool) -> None:
    """Whatever its owner wrote into it: an object has up to 1.5 MB."""
    long = "9" * 250_000
    item = ordinary(0, 1)
    term = {"matchExpressions": [{"key": f"k{n}", "operator": "Exists"} for n in range(10_000)]}
    item["metadata"]["labels"] = {"muster.dev/group": "g"} | {f"l{n}": "v" for n in range(10_000)}
    item["metadata"]["annotations"] = {"muster.dev/min-member": long, "note": long}
    item["spec"]["affinity"] = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}}
    item["spec"]["containers"][0]["env"] = [{"name": "WORLD_SIZE", "value": long}]
    item["spec"]["schedulerName"] = long
    item["status"]["phase"] = phase
    if gated:
        item["spec"] |= {"nodeName": "", "schedulingGates": [{"name": "muster.dev/queued"}]}
    content = msgspec.json.encode(item)
    lean_pod(msgspec.json.decode(content, type=Pod))
    tracemalloc.start()
    kept = lean_pod(msgspec.json.decode(content, type=Pod))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept is not None
    assert size < 100_000 if gated else size < 4_000_000
    if gated:
        assert "10,000 node affinity expressions" in kept.excess


@pytest.mark.parametrize("node", ["", "node-00000"])
@pytest.mark.parametrize("what", ["tolerations", "resources", "containers"])
def test_a_pod_counts_for_what_it_takes_whatever_else_it_lists(what: str, node: str) -> None:
    item = ordinary(0, 1)
    has = {"requests": {"cpu": "3", "nvidia.com/gpu": "8"}, "limits": {"nvidia.com/gpu": "8"}}
    many = {f"a.com/r{number}": "0" for number in range(300)}
    item["spec"] |= {"nodeName": node, "containers": [{"name": "main", "resources": has}]}
    match what:
        case "tolerations":
            item["spec"]["tolerations"] = [
                {"key": f"k{n}", "operator": "Exists"} for n in range(300)
            ]
        case "resources":
            has["requests"], has["limits"] = many | has["requests"], many | has["limits"]
        case "containers":
            item["spec"]["containers"] = [
                {"name": f"c{n}", "resources": has if n == 299 else {}} for n in range(300)
            ]
    kept = lean_pod(pod(item))
    assert kept is not None
    assert bool(kept.excess) == (not node)
    shape = pod_shape(kept, GPU)
    assert (shape.gpus, shape.cpu_milli) == (8, 3000)


def test_the_sum_of_what_a_pod_asks_for_can_be_read() -> None:
    """Each of its containers asks for as much as Kubernetes keeps, and it lists too much."""
    item = ordinary(0, 1)
    has = {"requests": {"memory": str((1 << 63) - 1)}}
    item["spec"]["containers"] = [{"name": f"c{n}", "resources": has} for n in range(2)]
    item["spec"]["nodeName"] = ""
    item["spec"]["tolerations"] = [{"key": f"k{n}", "operator": "Exists"} for n in range(300)]
    kept = lean_pod(pod(item))
    assert kept is not None and kept.excess
    assert pod_shape(kept, GPU) == pod_shape(pod(item), GPU)


def test_jobs_are_kept_without_the_templates_of_their_pods() -> None:
    template = {"spec": {"containers": [{"env": [{"name": "A", "value": "x" * 1000}]}]}}
    jobs = [
        {"parallelism": 2, "completions": 2, "template": template},
        {"pytorchReplicaSpecs": {"Worker": {"replicas": 3, "template": template}}},
        {"replicatedJobs": [{"name": "w", "replicas": 2, "template": {
            "spec": {"parallelism": 4, "template": template}}}]},
    ]  # fmt: skip
    kept = [
        lean_thing(msgspec.convert({"metadata": {"name": "j"}, "spec": spec}, Thing)).spec
        for spec in jobs
    ]
    assert kept == [
        {"parallelism": 2, "completions": 2},
        {"pytorchReplicaSpecs": {"Worker": {"replicas": 3}}},
        {
            "replicatedJobs": [
                {"name": "w", "replicas": 2, "template": {"spec": {"parallelism": 4}}}
            ]
        },
    ]


def test_a_pod_that_ends_is_gone_for_who_watches() -> None:
    async def story(server: Server, api: Api) -> None:
        heard: list[tuple[str, str]] = []
        over = asyncio.Event()

        def handler(kind: Change, item: Pod) -> None:
            heard.append((str(kind), item.metadata.name[-1]))
            if kind is Change.DELETED:
                over.set()

        runs, ended = ordinary(1, 1), ordinary(2, 1)
        ended["status"]["phase"] = "Failed"
        server.items = [runs, ended]
        informer = Informer(api, "/things", Pod, handler, lean=lean_pod)
        watch = asyncio.create_task(informer.run())
        await informer.synced.wait()
        runs["status"]["phase"] = "Succeeded"
        await server.changes.put(change("MODIFIED", runs))
        await asyncio.wait_for(over.wait(), 10.0)
        assert heard == [("ADDED", "1"), ("DELETED", "1")]
        assert not informer._known
        watch.cancel()

    served(story)


def test_pages_of_large_objects_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of small objects, then large ones: no answer is kept that is too long."""
    monkeypatch.setattr("scheduler.kube.watch.MOST_BYTES", 1 << 20)
    monkeypatch.setattr("scheduler.kube.watch.PAGE_BYTES", 1 << 17)
    sizes = [10] * 1000 + [100_000] * 60
    asked: list[int] = []

    async def things(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            await asyncio.sleep(60.0)
        limit, first = int(request.query["limit"]), int(request.query.get("continue", "0"))
        asked.append(limit)
        last = min(first + limit, len(sizes))
        items = [
            {"metadata": {"name": f"t{n}", "uid": f"t{n}"}, "spec": {"text": "x" * sizes[n]}}
            for n in range(first, last)
        ]
        more = str(last) if last < len(sizes) else ""
        meta = {"resourceVersion": "1", "continue": more}
        return web.json_response({"metadata": meta, "items": items})

    async def story(server: Server, api: Api) -> None:
        server.things = things  # type: ignore[method-assign]
        informer = Informer(api, "/pages", Thing, lambda kind, item: None)
        watch = asyncio.create_task(informer.run())
        await asyncio.wait_for(informer.synced.wait(), 20.0)
        assert len(informer._known) == len(sizes)
        assert max(asked) == PAGE
        assert min(asked) == 1
        watch.cancel()

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/pages", things)
        async with serving(app) as url, Api(Configuration(host=url)) as api:
            await story(Server(), api)

    asyncio.run(run())
