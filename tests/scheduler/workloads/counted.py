"""Pods, and what kube-scheduler 1.37 counts for each: for tests of muster, and of kube-scheduler.

The amounts are worked out by hand from the text of KEP-753 (sidecars), KEP-1287 (resize) and
KEP-2837 (pod-level resources). CPU is in thousandths, all else in units.
"""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler.kube.objects import Pod

MIB, GIB = 1 << 20, 1 << 30
GPU = "nvidia.com/gpu"
Requests = dict[str, str]


def container(
    name: str, requests: Requests, *, always: bool = False, **more: Any
) -> dict[str, Any]:
    """Return a container; `always` makes an init container a sidecar."""
    found = {"name": name, "image": "train:1", "resources": {"requests": requests, **more}}
    # what may not be overcommitted needs a limit as large
    limits = {key: value for key, value in requests.items() if "/" in key or "huge" in key}
    if limits:
        found["resources"].setdefault("limits", {}).update(limits)  # type: ignore[attr-defined]
    return {**found, "restartPolicy": "Always"} if always else found


def of(*requests: Requests, init: tuple[dict[str, Any], ...] = (), **spec: Any) -> dict[str, Any]:
    """Return the spec of a pod with these containers."""
    containers = [container(f"c{i}", asked) for i, asked in enumerate(requests)]
    return {"containers": containers, "initContainers": list(init), **spec}


def once(**cpu: str) -> tuple[dict[str, Any], ...]:
    """Return init containers in order by their CPUs; those called s... are sidecars."""
    return tuple(container(n, {"cpu": c}, always=n.startswith("s")) for n, c in cpu.items())


#: name -> (spec, what is counted)
SPECS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "nothing": (of({}), {}),
    "zero": (of({"cpu": "0", "memory": "0"}), {}),
    "sum": (of({"cpu": "1", "memory": "1Gi"}, {"cpu": "500m"}), {"cpu": 1500, "memory": GIB}),
    "limits alone": (
        {"containers": [{**container("c", {}), "resources": {"limits": {"cpu": "2"}}}]},
        {"cpu": 2000},
    ),
    "a request below its limit": (
        {"containers": [container("c", {"cpu": "1"}, limits={"cpu": "2", "memory": "1Gi"})]},
        {"cpu": 1000, "memory": GIB},
    ),
    "decimal suffixes": (of({"cpu": "0.1", "memory": "1G"}), {"cpu": 100, "memory": 10**9}),
    "tenths that floats cannot add": (of({"cpu": "0.1"}, {"cpu": "0.2"}), {"cpu": 300}),
    "exponents": (of({"cpu": "25e-2", "memory": "12e6"}), {"cpu": 250, "memory": 12 * 10**6}),
    "halves of bytes, each of which counts whole": (of({"memory": "1500m"}), {"memory": 2}),
    "many suffixes": (
        of({"memory": "1Ki"}, {"memory": "1k"}, {"memory": "1Mi"}, {"memory": "1M"}),
        {"memory": 1024 + 1000 + MIB + 10**6},
    ),
    "hugepages": (
        of({"cpu": "1", "memory": "1Gi", "hugepages-2Mi": "4Mi"}),
        {"cpu": 1000, "memory": GIB, "hugepages-2Mi": 4 * MIB},
    ),
    "ephemeral storage": (of({"ephemeral-storage": "3G"}), {"ephemeral-storage": 3 * 10**9}),
    "several extended resources": (
        of({"example.com/nic": "2", "example.com/fpga": "1"}, {"example.com/nic": "1"}),
        {"example.com/nic": 3, "example.com/fpga": 1},
    ),
    "gpus": (of({GPU: "2"}, {GPU: "1"}), {GPU: 3}),
    "an extended resource of which none is asked for": (of({"example.com/nic": "0"}), {}),
    "overhead": (
        of({"cpu": "1"}, overhead={"cpu": "250m", "memory": "64Mi"}, runtimeClassName="heavy"),
        {"cpu": 1250, "memory": 64 * MIB},
    ),
    "an init container larger than the rest": (
        of({"cpu": "1"}, {"cpu": "1"}, init=once(a="3", b="2")),
        {"cpu": 3000},
    ),
    "an init container below the rest": (of({"cpu": "2"}, init=once(a="1")), {"cpu": 2000}),
    "a sidecar": (of({"cpu": "1"}, init=once(s="500m")), {"cpu": 1500}),
    "a sidecar before an init step": (of({"cpu": "1"}, init=once(s="2", a="3")), {"cpu": 5000}),
    "a sidecar after an init step": (of({"cpu": "1"}, init=once(a="3", s="2")), {"cpu": 3000}),
    "sidecars between init containers": (
        of({"cpu": "1"}, init=once(s1="1", a="4", s2="2", b="3", s3="1")),
        {"cpu": 6000},
    ),
    "init containers that differ in resource": (
        of(
            {"cpu": "2", "memory": "1Gi"},
            init=(container("a", {"cpu": "1", "memory": "3Gi"}), container("b", {GPU: "1"})),
        ),
        {"cpu": 2000, "memory": 3 * GIB, GPU: 1},
    ),
    "pod-level requests": (
        of({"cpu": "1", "memory": "1Gi"}, resources={"requests": {"cpu": "6"}}),
        {"cpu": 6000, "memory": GIB},
    ),
    "pod-level requests above an init container's": (
        of({"cpu": "1"}, init=once(a="3"), resources={"requests": {"cpu": "4"}}),
        {"cpu": 4000},
    ),
    "pod-level limits alone": (
        of({}, resources={"limits": {"cpu": "3", "memory": "2Gi"}}),
        {"cpu": 3000, "memory": 2 * GIB},
    ),
    "pod-level limits above what containers ask for": (
        of({"cpu": "1"}, resources={"limits": {"cpu": "3", "memory": "2Gi"}}),
        {"cpu": 1000, "memory": 2 * GIB},
    ),
    "pod-level requests beside gpus": (
        of({GPU: "1"}, {GPU: "1"}, resources={"requests": {"cpu": "2", "memory": "1Gi"}}),
        {GPU: 2, "cpu": 2000, "memory": GIB},
    ),
    "pod-level hugepages": (
        of({"cpu": "1"}, resources={
            "requests": {"cpu": "1", "hugepages-2Mi": "6Mi"}, "limits": {"hugepages-2Mi": "6Mi"},
        }),
        {"cpu": 1000, "hugepages-2Mi": 6 * MIB},
    ),
}  # fmt: skip


