"""What muster counts, beside what the stock kube-scheduler says of the same pod and node."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from scheduler.kube.objects import Pod, unix_s
from scheduler.workloads.requests import pod_shape
from tests.chaos.observer import DEVICES
from tests.cluster.conftest import Kube, pod
from tests.cluster.conftest import counted as metric
from tests.scheduler.workloads.counted import GPU, RESIZED, SPECS, pending, told

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

CASE = "example.com/case"
APART = {"key": "example.com/counting", "value": "true", "effect": "NoSchedule"}
PLENTY = {"cpu": 64_000, "memory": 1 << 40, GPU: 8}
#: what kube-scheduler says where too little is left
SAYS = {"pods": "Too many pods"}


class Nodes:
    """Nodes of a test's own, each for one case: whoever does not ask for it stays away."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.made: list[str] = []

    def make(self, case: str, amounts: dict[str, int], devices: int = 0) -> str:
        """Make a node with so much allocatable, CPU in thousandths, and GPUs that are devices."""
        name = f"count-{len(self.made):03d}-{case}"
        has = {
            key: f"{amount}m" if key == "cpu" else str(amount) for key, amount in amounts.items()
        }
        self._kube.create(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "annotations": {DEVICES: str(devices)},
                    "labels": {CASE: name, "muster.dev/played": "true"},
                },
                "spec": {"taints": [APART]},
                "status": {"capacity": has, "allocatable": has},
            }
        )
        self.made.append(name)
        return name


@pytest.fixture
def nodes(kube: Kube, space: str) -> Iterator[Nodes]:
    """Return a way to make nodes; they go with the test, after the pods on them."""
    made = Nodes(kube)
    yield made
    for name in kube.pods(space):
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
    kube.until("the pods are gone", lambda: not kube.pods(space))
    for name in made.made:
        kube.delete(f"/api/v1/nodes/{name}")


