"""Rules of the controller on the real control plane.

tests/scheduler/controller/test_controller.py has them all.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.conftest import NODES, Kube, gang, group, pod, pytorchjob
from tests.cluster.definitions import create, define_job, thing
from tests.cluster.test_operator import JOBS, bound, of_job, story, world_sizes

pytestmark = [pytest.mark.k8s, pytest.mark.slow]


def events(kube: Kube, space: str, reason: str) -> list[str]:
    """Return the texts of muster's Events of one reason."""
    items = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
    return [item["note"] for item in items if item["reason"] == reason]


def own(group_name: str, **more: str) -> dict[str, str]:
    """Return the annotations of a gang of one."""
    return {"muster.dev/group": group_name, "muster.dev/min-member": "1", **more}


def test_pods_that_are_odd_stop_no_gang_and_are_served_as_well(kube: Kube, space: str) -> None:
    pid = kube.cluster.process("muster").pid
    kube.create(
        pod(space, "plus", annotations=own("exp+1")),
        pod(space, "digits", annotations=own("digits", **{"muster.dev/walltime": "9" * 400})),
        pod(space, "many", annotations=own("many", **{"muster.dev/min-member": "9" * 30})),
        pod(space, "volcano", annotations={"scheduling.k8s.io/group-name": "a+b"}),
    )
    kube.create(*gang(space, "good", 3))
    served = {"digits", *(f"good-{i}" for i in range(3))}
    kube.until("all that can be served are bound", lambda: set(kube.bound(space)) == served)

    def told() -> set[str]:
        items = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
        return {i["regarding"]["name"] for i in items if i["reason"] == "NotUnderstood"}

    kube.until("each of the others is told why", lambda: told() >= {"plus", "many", "volcano"})
    assert kube.cluster.process("muster").pid == pid
    assert kube.cluster.healthy("muster")


def test_a_pod_group_that_is_used_again_starts_whole_again(kube: Kube, space: str) -> None:
    label = {"scheduling.x-k8s.io/pod-group": "again"}
    kube.create(group(space, "again", 3))
    soon = {"muster.dev/run-for": "1s"}
    kube.create(*(pod(space, f"a-{i}", labels=label, annotations=soon) for i in range(3)))

    def ended() -> bool:
        return [p["status"]["phase"] for p in kube.pods(space).values()] == ["Succeeded"] * 3

    kube.until("the first run is over", ended)
    kube.create(*(pod(space, f"b-{i}", labels=label) for i in range(2)))
    story(kube, space, "again", "members", pods_present=2, pods_needed=3)
    for i in range(3):
        kube.delete(f"/api/v1/namespaces/{space}/pods/a-{i}")
    kube.until("only the new pods are left", lambda: set(kube.pods(space)) == {"b-0", "b-1"})
    story(kube, space, "again", "members", pods_present=2, pods_needed=3)
    assert not kube.bound(space)
    kube.create(pod(space, "b-2", labels=label))
    kube.until("the second run is bound whole", lambda: len(kube.bound(space)) == 3)


def test_a_world_size_in_the_template_is_not_what_the_container_sees(
    kube: Kube, space: str
) -> None:
    """The operator adds its own behind the template's; muster reads it as the container does."""
    job = pytorchjob(space, "wrong", 2)
    for part in job["spec"]["pytorchReplicaSpecs"].values():
        container = part["template"]["spec"]["containers"][0]
        container["env"] = [{"name": "WORLD_SIZE", "value": "16"}]
    kube.create(job)
    kube.until("wrong is bound whole", lambda: len(bound(kube, space, "wrong")) == 3)


def test_a_job_scaled_while_it_runs_goes_on_and_the_new_pods_are_held(
    kube: Kube, space: str
) -> None:
    """97 pods that cannot meet the four that run must not take 97 GPUs."""
    kube.create(pytorchjob(space, "runs", 3))
    kube.until("runs is bound", lambda: len(bound(kube, space, "runs")) == 4)
    first = {name: one["metadata"]["uid"] for name, one in of_job(kube, space, "runs").items()}
    ever: set[str] = set()

    def all_there(count: int) -> bool:
        ever.update(bound(kube, space, "runs"))
        return len(of_job(kube, space, "runs")) == count

    def scale(workers: int) -> None:
        spec = {"pytorchReplicaSpecs": {"Worker": {"replicas": workers}}}
        kube.patch(JOBS.format(space, "runs"), {"spec": spec})
        kube.until(f"{workers + 1} pods", lambda: all_there(workers + 1))

    scale(100)
    said = kube.until("an Event says so", lambda: events(kube, space, "ScaledWhileRunning"))
    assert len(said) == 1
    assert "WORLD_SIZE 101, the running ones for 4" in said[0]
    scale(3)
    assert ever == set(first), "none of the new pods was bound"
    now = {name: one["metadata"]["uid"] for name, one in of_job(kube, space, "runs").items()}
    assert now == first, "the job was left alone"

    scale(30)
    kube.until("the new pods are held", lambda: "scaled while" in text_of(kube, space, "runs"))
    for name in first:  # as the text says
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
    kube.until("all 31 are bound", lambda: len(bound(kube, space, "runs")) == 31)
    assert world_sizes(of_job(kube, space, "runs")) == {"31"}


