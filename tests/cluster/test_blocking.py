"""What no node can take blocks nobody, and starts once that changes. On the real control plane."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import NODES, Kube, gang, pod
from tests.cluster.test_failure_constraints import HOST, PORT
from tests.cluster.test_failure_pods import bound

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

FIRST = "/api/v1/nodes/node-00000"
GROUP = {"muster.dev/group": "bare", "muster.dev/min-member": "2"}


@pytest.fixture
def named(kube: Kube) -> Iterator[None]:
    """Have one node carry its name as a label."""
    kube.patch(FIRST, {"metadata": {"labels": {HOST: "node-00000"}}})
    yield
    kube.patch(FIRST, {"metadata": {"labels": {HOST: None}}, "spec": {"unschedulable": None}})


def bare(space: str, name: str, gpus: int = 8, **spec: Any) -> dict[str, Any]:
    """Return a pod of a gang that nothing makes anew."""
    made = pod(space, name, gpus, annotations=GROUP)
    made["spec"] |= spec
    return made


def test_a_pod_for_a_cordoned_node_lets_others_pass_and_starts_once_it_is_open(
    kube: Kube, space: str, named: None
) -> None:
    kube.patch(FIRST, {"spec": {"unschedulable": True}})
    waits = pod(
        space, "waits", 0, annotations={"muster.dev/group": "w", "muster.dev/min-member": "1"}
    )
    waits["spec"]["nodeSelector"] = {HOST: "node-00000"}
    kube.create(waits)
    kube.until("it stands aside", lambda: kube.explain(space, "w").get("aside"))
    assert "node-00000 is cordoned" in kube.explain(space, "w")["text"]
    kube.create(*gang(space, "other", 2))
    kube.until("the other starts", lambda: len(bound(kube, space, "other")) == 2, 15.0)

    def told() -> bool:
        items = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
        return any(e["reason"] == "SetAside" and "cordoned" in e["note"] for e in items)

    kube.until("an Event says so", told, 15.0)
    kube.patch(FIRST, {"spec": {"unschedulable": None}})
    kube.until("it starts", lambda: kube.bound(space).get("waits") == "node-00000", 15.0)


def test_pods_that_name_a_scheduler_nobody_runs_hold_nothing(kube: Kube, space: str) -> None:
    kube.create(*(bare(space, f"bare-{n}", schedulerName="defualt-scheduler") for n in range(2)))
    kube.until("it says so", lambda: "defualt-scheduler" in kube.explain(space, "bare")["text"])
    kube.create(*gang(space, "whole", NODES))
    kube.until("others start", lambda: len(bound(kube, space, "whole")) == NODES, 20.0)


def test_a_port_that_is_taken_everywhere_is_named_and_used_as_soon_as_it_is_free(
    kube: Kube, space: str
) -> None:
    """Bare pods cannot be pinned elsewhere, so theirs is the node that they were refused on."""
    holders = [f"port-{number:05d}" for number in range(NODES)]
    for number, name in enumerate(holders):
        holder = pod(space, name, 0)
        holder["spec"] |= {"nodeName": f"node-{number:05d}"}
        holder["spec"]["containers"][0]["ports"] = [PORT]
        kube.create(holder)
    for rank in range(2):
        wants = bare(space, f"bare-{rank}")
        wants["spec"]["containers"][0]["ports"] = [PORT]
        kube.create(wants)
    kube.until("refused", lambda: "host port 9090" in kube.explain(space, "bare")["text"])
    kube.create(*gang(space, "whole", NODES))
    kube.until("others start", lambda: len(bound(kube, space, "whole")) == NODES, 20.0)
    for rank in range(NODES):
        kube.delete(f"/api/v1/namespaces/{space}/pods/whole-{rank}")
    for name in holders:
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
    freed_s = time.monotonic()
    kube.until("it starts", lambda: len(bound(kube, space, "bare")) == 2, 30.0)
    assert time.monotonic() - freed_s < 30.0