def told(name: str, cpu: str | None, allotted: str | None = None) -> dict[str, Any]:
    """Return a container's status: what it has, and what its node has allotted to it."""
    found: dict[str, Any] = {"name": name}
    if cpu is not None:
        found["resources"] = {"requests": {"cpu": cpu}}
    if allotted is not None:
        found["allocatedResources"] = {"cpu": allotted}
    return found


def pending(reason: str) -> dict[str, Any]:
    """Return the condition of a resize that is not done."""
    return {"type": "PodResizePending", "status": "True", "reason": reason}


ONE, TWO = of({"cpu": "1"}), of({"cpu": "2"})
SIDE = of({"cpu": "1"}, init=once(s="2"))
LEVEL = of({"cpu": "1"}, resources={"requests": {"cpu": "2"}, "limits": {"cpu": "4"}})
#: name -> (spec, status, thousandths of a CPU that are counted)
RESIZED: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "done": (TWO, {"containerStatuses": [told("c0", "2", "2")]}, 2000),
    "up, not seen yet": (TWO, {"containerStatuses": [told("c0", "1", "1")]}, 2000),
    "up, allotted": (TWO, {"containerStatuses": [told("c0", "1", "2")]}, 2000),
    "up, deferred": (
        TWO,
        {"containerStatuses": [told("c0", "1", "1")], "conditions": [pending("Deferred")]},
        2000,
    ),
    "up, never to be": (
        TWO,
        {"containerStatuses": [told("c0", "1", "1")], "conditions": [pending("Infeasible")]},
        1000,
    ),
    "down, not seen yet": (ONE, {"containerStatuses": [told("c0", "3", "3")]}, 3000),
    "down, allotted": (ONE, {"containerStatuses": [told("c0", "3", "1")]}, 3000),
    "down, done": (ONE, {"containerStatuses": [told("c0", "1", "1")]}, 1000),
    "no status": (TWO, {}, 2000),
    "allotted alone": (ONE, {"containerStatuses": [told("c0", None, "3")]}, 3000),
    "what it has, alone": (ONE, {"containerStatuses": [told("c0", "3")]}, 3000),
    "never to be, and nothing known": (TWO, {"conditions": [pending("Infeasible")]}, 0),
    "a sidecar up": (
        SIDE,
        {"containerStatuses": [told("c0", "1")], "initContainerStatuses": [told("s", "1", "1")]},
        3000,
    ),
    "a sidecar down": (
        SIDE,
        {"containerStatuses": [told("c0", "1")], "initContainerStatuses": [told("s", "4", "4")]},
        5000,
    ),
    "pod-level up": (
        LEVEL,
        {"resources": {"requests": {"cpu": "1"}}, "allocatedResources": {"cpu": "1"}},
        2000,
    ),
    "pod-level down": (
        LEVEL,
        {"resources": {"requests": {"cpu": "3"}}, "allocatedResources": {"cpu": "2"}},
        3000,
    ),
    "pod-level never to be": (
        LEVEL,
        {
            "resources": {"requests": {"cpu": "1500m"}},
            "allocatedResources": {"cpu": "1500m"},
            "conditions": [pending("Infeasible")],
        },
        1500,
    ),
    "the pod's status without pod-level requests": (
        ONE,
        {
            "resources": {"requests": {"cpu": "3"}},
            "allocatedResources": {"cpu": "2"},
            "containerStatuses": [told("c0", "9", "9")],
        },
        3000,
    ),
}


def pod_of(spec: dict[str, Any], status: dict[str, Any] | None = None, **meta: Any) -> Pod:
    """Return a pod as muster reads it."""
    found = {"metadata": {"name": "p", "namespace": "n", "uid": "u", **meta}, "spec": spec}
    return msgspec.convert({**found, "status": status or {}}, Pod)
