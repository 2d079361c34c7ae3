"""Every source that names a gang: it starts whole or not at all, as large as its owner says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.conftest import NODES, Kube, gang, group, pod, pytorchjob
from tests.cluster.definitions import create, define, thing

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

Pods = list[dict[str, Any]]


@pytest.fixture
def kinds(kube: Kube) -> None:
    """Make Volcano's, JobSet's and LeaderWorkerSet's kinds known to the cluster."""
    define(kube)


def waits_for(kube: Kube, space: str, name: str, present: int, needed: int) -> dict[str, Any]:
    """Wait until muster sees so many pods of a gang, and needs more."""

    def seen() -> dict[str, Any] | None:
        story = kube.explain(space, name)
        if (story.get("pods_present"), story.get("pods_needed")) != (present, needed):
            return None
        return story if story["reason"] == "members" else None

    story: dict[str, Any] = kube.until(f"{name} has {present} of {needed} pods", seen)
    return story


def starts_whole(kube: Kube, space: str, name: str, source: str, pods: Pods) -> None:
    """Create a gang's pods; none may be bound before the last is there, then all are."""
    kube.create(*pods[:-1])
    story = waits_for(kube, space, name, len(pods) - 1, len(pods))
    assert story["source"] == source
    names = {one["metadata"]["name"] for one in pods}
    made = kube.pods(space)
    assert all(made[p]["spec"].get("schedulingGates") for p in names & set(made))
    assert not names & set(kube.bound(space))
    kube.create(pods[-1])
    kube.until(f"{name} is bound whole", lambda: names <= set(kube.bound(space)))


def test_native_pod_group(kube: Kube, space: str) -> None:
    policy = {"schedulingPolicy": {"gang": {"minCount": 3}}}
    create(kube, thing(space, "scheduling.k8s.io/v1beta1", "PodGroup", "native", policy))
    pods = [pod(space, f"n-{i}", schedulingGroup={"podGroupName": "native"}) for i in range(3)]
    starts_whole(kube, space, "native", "PodGroup.scheduling.k8s.io", pods)


def test_coscheduling_pod_group(kube: Kube, space: str) -> None:
    first, *pods = gang(space, "co", 3)
    kube.create(first)
    starts_whole(kube, space, "co", "PodGroup.scheduling.x-k8s.io", pods)


def volcano(space: str, name: str, role: str, index: int) -> dict[str, Any]:
    """Return a pod as Volcano's job controller makes it."""
    said = {"scheduling.k8s.io/group-name": name, "volcano.sh/task-spec": role}
    return pod(space, f"{name}-{role}-{index}", annotations=said)


def test_volcano_pod_group(kube: Kube, space: str, kinds: None) -> None:
    create(kube, thing(space, "scheduling.volcano.sh/v1beta1", "PodGroup", "vg", {"minMember": 3}))
    pods = [volcano(space, "vg", "worker", i) for i in range(3)]
    starts_whole(kube, space, "vg", "PodGroup.scheduling.volcano.sh", pods)


def test_volcano_pod_group_with_a_minimum_per_role(kube: Kube, space: str, kinds: None) -> None:
    """Three actors are as many pods as the minimum says, and no learner: they must not start."""
    spec = {"minMember": 3, "minTaskMember": {"actor": 2, "learner": 1}}
    create(kube, thing(space, "scheduling.volcano.sh/v1beta1", "PodGroup", "rl", spec))
    kube.create(*(pod(space, f"filler-{i}") for i in range(NODES - 3)))
    kube.until("three nodes are left", lambda: len(kube.bound(space)) == NODES - 3)
    kube.create(*(volcano(space, "rl", "actor", i) for i in range(4)))
    story = waits_for(kube, space, "rl", 4, 5)
    assert story["source"] == "PodGroup.scheduling.volcano.sh"
    assert not any(p.startswith("rl-") for p in kube.bound(space))
    kube.create(volcano(space, "rl", "learner", 0))
    kube.until("three of rl run", lambda: len(kube.bound(space)) == NODES)
    started = {p for p in kube.bound(space) if p.startswith("rl-")}
    assert started == {"rl-learner-0", "rl-actor-0", "rl-actor-1"}


def test_kueue_plain_pods(kube: Kube, space: str) -> None:
    label = {"kueue.x-k8s.io/pod-group-name": "plain"}
    count = {"kueue.x-k8s.io/pod-group-total-count": "3"}
    pods = [pod(space, f"plain-{i}", labels=label, annotations=count) for i in range(3)]
    starts_whole(kube, space, "plain", "Kueue pod group", pods)


def test_pytorchjob(kube: Kube, space: str) -> None:
    """The operator makes the pods; with too few nodes none of them starts."""
    kube.create(pod(space, "filler"))
    kube.until("filler runs", lambda: "filler" in kube.bound(space))
    kube.create(pytorchjob(space, "pt", NODES - 1, 8))
    story = kube.until(
        "pt waits for capacity",
        lambda: (e := kube.explain(space, "pt")).get("reason") == "capacity" and e,
    )
    assert (story["pods_needed"], story["pods_present"]) == (NODES, NODES)
    assert set(kube.bound(space)) == {"filler"}
    kube.delete(f"/api/v1/namespaces/{space}/pods/filler")
    kube.until("pt is bound whole", lambda: len(kube.bound(space)) == NODES)