def on(node: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a pod that fits nowhere else, and may use the node at once."""
    where = {"nodeSelector": {CASE: node}, "tolerations": [{"operator": "Exists"}]}
    return {"terminationGracePeriodSeconds": 0, **where, **spec}


def stock(space: str, name: str, node: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a pod that kube-scheduler places alone; muster only counts it."""
    ignored = {"muster.dev/ignore": "true"}
    return {**pod(space, name, 0, annotations=ignored), "spec": on(node, spec)}


def direct(space: str, name: str, node: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a gang of one pod that muster binds without kube-scheduler."""
    said = {
        "muster.dev/group": name,
        "muster.dev/min-member": "1",
        "muster.dev/queue": "fast",
    }
    return {**pod(space, name, 0, annotations=said), "spec": on(node, spec)}


def asks(**cpu: str) -> dict[str, Any]:
    """Return the spec of a pod with these CPUs, by container."""
    containers = [
        {"name": name, "image": "train:1", "resources": {"requests": {"cpu": amount}}}
        for name, amount in cpu.items()
    ]
    return {"containers": containers}


def refusal(kube: Kube, space: str, name: str) -> str:
    """Return what kube-scheduler says of a pod that it did not place; empty while it is silent."""
    for one in kube.pods(space)[name]["status"].get("conditions", ()):
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return str(one.get("message", ""))
    return ""


def refused(kube: Kube, space: str, name: str, short: str) -> None:
    """Wait until kube-scheduler says that a pod lacks this."""
    says = SAYS.get(short, f"Insufficient {short}")
    kube.until(f"{name} is refused: {says}", lambda: says in refusal(kube, space, name))


def waits(kube: Kube, space: str, name: str) -> None:
    """Wait until muster says why a gang waits, and see that it does."""
    kube.until(f"{name} waits", lambda: kube.explain(space, name).get("reason"))
    assert name not in kube.bound(space), "muster bound it"


@pytest.fixture
def heavy(kube: Kube) -> Iterator[None]:
    """Let there be a runtime whose pods have an overhead."""
    path = "/apis/node.k8s.io/v1/runtimeclasses"
    body = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "heavy"},
        "handler": "heavy",
        "overhead": {"podFixed": SPECS["overhead"][0]["overhead"]},
    }
    kube.call("POST", path, body)
    yield
    kube.delete(f"{path}/heavy")


def test_a_pod_fits_exactly_where_kube_scheduler_says_so(
    kube: Kube, space: str, nodes: Nodes, heavy: None
) -> None:
    """Each pod has a node that holds it to the byte, and nodes that lack one unit of one thing."""
    fits: dict[str, str] = {}
    lacks: dict[str, tuple[str, str]] = {}
    specs: dict[str, dict[str, Any]] = {}
    for number, (spec, counted) in enumerate(SPECS.values()):
        for short in ("", "pods", *counted):
            has = {"pods": 1, **counted}
            if short:
                has[short] -= 1
            name = f"s{number:02d}-{len(specs):03d}"
            node = nodes.make("stock", has)
            specs[name] = {"node": node, "spec": spec}
            if short:
                lacks[name] = (node, short)
            else:
                fits[name] = node
    for name, case in specs.items():
        kube.create(stock(space, name, case["node"], case["spec"]))
    kube.until("kube-scheduler binds those that fit", lambda: kube.bound(space) == fits)
    for name, (_, short) in lacks.items():
        refused(kube, space, name, short)
    assert kube.bound(space) == fits

    seen = kube.pods(space)
    for number, (_, counted) in enumerate(SPECS.values()):
        one = next(pod for name, pod in seen.items() if name.startswith(f"s{number:02d}-"))
        rest = dict(counted)
        shape = pod_shape(msgspec.convert(one, Pod), GPU)
        assert (shape.gpus, shape.cpu_milli, shape.mem_bytes, shape.pods) == (
            rest.pop(GPU, 0), rest.pop("cpu", 0), rest.pop("memory", 0), 1,
        )  # fmt: skip
        assert dict(shape.others) == rest, "as the API server filled it in"

    for name in seen:
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
    kube.until("the pods are gone", lambda: not kube.pods(space))
    for name, case in specs.items():
        kube.create(direct(space, f"m{name}", case["node"], case["spec"]))
    bound = {f"m{name}": node for name, node in fits.items()}
    kube.until("muster binds those that fit", lambda: kube.bound(space).keys() >= bound.keys())
    for name in lacks:
        waits(kube, space, f"m{name}")
    assert kube.bound(space) == bound


def test_a_pod_that_is_resized_leaves_as_much_as_kube_scheduler_says(
    kube: Kube, space: str, nodes: Nodes
) -> None:
    """Beside each pod, in each state of a resize, fits one of a CPU to the thousandth."""
    where: dict[str, str] = {}
    for number, (spec, _, cpu_milli) in enumerate(RESIZED.values()):
        name = f"r{number:02d}"
        where[name] = nodes.make("resized", {**PLENTY, "cpu": cpu_milli + 1000, "pods": 9})
        held = stock(space, name, where[name], spec)
        held["spec"]["nodeName"] = where[name]
        kube.create(held)
    running = dict.fromkeys(where, "Running")
    kube.until(
        "they run",
        lambda: {n: p["status"]["phase"] for n, p in kube.pods(space).items()} == running,
    )
    for name, (spec, status, _) in zip(where, RESIZED.values(), strict=True):
        path = f"/api/v1/namespaces/{space}/pods/{name}/status"
        now = kube.pods(space)[name]["status"]
        for field, of in (
            ("containerStatuses", "containers"),
            ("initContainerStatuses", "initContainers"),
        ):
            said = {one["name"]: one for one in status.get(field, ())}
            for one in now.get(field, ()):
                one.update(said.get(one["name"], {}))
            assert len(now.get(field, ())) == len(spec[of])
        for one in status.get("conditions", ()):
            now["conditions"].append(one)
        now.update(
            {key: status[key] for key in ("resources", "allocatedResources") if key in status}
        )
        kube.patch(path, {"status": now})
    for name, node in where.items():
        kube.create(stock(space, f"{name}-over", node, asks(c="1001m")))
        kube.create(direct(space, f"{name}-mover", node, asks(c="1001m")))
    for name in where:
        refused(kube, space, f"{name}-over", "cpu")
        waits(kube, space, f"{name}-mover")
        for probe in ("over", "mover"):
            kube.delete(f"/api/v1/namespaces/{space}/pods/{name}-{probe}")
    for make, by in ((stock, "kube-scheduler"), (direct, "muster")):
        probes = {f"{name}-{by[0]}": node for name, node in where.items()}
        for name, node in probes.items():
            kube.create(make(space, name, node, asks(c="1")))
        kube.until(
            f"{by} binds what is left", lambda p=probes: kube.bound(space).items() >= p.items()
        )
        for name in probes:
            kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
        kube.until("they are gone", lambda p=probes: p.keys().isdisjoint(kube.pods(space)))


def test_the_direct_lane_keeps_to_what_has_grown_and_to_a_nodes_places(
    kube: Kube, space: str, nodes: Nodes
) -> None:
    """Two pods without requests fill a node of two; a rank that is resized in place takes more."""
    small = nodes.make("places", {**PLENTY, "pods": 2})
    for name in ("one", "two"):
        kube.create(stock(space, name, small, {"containers": [{"name": "c", "image": "train:1"}]}))
    kube.until("two pods run", lambda: kube.bound(space).keys() >= {"one", "two"})
    kube.create(direct(space, "third", small, asks(c="1")))
    kube.create(stock(space, "other", small, asks(c="1")))
    waits(kube, space, "third")
    refused(kube, space, "other", "pods")
    kube.delete(f"/api/v1/namespaces/{space}/pods/other")
    kube.delete(f"/api/v1/namespaces/{space}/pods/one")
    kube.until("the third has its place", lambda: kube.bound(space).get("third") == small)

    wide = nodes.make("grown", {**PLENTY, "cpu": 8000, "pods": 9})
    kube.create(direct(space, "grows", wide, asks(c="1")))
    kube.until("it runs", lambda: kube.pods(space)["grows"]["status"]["phase"] == "Running")
    path = f"/api/v1/namespaces/{space}/pods/grows"

    def resize(cpu: str) -> None:
        container = {"name": "c", "resources": {"requests": {"cpu": cpu}}}
        body = {"spec": {"containers": [container]}}
        merge = "application/strategic-merge-patch+json"
        kube.call("PATCH", f"{path}/resize", body, merge)

    def say(cpu: str, *conditions: dict[str, Any]) -> None:
        now = kube.pods(space)["grows"]["status"]
        now["containerStatuses"][0].update(told("c", cpu, cpu))
        kept = [one for one in now["conditions"] if one["type"] != "PodResizePending"]
        now["conditions"] = [*kept, *conditions]
        kube.patch(f"{path}/status", {"status": now})

    say("1")
    resize("7")
    kube.create(direct(space, "late", wide, asks(c="4")))
    kube.create(stock(space, "later", wide, asks(c="4")))
    refused(kube, space, "later", "cpu")
    waits(kube, space, "late")
    say("7")
    resize("2")
    waits(kube, space, "late")
    assert "later" not in kube.bound(space)
    kube.delete(f"/api/v1/namespaces/{space}/pods/later")
    say("2")
    kube.until("the other has its room", lambda: kube.bound(space).get("late") == wide)
    say("2", pending("Infeasible"))
    resize("8")
    kube.create(direct(space, "last", wide, asks(c="2")))
    kube.until("what can never be counts for nothing", lambda: "last" in kube.bound(space))
    assert kube.bound(space)["grows"] == wide, "nobody was ended"


# -- GPUs that are devices ------------------------------------------------------------------------

RESOURCES = "/apis/resource.k8s.io/v1"
DRIVER = "gpu.example.com"


@pytest.fixture
def devices(kube: Kube, space: str, nodes: Nodes) -> Iterator[str]:
    """Return a node with two GPUs that a driver publishes as devices, not as allocatable."""
    node = nodes.make("devices", {**PLENTY, GPU: 0, "pods": 9}, devices=2)
    plain = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == 'gpu'"
    kube.call(
        "POST",
        f"{RESOURCES}/deviceclasses",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": "counted"},
            "spec": {
                "extendedResourceName": GPU,
                "selectors": [{"cel": {"expression": plain}}],
            },
        },
    )
    kinds = {"gpu-0": "gpu", "gpu-1": "gpu", "part-0": "part"}
    kube.call(
        "POST",
        f"{RESOURCES}/resourceslices",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": node},
            "spec": {
                "driver": DRIVER,
                "nodeName": node,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
                "devices": [
                    {"name": name, "attributes": {"type": {"string": kind}}}
                    for name, kind in kinds.items()
                ],
            },
        },
    )
    yield node
    kube.delete(f"{RESOURCES}/deviceclasses/counted")
    kube.delete(f"{RESOURCES}/resourceslices/{node}")


def takes(gpus: int) -> dict[str, Any]:
    """Return the spec of a pod with GPUs."""
    resources = {"limits": {GPU: str(gpus)}}
    return {"containers": [{"name": "c", "image": "train:1", "resources": resources}]}


def test_gpus_that_a_driver_publishes_are_counted_as_kube_scheduler_does(
    kube: Kube, space: str, devices: str
) -> None:
    """By requests, by a claim of a pod's own, and not at all where muster cannot tell."""
    pods = f"/api/v1/namespaces/{space}/pods"

    def gone(*names: str) -> None:
        for name in names:
            kube.delete(f"{pods}/{name}")
        kube.until(f"{names} are gone", lambda: not kube.pods(space).keys() & set(names))

    kube.create(stock(space, "wide", devices, takes(3)), stock(space, "fits", devices, takes(2)))
    kube.until("kube-scheduler gives two", lambda: kube.bound(space) == {"fits": devices})
    kube.until("and not three", lambda: "cannot allocate" in refusal(kube, space, "wide"))
    kube.create(direct(space, "m-late", devices, takes(1)))
    waits(kube, space, "m-late")
    gone("wide", "fits")
    kube.until("its devices are free again", lambda: kube.bound(space) == {"m-late": devices})

    gone("m-late")
    kube.create(
        direct(space, "m-wide", devices, takes(3)), direct(space, "m-fits", devices, takes(2))
    )
    kube.until("muster gives two", lambda: kube.bound(space) == {"m-fits": devices})
    waits(kube, space, "m-wide")
    assert "devices of" not in kube.explain(space, "m-wide")["text"]

    gone("m-wide", "m-fits")
    wanted = {"requests": [{"name": "one", "exactly": {"deviceClassName": "counted"}}]}
    kube.call(
        "POST",
        f"{RESOURCES}/namespaces/{space}/resourceclaims",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": "own"},
            "spec": {"devices": wanted},
        },
    )
    claimed = asks(c="1")
    claimed["containers"][0]["resources"]["claims"] = [{"name": "own"}]
    claimed["resourceClaims"] = [{"name": "own", "resourceClaimName": "own"}]
    kube.create(stock(space, "claims", devices, claimed))
    kube.until("it has a device", lambda: kube.bound(space) == {"claims": devices})
    kube.create(direct(space, "m-two", devices, takes(2)), stock(space, "two", devices, takes(2)))
    kube.until("one is left", lambda: "cannot allocate" in refusal(kube, space, "two"))
    waits(kube, space, "m-two")
    kube.create(direct(space, "m-one", devices, takes(1)))
    kube.until("muster gives it", lambda: kube.bound(space).get("m-one") == devices)

    fancy = {"selectors": [{"cel": {"expression": "device.driver.startsWith('gpu.')"}}]}
    kube.patch(f"{RESOURCES}/deviceclasses/counted", {"spec": fancy})
    kube.until(
        "the node is named",
        lambda: (
            f"devices of node {devices} are not counted" in kube.explain(space, "m-two")["text"]
        ),
    )
    assert metric(kube.cluster, "muster_not_understood ") == 1.0


# -- ranks that exit with 0 -----------------------------------------------------------------------


def test_a_rank_that_exits_0_while_it_is_deleted_is_lost(
    kube: Kube, space: str, nodes: Nodes, request: pytest.FixtureRequest
) -> None:
    """While nobody plays its node its pods run, and end, when the test says so."""
    node = nodes.make("quiet", {**PLENTY, "pods": 9})

    def rank(number: int) -> dict[str, Any]:
        made = direct(space, f"g-{number}", node, takes(4))
        made["metadata"]["annotations"] |= {"muster.dev/group": "g", "muster.dev/min-member": "2"}
        made["spec"]["terminationGracePeriodSeconds"] = 30
        return made

    def say(name: str, phase: str, state: dict[str, Any]) -> None:
        one = {"name": "c", "image": "train:1", "imageID": "", "ready": False, "restartCount": 0}
        body = {"status": {"phase": phase, "containerStatuses": [{**one, "state": state}]}}
        kube.patch(f"/api/v1/namespaces/{space}/pods/{name}/status", body)

    def story() -> tuple[str, int]:
        seen = kube.explain(space, "g")
        return seen.get("phase", ""), seen.get("pods_bound", 0)

    kube.create(rank(0), rank(1))
    kube.until("both have their node", lambda: set(kube.bound(space)) == {"g-0", "g-1"})
    kube.until("all run", lambda: story() == ("running", 2))
    kube.cluster.process("kwok").signal(signal.SIGSTOP)
    request.addfinalizer(lambda: kube.cluster.process("kwok").signal(signal.SIGCONT))
    kube.create(direct(space, "filler", node, takes(4)))
    waits(kube, space, "filler")
    path = f"/api/v1/namespaces/{space}/pods/g-1"
    kube.call("DELETE", path)
    ends_s = unix_s(kube.pods(space)["g-1"]["metadata"]["deletionTimestamp"]) - 25.0
    finished = datetime.fromtimestamp(ends_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    say("g-1", "Succeeded", {"terminated": {"exitCode": 0, "finishedAt": finished}})
    kube.until("one is lost", lambda: story() == ("degraded", 1))
    kube.delete(path)
    kube.until("it is gone", lambda: "g-1" not in kube.pods(space))
    kube.create(rank(1))
    kube.until("it comes back to its node", lambda: kube.bound(space).get("g-1") == node)
    assert "filler" not in kube.bound(space), "it went to the filler"