def text_of(kube: Kube, space: str, name: str) -> str:
    """Return what muster says of a gang."""
    return str(kube.explain(space, name).get("text", ""))


def test_an_elastic_job_may_grow_while_it_runs(kube: Kube, space: str) -> None:
    job = pytorchjob(space, "elastic", 2)
    del job["spec"]["pytorchReplicaSpecs"]["Master"]
    job["spec"]["elasticPolicy"] = {"minReplicas": 1, "maxReplicas": 4, "rdzvBackend": "c10d"}
    kube.create(job)
    kube.until("elastic runs", lambda: len(bound(kube, space, "elastic")) == 2)
    more = {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 4}}}}
    kube.patch(JOBS.format(space, "elastic"), more)
    kube.until("elastic has grown", lambda: len(bound(kube, space, "elastic")) == 4)


def test_a_job_of_another_kind_of_the_training_operator(kube: Kube, space: str) -> None:
    define_job(kube, "TFJob")
    spec = {"tfReplicaSpecs": {"Chief": {"replicas": 1}, "Worker": {"replicas": 2}}}
    made = create(kube, thing(space, "kubeflow.org/v1", "TFJob", "tf", spec))

    def member(role: str, index: int) -> dict[str, Any]:
        labels = {
            "training.kubeflow.org/job-name": "tf",
            "training.kubeflow.org/replica-type": role,
            "training.kubeflow.org/replica-index": str(index),
        }
        one = pod(space, f"tf-{role}-{index}", labels=labels)
        owner = {"apiVersion": "kubeflow.org/v1", "kind": "TFJob", "name": "tf"}
        owner |= {"uid": made["metadata"]["uid"], "controller": True}
        one["metadata"]["ownerReferences"] = [owner]
        return one

    kube.create(member("worker", 0), member("worker", 1))
    story(kube, space, "tf", "members", pods_present=2, pods_needed=3)
    kube.create(member("chief", 0))
    kube.until("tf is bound whole", lambda: len(kube.bound(space)) == 3)


def test_the_direct_lane_by_scheduler_name(kube: Kube, space: str) -> None:
    """muster binds; kube-scheduler, which does not serve the name, never sees the pods."""
    kube.create(*gang(space, "blocker", NODES - 1))
    kube.until("blocker is bound", lambda: len(kube.bound(space)) == NODES - 1)
    kube.create(*gang(space, "direct", 2, schedulerName="muster-direct"))
    story(kube, space, "direct", "capacity", pods_present=2)
    pods = kube.pods(space)
    assert not any(pods[f"direct-{i}"]["spec"].get("schedulingGates") for i in range(2))
    kube.delete(f"/api/v1/namespaces/{space}/pods/blocker-0")
    both = {"direct-0", "direct-1"}  # of blocker, which lost a rank for good, the rest has to go
    kube.until("direct is bound whole", lambda: both <= kube.bound(space).keys())
    pods = kube.pods(space)
    assert all("affinity" not in pods[f"direct-{i}"]["spec"] for i in range(2)), "no pin"
    notes = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
    told = {(n["regarding"]["name"], n["reason"]) for n in notes}
    assert not {("direct-0", "Scheduled"), ("direct-1", "Scheduled")} & told


def test_the_direct_lane_by_queue_leaves_out_what_muster_cannot_check(
    kube: Kube, space: str
) -> None:
    fast = {"muster.dev/queue": "fast"}
    apart = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "labelSelector": {"matchLabels": {"scheduling.x-k8s.io/pod-group": "apart"}},
                    "topologyKey": "kubernetes.io/hostname",
                }
            ]
        }
    }
    kube.create(*gang(space, "plain", 2, 1, annotations=fast))
    kube.create(*gang(space, "apart", 2, 8, annotations=fast, affinity=apart))
    kube.until("both are bound whole", lambda: len(kube.bound(space)) == 4)
    pods = kube.pods(space)
    pinned = {name for name, one in pods.items() if "nodeAffinity" in str(one["spec"])}
    assert pinned == {"apart-0", "apart-1"}


def test_a_pod_that_nobody_can_serve_is_told(kube: Kube, space: str) -> None:
    one = pod(space, "claims", annotations=own("claims"), schedulerName="muster-direct")
    one["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]
    kube.create(one)
    said = kube.until("an Event says so", lambda: events(kube, space, "NotServed"))
    assert said[0].startswith("pod claims has volume data, which only kube-scheduler checks")
    assert "recreate the pod without that schedulerName" in text_of(kube, space, "claims")
    assert not kube.bound(space)