def test_training_job_whose_owner_cannot_be_read(kube: Kube, space: str) -> None:
    """Without the job, and without its PodGroup, the pods' environment says the size."""

    def rank(index: int) -> dict[str, Any]:
        labels = {
            "training.kubeflow.org/job-name": "env",
            "training.kubeflow.org/replica-type": "worker",
            "training.kubeflow.org/replica-index": str(index),
        }
        one = pod(space, f"env-worker-{index}", labels=labels)
        one["spec"]["containers"][0]["env"] = [{"name": "PET_NNODES", "value": "3"}]
        return one

    starts_whole(kube, space, "env", "Kubeflow job", [rank(i) for i in range(3)])


def part(name: str, replicas: int, parallelism: int, **more: Any) -> dict[str, Any]:
    """Return a replicated job of a JobSet."""
    job = {"spec": {"parallelism": parallelism, "completions": parallelism}}
    return {"name": name, "replicas": replicas, "template": job, **more}


def jobset_pod(
    space: str, name: str, role: str, job: int, index: int, **labels: str
) -> dict[str, Any]:
    """Return a pod as the JobSet controller's jobs make it."""
    known = {
        "jobset.sigs.k8s.io/jobset-name": name,
        "jobset.sigs.k8s.io/replicatedjob-name": role,
        "jobset.sigs.k8s.io/job-index": str(job),
        "batch.kubernetes.io/job-completion-index": str(index),
        **labels,
    }
    return pod(space, f"{name}-{role}-{job}-{index}", labels=known)


def jobset(kube: Kube, space: str, name: str, parts: list[dict[str, Any]], **spec: Any) -> None:
    """Create a JobSet; muster has seen it when this returns."""
    spec["replicatedJobs"] = parts
    create(kube, thing(space, "jobset.x-k8s.io/v1alpha2", "JobSet", name, spec))
    seen_later = {"jobset.sigs.k8s.io/jobset-name": f"{name}-probe"}
    probe = thing(space, "jobset.x-k8s.io/v1alpha2", "JobSet", f"{name}-probe", {})
    probe["spec"] = {"replicatedJobs": [part("p", 1, 2)]}
    create(kube, probe)
    kube.create(pod(space, f"{name}-probe", labels=seen_later))
    waits_for(kube, space, f"{name}-probe", 1, 2)
    kube.delete(f"/api/v1/namespaces/{space}/pods/{name}-probe")


def test_jobset(kube: Kube, space: str, kinds: None) -> None:
    jobset(kube, space, "js", [part("driver", 1, 1), part("worker", 2, 2)])
    pods = [jobset_pod(space, "js", "driver", 0, 0)]
    pods += [jobset_pod(space, "js", "worker", job, i) for job in range(2) for i in range(2)]
    starts_whole(kube, space, "js", "JobSet", pods)


@pytest.mark.parametrize("how", ["startup-policy", "depends-on"])
def test_54_jobset_with_ordered_parts_is_a_gang_per_part(
    kube: Kube, space: str, kinds: None, how: str
) -> None:
    """The second part comes when the first has run: a gang of both would never be complete."""
    if how == "startup-policy":
        order = {"startupPolicy": {"startupPolicyOrder": "InOrder"}}
        parts = [part("prepare", 1, 2), part("train", 1, 3)]
    else:
        order = {}
        parts = [part("prepare", 1, 2)]
        parts += [part("train", 1, 3, dependsOn=[{"name": "prepare", "status": "Complete"}])]
    jobset(kube, space, "js", parts, **order)
    first = [jobset_pod(space, "js", "prepare", 0, i) for i in range(2)]
    starts_whole(kube, space, "js-prepare", "JobSet", first)
    second = [jobset_pod(space, "js", "train", 0, i) for i in range(3)]
    starts_whole(kube, space, "js-train", "JobSet", second)


def test_54_initializers_of_a_trainjob_are_not_waited_for(
    kube: Kube, space: str, kinds: None
) -> None:
    """The runtime's PodGroup counts two initializers, which are done before the trainers exist."""
    create(kube, thing(space, "trainer.kubeflow.org/v1alpha1", "TrainJob", "tj", {}))
    complete = {"status": "Complete"}
    steps = ["dataset-initializer", "model-initializer"]
    parts = [part(step, 1, 1) for step in steps]
    parts.append(part("node", 1, 3, dependsOn=[{"name": step, **complete} for step in steps]))
    jobset(kube, space, "tj", parts)
    kube.create(group(space, "tj", 5))
    labels = {"scheduling.x-k8s.io/pod-group": "tj"}
    for step in steps:
        said = {"trainer.kubeflow.org/trainjob-ancestor-step": step}
        one = jobset_pod(space, "tj", step, 0, 0, **labels, **said)
        one["metadata"]["annotations"] = {"muster.dev/run-for": "1s"}
        kube.create(one)
    kube.until(
        "the initializers are done",
        lambda: [p["status"]["phase"] for p in kube.pods(space).values()] == ["Succeeded"] * 2,
    )
    said = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    trainers = [jobset_pod(space, "tj", "node", 0, i, **labels, **said) for i in range(3)]
    starts_whole(kube, space, "tj", "PodGroup.scheduling.x-k8s.io", trainers)


