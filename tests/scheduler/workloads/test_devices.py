"""GPUs that a driver publishes as devices: counted, or said not to be understood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from scheduler.kube.devices import DeviceClass, ResourceClaim, ResourceSlice
from scheduler.workloads.devices import Devices, NotUnderstoodError, terms
from tests.scheduler.workloads.counted import GPU, SPECS, pod_of

DRIVER = "gpu.nvidia.com"
IMPLICIT = "deviceclass.resource.kubernetes.io/gpu"
#: as the driver of NVIDIA ships it
SHIPPED = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == 'gpu'"


def class_of(
    *selectors: str, name: str = "gpu", resource: str = GPU, made: str = ""
) -> DeviceClass:
    """Return a device class for which a resource stands."""
    spec: dict[str, Any] = {"selectors": [{"cel": {"expression": one}} for one in selectors]}
    if resource:
        spec["extendedResourceName"] = resource
    meta = {"name": name, "creationTimestamp": made or "2026-01-01T00:00:00Z"}
    return msgspec.convert({"metadata": meta, "spec": spec}, DeviceClass)


def device(name: str, kind: str = "gpu", **more: Any) -> dict[str, Any]:
    """Return a device with the attribute that tells GPUs from their parts."""
    return {"name": name, "attributes": {"type": {"string": kind}}, **more}


def slice_of(
    node: str = "n0",
    *devices: dict[str, Any],
    driver: str = DRIVER,
    name: str = "",
    generation: int = 1,
    of: int = 1,
    **more: Any,
) -> ResourceSlice:
    """Return a slice of a node's own pool; two GPUs unless devices are given."""
    spec = {
        "driver": driver,
        "nodeName": node,
        "pool": {"name": node, "generation": generation, "resourceSliceCount": of},
        "devices": list(devices or (device("gpu-0"), device("gpu-1"))),
        **more,
    }
    name = name or f"{node}-{driver}"
    return msgspec.convert({"metadata": {"name": name, "uid": name}, "spec": spec}, ResourceSlice)


def seen(*items: DeviceClass | ResourceSlice) -> Devices:
    """Return what is known after these objects."""
    found = Devices()
    for item in items:
        (found.set_class if isinstance(item, DeviceClass) else found.set_slice)(item)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    "selectors",
    [
        (),
        (f'device.driver == "{DRIVER}"',),
        (SHIPPED,),
        (f"device.driver == '{DRIVER}'", f"device.attributes['{DRIVER}'].type == 'gpu'"),
        (f"  device.attributes['{DRIVER}'].type=='gpu'&&device.driver == '{DRIVER}'  ",),
    ],
)
def test_devices_of_a_class_are_counted(selectors: tuple[str, ...]) -> None:
    devices = seen(class_of(*selectors), slice_of())
    assert devices.offered("n0").counts == {GPU: 2, IMPLICIT: 2}
    assert devices.offered("n0").unknown == {}
    assert devices.offered("n1").counts == {}


def test_only_devices_of_the_class_are_counted() -> None:
    others = slice_of("n0", {"name": "nic"}, driver="nic.example.com")
    parts = slice_of("n0", device("gpu-0"), device("mig-0", "mig"), device("mig-1", "mig"))
    offer = seen(class_of(SHIPPED), parts, others).offered("n0")
    assert (offer.counts, offer.unknown) == ({GPU: 1, IMPLICIT: 1}, {})


def test_attributes_are_found_under_either_name_and_compared_by_type() -> None:
    def with_attribute(key: str, value: dict[str, Any]) -> ResourceSlice:
        return slice_of("n0", {"name": "d", "attributes": {key: value}})

    def count(literal: str, *slices: ResourceSlice) -> int:
        one = class_of(f"device.attributes['{DRIVER}'].x == {literal}")
        return seen(one, *slices).offered("n0").counts.get(GPU, 0)

    assert count("3", with_attribute("x", {"int": 3})) == 1
    assert count("3", with_attribute(f"{DRIVER}/x", {"int": 3})) == 1
    assert count("-3", with_attribute("x", {"int": 3})) == 0
    assert count("true", with_attribute("x", {"bool": True})) == 1
    assert count("1", with_attribute("x", {"bool": True})) == 0
    assert count('"3"', with_attribute("x", {"int": 3})) == 0


