"""What the real training-operator does to a job, and what the user of that job gets then."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.conftest import NODES, Kube, gang, pod, pytorchjob
from tests.cluster.test_failure_extender import HIGH, want_priority

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

GROUPS = "/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{}/podgroups/{}"
JOBS = "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs/{}"


@pytest.fixture
def full(kube: Kube, space: str) -> str:
    """Return a namespace whose gang `blocker` holds every node."""
    kube.create(*gang(space, "blocker", NODES))
    kube.until("blocker is bound", lambda: len(kube.bound(space)) == NODES)
    return space


def free(kube: Kube, space: str, count: int = NODES) -> None:
    """Take blocker's nodes away from it."""
    for i in range(count):
        kube.delete(f"/api/v1/namespaces/{space}/pods/blocker-{i}")


def of_job(kube: Kube, space: str, name: str) -> dict[str, dict[str, Any]]:
    """Return a job's pods that are there to stay."""
    return {
        p: one
        for p, one in kube.pods(space).items()
        if one["metadata"].get("labels", {}).get("training.kubeflow.org/job-name") == name
        and "deletionTimestamp" not in one["metadata"]
    }


def bound(kube: Kube, space: str, name: str) -> set[str]:
    """Return a job's pods that have a node."""
    return {p for p, one in of_job(kube, space, name).items() if one["spec"].get("nodeName")}


def story(kube: Kube, space: str, name: str, reason: str, **facts: object) -> dict[str, Any]:
    """Wait until a gang waits for this reason, with these facts; return all that is told of it."""

    def seen() -> dict[str, Any] | None:
        found = kube.explain(space, name)
        same = all(found.get(key) == value for key, value in facts.items())
        return found if same and found.get("reason") == reason else None

    found: dict[str, Any] = kube.until(f"{name}: {reason} {facts}", seen)
    return found


def world_sizes(pods: dict[str, dict[str, Any]]) -> set[str]:
    """Return the different values of WORLD_SIZE."""
    return {
        variable["value"]
        for one in pods.values()
        for variable in one["spec"]["containers"][0]["env"]
        if variable["name"] == "WORLD_SIZE"
    }


def test_47_scaled_while_it_waits_every_rank_knows_the_new_world_size(
    kube: Kube, full: str
) -> None:
    """The operator leaves pods of the old size; those would wait for each other for ever."""
    kube.create(pytorchjob(full, "grows", 3))
    story(kube, full, "grows", "capacity", pods_present=4, pods_needed=4)
    old = {one["metadata"]["uid"] for one in of_job(kube, full, "grows").values()}
    more = {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 30}}}}
    kube.patch(JOBS.format(full, "grows"), more)
    story(kube, full, "grows", "capacity", pods_present=31, pods_needed=31)
    kube.until("31 agree", lambda: world_sizes(of_job(kube, full, "grows")) == {"31"})
    pods = of_job(kube, full, "grows")
    assert len(pods) == 31
    assert not old & {one["metadata"]["uid"] for one in pods.values()}
    assert bound(kube, full, "grows") == set()
    free(kube, full)
    kube.until("all 31 are bound", lambda: len(bound(kube, full, "grows")) == 31)
    assert world_sizes(of_job(kube, full, "grows")) == {"31"}


def test_47_scaled_down_while_it_waits(kube: Kube, full: str) -> None:
    """The operator takes its time to remove pods; none that is to go may be started."""
    kube.create(pytorchjob(full, "shrinks", 12))
    story(kube, full, "shrinks", "capacity", pods_present=13, pods_needed=13)
    less = {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 2}}}}
    kube.patch(JOBS.format(full, "shrinks"), less)
    free(kube, full)
    three = {"shrinks-master-0", "shrinks-worker-0", "shrinks-worker-1"}
    ever: set[str] = set()

    def only_three() -> bool:
        pods = of_job(kube, full, "shrinks")
        ever.update(p for p, one in pods.items() if one["spec"].get("nodeName"))
        return set(pods) == ever == three

    kube.until("the three are bound, and the others gone", only_three)
    assert world_sizes(of_job(kube, full, "shrinks")) == {"3"}


