"""Objects of dynamic resource allocation (resource.k8s.io/v1) that muster reads."""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler.kube.objects import Meta

CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"


class _Object(msgspec.Struct, rename="camel", gc=False):
    pass


class Cel(_Object):
    expression: str = ""


class DeviceSelector(_Object):
    cel: Cel | None = None


class DeviceClassSpec(_Object):
    selectors: list[DeviceSelector] = []
    extended_resource_name: str = ""


class DeviceClass(_Object):
    """Devices that a request may name, and the extended resource that stands for one of them."""

    metadata: Meta
    spec: DeviceClassSpec = msgspec.field(default_factory=DeviceClassSpec)


class DeviceTaint(_Object):
    effect: str = ""


class Device(_Object):
    name: str = ""
    attributes: dict[str, dict[str, Any]] = {}  #: each with its value under the name of its type
    consumes_counters: list[Any] = []
    node_name: str = ""
    node_selector: Any = None
    all_nodes: Any = None
    taints: list[DeviceTaint] = []
    allow_multiple_allocations: Any = None


class ResourcePool(_Object):
    name: str = ""
    generation: int = 0
    resource_slice_count: int = 0


class ResourceSliceSpec(_Object):
    driver: str = ""
    pool: ResourcePool = msgspec.field(default_factory=ResourcePool)
    node_name: str = ""
    devices: list[Device] = []
    shared_counters: list[Any] = []


class ResourceSlice(_Object):
    """Some of the devices that a driver offers, mostly those of one node."""

    metadata: Meta
    spec: ResourceSliceSpec = msgspec.field(default_factory=ResourceSliceSpec)


class AllocatedDevice(_Object):
    driver: str = ""
    pool: str = ""
    device: str = ""
    admin_access: Any = None


class AllocatedDevices(_Object):
    results: list[AllocatedDevice] = []


class Allocation(_Object):
    devices: AllocatedDevices = msgspec.field(default_factory=AllocatedDevices)


class Consumer(_Object):
    uid: str = ""


class ResourceClaimStatus(_Object):
    allocation: Allocation | None = None
    reserved_for: list[Consumer] = []  #: pods, up to 256


class ResourceClaim(_Object):
    """Devices that pods share or have for themselves."""

    metadata: Meta
    status: ResourceClaimStatus = msgspec.field(default_factory=ResourceClaimStatus)