def test_a_pool_counts_when_all_slices_of_its_last_generation_are_there() -> None:
    devices = seen(class_of())
    first = slice_of("n0", device("a"), name="s0", of=2)
    assert devices.set_slice(first) == {"n0"}
    assert devices.offered("n0").counts == {}
    devices.set_slice(slice_of("n0", device("b"), name="s1", of=2))
    assert devices.offered("n0").counts[GPU] == 2
    devices.set_slice(slice_of("n0", device("c"), name="s2", generation=2))
    assert devices.offered("n0").counts[GPU] == 1, "the others are of the past"
    assert devices.set_slice(first, gone=True) == {"n0"}
    assert devices.offered("n0").counts[GPU] == 1


def test_a_tainted_device_is_given_to_nobody() -> None:
    closed = device("bad", taints=[{"key": "health", "effect": "NoExecute"}])
    named = device("odd", taints=[{"key": "info", "effect": "None"}])
    assert seen(class_of(), slice_of("n0", closed, named)).offered("n0").counts[GPU] == 1


def test_what_a_slice_offers_goes_with_it() -> None:
    devices = seen(class_of(), slice_of())
    assert devices.set_slice(slice_of(), gone=True) == {"n0"}
    assert devices.offered("n0").counts == {}
    devices.set_class(class_of(), gone=True)
    devices.set_slice(slice_of())
    assert devices.offered("n0").counts == {}


def test_of_classes_with_one_resource_the_newest_counts() -> None:
    old = class_of("device.driver == 'other'", name="a", made="2026-01-01T00:00:00Z")
    new = class_of(SHIPPED, name="b", made="2026-02-01T00:00:00Z")
    twin = class_of("device.driver == 'other'", name="c", made="2026-02-01T00:00:00Z")
    for order in ((old, new, twin), (twin, new, old)):
        assert seen(*order, slice_of()).offered("n0").counts[GPU] == 2
    back = seen(old, new, slice_of())
    back.set_class(new, gone=True)
    assert GPU not in back.offered("n0").counts


