"""A rolling update from a version that made several core gangs of one: nobody is evicted.

What it leaves behind is written here as it wrote it: plan records under the names of those gangs
(`NAME`, `NAME+1`), pods that it pinned, pods that run, pods that wait behind the gate.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scheduler.controller.pins import pin
from scheduler.controlplane.processes import start, stop
from scheduler.controlplane.record import Cluster, answers
from tests.cluster.conftest import NODES, Kube, gang, group, pod
from tests.cluster.test_deploy import DEPLOY, apply, documents

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

RECORDS = "/api/v1/namespaces/muster-system/configmaps"  #: where the earlier version has them
PLACES = (RECORDS, "/api/v1/namespaces/muster-system-plans/configmaps")
GATE = "muster.dev/queued"
REPAIR_S = 6.0  #: at least what the cluster's muster waits before it ends a gang in part


@pytest.fixture
def between(kube: Kube) -> Iterator[None]:
    """No muster runs when the test begins; the next one is started by `update`."""
    kube.until("muster runs", lambda: kube.cluster.healthy("muster"))
    old = kube.cluster.process("muster")
    stop([old])
    yield
    if not kube.cluster.healthy("muster"):
        kube.cluster.run("muster", old.command, **old.environment)
        kube.until("muster runs again", lambda: kube.cluster.healthy("muster"))


def rights(kube: Kube, deploy: Path) -> None:
    """Give muster the rights of a version."""
    for item in documents((deploy / "base" / "rbac.yaml").read_text()):
        apply(kube, item)


def update(kube: Kube) -> None:
    """Start this version."""
    kube.cluster.restart("muster")
    kube.until("this version leads", lambda: kube.cluster.healthy("muster"))


def record(kube: Kube, unit: str, name: str, space: str, slots: list[list[Any]]) -> None:
    """Write a plan down as the earlier version did."""
    plan = {
        "unit": unit,
        "key": [space, name, "PodGroup.scheduling.x-k8s.io", ""],
        "generation": 1,
        "epoch": "muster-8443/3",
        "slots": slots,
        "format": "1",
    }
    meta = {
        "name": f"muster-plan-{hashlib.sha256(unit.encode()).hexdigest()[:20]}",
        "namespace": "muster-system",
        "labels": {"muster.dev/plan": "true"},
    }
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
    kube.call("POST", RECORDS, {**item, "data": {"plan": json.dumps(plan)}})


def release(kube: Kube, space: str, name: str, node: str, plan: str) -> None:
    """Take the gate off a pod and pin it, in one write, as both versions do."""
    seen = kube.pods(space)[name]
    kube.patch(
        f"/api/v1/namespaces/{space}/pods/{name}",
        {
            "metadata": {"uid": seen["metadata"]["uid"], "annotations": {"muster.dev/plan": plan}},
            "spec": {"schedulingGates": None, "affinity": pin(None, node)},
        },
    )


def bind(kube: Kube, space: str, name: str, node: str, plan: str) -> None:
    """Release a pod and bind it as kube-scheduler would, which asks muster about GPUs."""
    release(kube, space, name, node, plan)
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    item = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": space}}
    path = f"/api/v1/namespaces/{space}/pods/{name}/binding"
    kube.call("POST", path, {**item, "target": target})


def units(kube: Kube) -> list[str]:
    """Return what there are plan records of."""
    items = [
        item
        for place in PLACES
        for item in kube.call("GET", f"{place}?labelSelector=muster.dev/plan%3Dtrue")["items"]
    ]
    return sorted(json.loads(item["data"]["plan"])["unit"] for item in items)


def test_68_gangs_of_an_earlier_version_go_on_and_nobody_is_evicted(
    kube: Kube, space: str, between: None
) -> None:
    def node(number: int) -> str:
        return f"node-{number:05d}"

    def slot(name: str, rank: int, where: int) -> list[Any]:
        uid = kube.pods(space)[f"{name}-{rank}"]["metadata"]["uid"]
        return ["worker", rank, f"{name}-{rank}", node(where), uid]

    def bound(*names: str) -> bool:
        return set(names) <= set(kube.bound(space))

    # runs whole, with a pod beyond its minimum that was a gang of the core by itself
    kube.create(*gang(space, "runs", 3))
    kube.patch(
        f"/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{space}/podgroups/runs",
        {"spec": {"minMember": 2}},
    )
    for rank, unit in enumerate(("runs", "runs", "runs+1")):
        bind(kube, space, f"runs-{rank}", node(rank), f"{space}/{unit}/1/worker-{rank}")
    # half released: of three pods one was told
    kube.create(*gang(space, "half", 3))
    record(kube, f"{space}/half", "half", space, [slot("half", i, 3 + i) for i in range(3)])
    release(kube, space, "half-0", node(3), f"{space}/half/1/worker-0")
    # grows: its minimum runs, a second plan is written down and nobody was told of it
    label = {"scheduling.x-k8s.io/pod-group": "grows"}
    kube.create(group(space, "grows", 1))
    kube.create(*(pod(space, f"grows-{i}", labels=label) for i in range(3)))
    bind(kube, space, "grows-0", node(6), f"{space}/grows/1/worker-0")
    record(kube, f"{space}/grows+1", "grows", space, [slot("grows", 1, 7)])
    # waits for more than is left
    kube.create(*gang(space, "waits", NODES - 8))
    before = kube.pods(space)
    assert sum(GATE in str(one["spec"].get("schedulingGates")) for one in before.values()) == (
        2 + 2 + NODES - 8
    )

    update(kube)
    whole = {"runs": 3, "half": 3, "grows": 3}
    started = [f"{name}-{rank}" for name, size in whole.items() for rank in range(size)]
    kube.until("those that had a plan start, and the third pod joins", lambda: bound(*started))
    where = kube.bound(space)
    assert {name: where[name] for name in ("half-0", "half-1", "half-2", "grows-1")} == {
        "half-0": node(3),
        "half-1": node(4),
        "half-2": node(5),
        "grows-1": node(7),
    }, "the nodes that were promised"
    kube.until("it waits", lambda: kube.explain(space, "waits").get("reason") == "capacity")
    for name in whole:
        kube.until(
            f"{name} runs", lambda name=name: kube.explain(space, name)["phase"] == "running"
        )
    kube.until("no record is left", lambda: not [one for one in units(kube) if space in one])
    end_s = time.monotonic() + REPAIR_S
    kube.until("a gang in part would be ended by now", lambda: time.monotonic() > end_s)
    now = kube.pods(space)
    assert {name: one["metadata"]["uid"] for name, one in now.items()} == {
        name: one["metadata"]["uid"] for name, one in before.items()
    }
    assert not [name for name, one in now.items() if "deletionTimestamp" in one["metadata"]]
    url = f"/apis/events.k8s.io/v1/namespaces/{space}/events"
    said = {item["reason"] for item in kube.call("GET", url)["items"]}
    assert not said & {"Evicted", "Replanned", "NotUnderstood"}
    for name in started[:3]:
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
    for name in ("half-0", "half-1"):
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
    rest = [f"waits-{rank}" for rank in range(NODES - 8)]
    kube.until("what waited starts", lambda: bound(*rest))


@pytest.mark.skipif(
    "MUSTER_EARLIER" not in os.environ, reason="MUSTER_EARLIER names no checkout of version 703223e"
)
def test_68_the_earlier_version_itself_hands_its_gangs_over(
    cluster: Cluster, kube: Kube, space: str, between: None
) -> None:
    """The same with the code of that version: it plans, releases, and is killed."""
    folder = os.environ["MUSTER_EARLIER"]
    config = cluster.dir / "earlier.toml"
    known = tomllib.loads((cluster.dir / "muster.toml").read_text())
    known.pop("schedulers", None)  # it has no such setting
    config.write_bytes(msgspec.toml.encode(known))
    command = [sys.executable, "-P", "-m", "sim.cli", "live", "--config", str(config)]
    earlier = start("earlier", command, cluster.dir, {"PYTHONPATH": folder})
    scheduler = kube.cluster.process("kube-scheduler")
    rights(kube, Path(folder) / "deploy")
    try:
        kube.until("it leads", lambda: answers(f"{cluster.status_url}/readyz"))
        label = {"scheduling.x-k8s.io/pod-group": "runs"}
        kube.create(group(space, "runs", 2))
        kube.create(*(pod(space, f"runs-{i}", labels=label) for i in range(3)))
        kube.until("a minimum of two and a third run", lambda: len(kube.bound(space)) == 3)
        stop([scheduler])
        kube.create(*gang(space, "half", 3))
        kube.until(
            "its pods are told and nobody binds them",
            lambda: sum("affinity" in p["spec"] for p in kube.pods(space).values()) == 6,
        )
        kube.create(*gang(space, "waits", NODES - 4))
        kube.until("it waits", lambda: kube.explain(space, "waits").get("reason") == "capacity")
    finally:
        earlier.signal(signal.SIGKILL)
        stop([earlier])
        rights(kube, DEPLOY)
        kube.cluster.run("kube-scheduler", scheduler.command, **scheduler.environment)
    before = {name: one["metadata"]["uid"] for name, one in kube.pods(space).items()}
    assert [one for one in units(kube) if one.startswith(f"{space}/half")]
    update(kube)
    kube.until("what was released starts", lambda: len(kube.bound(space)) == 6)
    kube.until("it waits still", lambda: kube.explain(space, "waits").get("reason") == "capacity")
    end_s = time.monotonic() + REPAIR_S
    kube.until("a gang in part would be ended by now", lambda: time.monotonic() > end_s)
    assert {n: p["metadata"]["uid"] for n, p in kube.pods(space).items()} == before
    for name in kube.bound(space):
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
    kube.until("what waited starts", lambda: len(kube.bound(space)) == NODES - 4)