def test_51_elastic_minimum_starts_though_the_operator_asks_for_all(kube: Kube, full: str) -> None:
    job = pytorchjob(full, "elastic", 4, 8)
    del job["spec"]["pytorchReplicaSpecs"]["Master"]
    job["spec"]["elasticPolicy"] = {"minReplicas": 2, "maxReplicas": 4, "rdzvBackend": "c10d"}
    kube.create(job)
    found = story(kube, full, "elastic", "capacity", pods_present=4)
    assert (found["pods_needed"], found["pods_total"]) == (2, 4)
    made = kube.call("GET", GROUPS.format(full, "elastic"))
    assert made["spec"]["minMember"] == 4, "what the operator says"
    free(kube, full, 1)
    kube.until("blocker is cut", lambda: len(bound_of(kube, full, "blocker")) < NODES)
    free(kube, full)
    kube.until("elastic runs", lambda: len(bound(kube, full, "elastic")) == 4)


def bound_of(kube: Kube, space: str, name: str) -> set[str]:
    """Return the bound pods of a gang whose pods carry its name."""
    return {p for p in kube.bound(space) if p.startswith(f"{name}-")}


def test_46_minimum_available_of_the_scheduling_policy(kube: Kube, space: str) -> None:
    kube.create(*(pod(space, f"filler-{i}") for i in range(NODES - 2)))
    kube.until("two nodes are left", lambda: len(kube.bound(space)) == NODES - 2)
    job = pytorchjob(space, "least", 4, 8)
    job["spec"]["runPolicy"] = {"schedulingPolicy": {"minAvailable": 2}}
    kube.create(job)
    # which worker depends on whose pod the operator made first
    kube.until("the minimum runs", lambda: len(bound(kube, space, "least")) == 2)
    assert "least-master-0" in bound(kube, space, "least")
    kube.delete(f"/api/v1/namespaces/{space}/pods/filler-0")
    kube.until("one more runs", lambda: len(bound(kube, space, "least")) == 3)