def test_54_trainjob_without_a_pod_group(kube: Kube, space: str, kinds: None) -> None:
    """54: its JobSet alone says that the initializer is a gang of its own."""
    parts = [part("dataset-initializer", 1, 1)]
    parts.append(
        part("node", 1, 2, dependsOn=[{"name": "dataset-initializer", "status": "Complete"}])
    )
    jobset(kube, space, "tj", parts)
    kube.create(jobset_pod(space, "tj", "dataset-initializer", 0, 0))
    kube.until("the initializer runs", lambda: len(kube.bound(space)) == 1)
    nodes = [jobset_pod(space, "tj", "node", 0, i) for i in range(2)]
    starts_whole(kube, space, "tj-node", "JobSet", nodes)


def test_leader_worker_set_is_a_gang_per_replica(kube: Kube, space: str) -> None:
    def member(replica: int, worker: int) -> dict[str, Any]:
        labels = {
            "leaderworkerset.sigs.k8s.io/name": "lws",
            "leaderworkerset.sigs.k8s.io/group-index": str(replica),
            "leaderworkerset.sigs.k8s.io/worker-index": str(worker),
        }
        size = {"leaderworkerset.sigs.k8s.io/size": "3"}
        name = f"lws-{replica}-{worker}" if worker else f"lws-{replica}"
        return pod(space, name, labels=labels, annotations=size)

    kube.create(*(member(1, i) for i in range(2)))
    starts_whole(kube, space, "lws-0", "LeaderWorkerSet", [member(0, i) for i in range(3)])
    waits_for(kube, space, "lws-1", 2, 3)
    assert set(kube.bound(space)) == {"lws-0", "lws-0-1", "lws-0-2"}
    kube.create(member(1, 2))
    kube.until("both replicas run", lambda: len(kube.bound(space)) == 6)


def indexed_job(space: str, name: str, parallelism: int, completions: int) -> dict[str, Any]:
    """Return an Indexed Job with a node per pod."""
    container = pod(space, name)["spec"]["containers"][0]
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    spec = {
        "completionMode": "Indexed",
        "parallelism": parallelism,
        "completions": completions,
        "template": template,
    }
    return thing(space, "batch/v1", "Job", name, spec)


def test_indexed_job(kube: Kube, space: str) -> None:
    kube.create(pod(space, "filler"))
    kube.until("filler runs", lambda: "filler" in kube.bound(space))
    kube.create(indexed_job(space, "ij", NODES, NODES))
    story = kube.until(
        "ij waits for capacity",
        lambda: (e := kube.explain(space, "ij")).get("reason") == "capacity" and e,
    )
    assert (story["source"], story["pods_needed"]) == ("Job", NODES)
    assert set(kube.bound(space)) == {"filler"}
    kube.delete(f"/api/v1/namespaces/{space}/pods/filler")
    kube.until("ij is bound whole", lambda: len(kube.bound(space)) == NODES)


def test_indexed_job_that_works_through_a_list_is_no_gang(kube: Kube, space: str) -> None:
    kube.create(pod(space, "filler"))
    kube.until("filler runs", lambda: "filler" in kube.bound(space))
    kube.create(indexed_job(space, "list", NODES, 2 * NODES))
    kube.until("as many as fit run", lambda: len(kube.bound(space)) == NODES)


@pytest.mark.parametrize("where", ["labels", "annotations"])
def test_own_label(kube: Kube, space: str, where: str) -> None:
    said = {where: {"muster.dev/group": "own", "muster.dev/min-member": "3"}}
    pods = [pod(space, f"own-{i}", **said) for i in range(3)]  # type: ignore[arg-type]
    starts_whole(kube, space, "own", "muster.dev/group", pods)


def test_two_sources_that_disagree_are_told_and_the_stricter_rules(kube: Kube, space: str) -> None:
    label, own = {"scheduling.x-k8s.io/pod-group": "split"}, {"muster.dev/min-member": "3"}
    kube.create(group(space, "split", 2))
    kube.create(*(pod(space, f"split-{i}", labels=label, annotations=own) for i in range(2)))
    waits_for(kube, space, "split", 2, 3)
    said = "PodGroup says 2, muster.dev/min-member says 3; 3 counts"
    # pods may be seen before the group
    kube.until("it says so", lambda: said in kube.explain(space, "split").get("text", ""))

    def notes() -> list[str]:
        items = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
        return [item["note"] for item in items if item["reason"] == "SizesDisagree"]

    kube.until("an Event says so", lambda: said in notes())
    kube.create(pod(space, "split-2", labels=label, annotations=own))
    kube.until("split is bound whole", lambda: len(kube.bound(space)) == 3)
    assert notes() == [said], "once, however often the gang is looked at"