UNKNOWN: dict[str, tuple[DeviceClass, ResourceSlice, str]] = {
    "a selector with or": (
        class_of(f"{SHIPPED} || true"),
        slice_of(),
        "is too complex for muster",
    ),
    "a selector on capacity": (
        class_of(f"device.capacity['{DRIVER}'].memory.compareTo(quantity('40Gi')) >= 0"),
        slice_of(),
        "is too complex for muster",
    ),
    "an attribute that a device lacks": (
        class_of(f"device.attributes['{DRIVER}'].type == 'gpu'"),
        slice_of("n0", {"name": "d"}),
        "has no attribute 'gpu.nvidia.com/type'",
    ),
    "a version": (
        class_of(f"device.attributes['{DRIVER}'].type == '1.2.3'"),
        slice_of("n0", {"name": "d", "attributes": {"type": {"version": "1.2.3"}}}),
        "is a version",
    ),
    "devices that overlap": (
        class_of(),
        slice_of("n0", device("d", consumesCounters=[{"counterSet": "c"}])),
        "partitioned",
    ),
    "devices that several may have": (
        class_of(),
        slice_of("n0", device("d", allowMultipleAllocations=True)),
        "can be shared",
    ),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_not_understood_is_named_and_not_counted(what: str) -> None:
    one, offered, says = UNKNOWN[what]
    offer = seen(one, offered).offered("n0")
    assert GPU not in offer.counts
    assert says in offer.unknown[GPU]


def test_what_is_not_understood_of_one_class_is_in_no_others_way() -> None:
    other = class_of("device.isNice()", name="other", resource="example.com/other")
    offer = seen(class_of(SHIPPED), other, slice_of()).offered("n0")
    assert offer.counts[GPU] == 2
    assert "example.com/other" in offer.unknown


def test_devices_of_several_nodes_are_named() -> None:
    shared = slice_of("", device("far"), name="fabric", allNodes=True)
    devices = seen(class_of(), shared)
    assert devices.shared() == ["fabric"]
    assert seen(shared).shared() == [], "no resource stands for them"


@pytest.mark.parametrize("text", ["", "true", "device.driver", "device.driver != 'a'", "a && b"])
def test_only_equalities_are_evaluated(text: str) -> None:
    with pytest.raises(NotUnderstoodError):
        terms(text)


# -- claims ---------------------------------------------------------------------------------------


def claim(
    *names: str,
    annotations: dict[str, str] | None = None,
    pool: str = "n0",
    pods: tuple[str, ...] = (),
    **more: Any,
) -> ResourceClaim:
    """Return a claim that holds devices of a node, for pods with these uids."""
    results = [{"driver": DRIVER, "pool": pool, "device": name, **more} for name in names]
    meta = {"name": "c", "namespace": "n", "uid": "c", "annotations": annotations or {}}
    reserved = [{"resource": "pods", "name": uid, "uid": uid} for uid in pods]
    status = {"allocation": {"devices": {"results": results}}} if names else {}
    status |= {"reservedFor": reserved}
    return msgspec.convert({"metadata": meta, "status": status}, ResourceClaim)


@pytest.mark.parametrize(
    ("make", "held"),
    [
        (lambda: claim("gpu-0"), 1),
        (lambda: claim("gpu-0", "gpu-1"), 2),
        (lambda: claim(), 0),
        (lambda: claim("gone"), 0),
        (lambda: claim("gpu-0", adminAccess=True), 0),
        # its pod asks for the resource, and counts
        (lambda: claim("gpu-0", annotations={
            "resource.kubernetes.io/extended-resource-claim": "true",
        }), 0),
    ],
)  # fmt: skip
def test_what_claims_hold_is_taken(make: Callable[[], ResourceClaim], held: int) -> None:
    pods = [pod_of(SPECS["gpus"][0])]
    taken = seen(class_of(SHIPPED), slice_of()).taken(make(), pods)
    assert taken.get("n0", {}).get(GPU, 0) == held


def test_pods_for_which_only_kube_scheduler_finds_devices() -> None:
    pod = pod_of(SPECS["gpus"][0])
    assert seen(class_of()).asked_by(pod) == GPU
    assert seen(class_of(resource="")).asked_by(pod) == ""
    assert Devices().asked_by(pod) == ""


def test_a_slice_has_those_claims_looked_at_alone_that_may_have_devices_of_it() -> None:
    """Whoever may create claims creates thousands that get no device."""
    devices = seen(slice_of("n0"), slice_of("n1"))

    def named(name: str, one: ResourceClaim) -> ResourceClaim:
        one.metadata.uid = name
        return one

    for number in range(100):
        devices.set_claim(named(f"none-{number}", claim()))
    devices.set_claim(named("here", claim("gpu-0")))
    devices.set_claim(named("moves", claim("gpu-0", pool="n1")))
    assert [one.metadata.uid for one in devices.claims(slice_of("n0"))] == ["here"]
    devices.set_claim(named("moves", claim("gpu-1")))
    assert [one.metadata.uid for one in devices.claims(slice_of("n0"))] == ["here", "moves"]
    assert devices.claims(slice_of("n1")) == []
    devices.set_claim(named("here", claim()))
    devices.set_claim(named("moves", claim("gpu-1")), gone=True)
    assert devices.claims() == devices.claims(slice_of("n0")) == []