def test_the_jobs_queue_counts_and_the_priority_of_its_pods(kube: Kube, full: str) -> None:
    """The operator passes neither on. A class that the job names was admitted by nobody."""
    want_priority(kube)
    kube.create(pytorchjob(full, "plain", 1, 8))
    story(kube, full, "plain", "capacity", pods_present=2, position=1, priority=0, queue="")
    dropped = pytorchjob(full, "dropped", 1, 8)
    policy = {"queue": "research", "priorityClass": HIGH, "minAvailable": 2}
    dropped["spec"]["runPolicy"] = {"schedulingPolicy": policy}
    kube.create(dropped)
    found = story(kube, full, "dropped", "capacity", pods_present=2, position=2)
    assert (found["priority"], found["queue"]) == (0, "research")
    made = kube.call("GET", GROUPS.format(full, "dropped"))
    assert not {"queue", "priorityClass", "priorityClassName"} & set(made["spec"])

    lifted = cpu_master(full, "lifted", 1)
    master = lifted["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    master["priorityClassName"] = HIGH
    kube.create(lifted)
    found = story(kube, full, "lifted", "capacity", pods_present=2, position=3)
    assert found["priority"] == 0, "one pod without a GPU lifts nobody"

    urgent = pytorchjob(full, "urgent", 1, 8, annotations={"muster.dev/queue": "research"})
    for replicas in urgent["spec"]["pytorchReplicaSpecs"].values():
        replicas["template"]["spec"]["priorityClassName"] = HIGH
    kube.create(urgent)
    found = story(kube, full, "urgent", "capacity", pods_present=2, position=1)
    assert (found["priority"], found["queue"]) == (1000, "research")
    story(kube, full, "plain", "capacity", position=2)


def test_47_pod_group_that_the_operator_rewrites(kube: Kube, full: str) -> None:
    """Whoever edits the PodGroup, the job says how many pods are needed."""
    kube.create(pytorchjob(full, "edited", 3))
    story(kube, full, "edited", "capacity", pods_present=4, pods_needed=4)
    path = GROUPS.format(full, "edited")
    for wrong in (2, 9):
        kube.patch(path, {"spec": {"minMember": wrong}})
        kube.until(
            "the operator wrote over it",
            lambda: kube.call("GET", path)["spec"]["minMember"] == 4,
        )
        story(kube, full, "edited", "capacity", pods_present=4, pods_needed=4)
    free(kube, full)
    kube.until("edited is bound whole", lambda: len(bound(kube, full, "edited")) == 4)


def test_48_pod_group_deleted_while_the_job_waits(kube: Kube, full: str) -> None:
    """The operator does not make it again until the job changes; the job does without."""
    kube.create(pytorchjob(full, "bare", 3))
    story(kube, full, "bare", "capacity", pods_present=4, pods_needed=4)
    kube.delete(GROUPS.format(full, "bare"))
    free(kube, full)
    kube.until("bare is bound whole", lambda: len(bound(kube, full, "bare")) == 4)


def test_48_pod_group_deleted_while_the_job_runs(kube: Kube, space: str) -> None:
    kube.create(pytorchjob(space, "runs", 3))
    kube.until("runs is bound", lambda: len(bound(kube, space, "runs")) == 4)
    uids = {one["metadata"]["uid"] for one in of_job(kube, space, "runs").values()}
    kube.delete(GROUPS.format(space, "runs"))
    kube.create(*gang(space, "next", 2))
    kube.until("next is bound", lambda: len(bound_of(kube, space, "next")) == 2)
    assert {one["metadata"]["uid"] for one in of_job(kube, space, "runs").values()} == uids


def cpu_master(space: str, name: str, workers: int) -> dict[str, Any]:
    """Return a job whose master asks for no GPU."""
    job = pytorchjob(space, name, workers, 8)
    master = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    master["resources"] = {"requests": {"cpu": "1"}}
    return job


def test_55_master_without_a_gpu_is_gated_and_starts_with_its_workers(
    kube: Kube, full: str
) -> None:
    kube.create(cpu_master(full, "mixed", 2))
    story(kube, full, "mixed", "capacity", pods_present=3, pods_needed=3)
    pods = of_job(kube, full, "mixed")
    gates = {p: one["spec"].get("schedulingGates") for p, one in pods.items()}
    assert gates == {p: [{"name": "muster.dev/queued"}] for p in gates}
    assert bound(kube, full, "mixed") == set()
    free(kube, full)
    kube.until("mixed is bound whole", lambda: len(bound(kube, full, "mixed")) == 3)
    assert len(plans(kube, full, "mixed")) == 1


def plans(kube: Kube, space: str, name: str) -> set[str]:
    """Return the plans, with their generation, under which a job's pods were released."""
    pods = of_job(kube, space, name)
    texts = [one["metadata"].get("annotations", {})["muster.dev/plan"] for one in pods.values()]
    return {text.rpartition("/")[0] for text in texts}


def test_workers_are_never_released_before_their_master(kube: Kube, full: str) -> None:
    """A worker's init container gives up 200 s after it starts, if it cannot find the master."""
    kube.create(pytorchjob(full, "late", 3, 8))
    story(kube, full, "late", "capacity", pods_present=4, pods_needed=4)
    workers = [one for p, one in of_job(kube, full, "late").items() if "-worker-" in p]
    assert all(one["spec"]["initContainers"] for one in workers), "they look for the master"
    kube.delete(f"/api/v1/namespaces/{full}/pods/late-master-0")
    free(kube, full)
    early: list[set[str]] = []

    def whole() -> bool:
        pods = of_job(kube, full, "late")
        free_to_go = {p for p, one in pods.items() if not one["spec"].get("schedulingGates")}
        if free_to_go and "late-master-0" not in pods:
            early.append(free_to_go)
        return len(bound(kube, full, "late")) == 4

    kube.until("late is bound whole", whole)
    assert not early, "workers were let go while there was no master"
    assert len(plans(kube, full, "late")) == 1, "the master is in the same plan as its workers"
