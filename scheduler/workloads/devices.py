"""Devices that drivers publish in ResourceSlices, where an extended resource stands for them.

A node whose GPUs are served by dynamic resource allocation has none that are allocatable: a
DeviceClass says which extended resource stands for its devices, and kube-scheduler makes a claim
for each pod that asks for it. Devices that are not understood are named, and none of their node is
counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from scheduler.kube.devices import Device, DeviceClass, ResourceClaim, ResourceSlice
from scheduler.kube.objects import Pod
from scheduler.workloads.requests import UNIT, pod_requests

IMPLICIT = "deviceclass.resource.kubernetes.io/"  #: with a class's name: a resource for each class
#: of claims that kube-scheduler made for extended resources: their pods ask for those, and count
STANDS_FOR_REQUESTS = "resource.kubernetes.io/extended-resource-claim"
OF_TEMPLATE = "resource.kubernetes.io/pod-claim-name"  #: of claims that a template was made into

_TERM = re.compile(
    r"""\s*device\.(?:(?P<driver>driver)|attributes\[(?P<q>["'])(?P<domain>[^"']+)(?P=q)\]
    \.(?P<name>\w+))\s*==\s*(?P<value>"[^"\\]*"|'[^'\\]*'|true|false|-?\d+)\s*""",
    re.VERBOSE,
)

_CLOSES = ("NoSchedule", "NoExecute")

PoolKey = tuple[str, str]  #: driver and pool


class NotUnderstoodError(Exception):
    """Devices are offered in a way that muster cannot count; the text says how."""


class Offer(msgspec.Struct):
    """What a node's devices amount to."""

    counts: dict[str, int] = {}  #: by resource
    unknown: dict[str, str] = {}  #: by resource of which nothing is counted: why


class _Term(msgspec.Struct, frozen=True):
    """One comparison of a selector: with the driver's name if `name` is empty."""

    domain: str
    name: str
    value: str | int | bool


def terms(expression: str) -> list[_Term]:
    """Return the comparisons that all have to hold for a CEL expression to hold.

    Raises:
        NotUnderstoodError: it is more than equalities joined by `&&`.
    """
    found = []
    for text in expression.split("&&"):
        match = _TERM.fullmatch(text)
        if match is None:
            raise NotUnderstoodError(f"selector {expression!r} is too complex for muster")
        raw = match["value"]
        value: str | int | bool
        if raw in ("true", "false"):
            value = raw == "true"
        else:
            value = raw[1:-1] if raw[0] in "\"'" else int(raw)
        found.append(_Term(match["domain"] or "", match["name"] or "", value))
    return sorted(found, key=lambda term: term.name != "")  # the driver tells most apart


def _holds(term: _Term, driver: str, device: Device) -> bool:
    if not term.name:
        return driver == term.value
    full = f"{term.domain}/{term.name}"
    attribute = device.attributes.get(full)
    if attribute is None and term.domain == driver:
        attribute = device.attributes.get(term.name)
    if attribute is None:  # an error in CEL, which refuses the whole claim
        raise NotUnderstoodError(f"device {device.name!r} of {driver} has no attribute {full!r}")
    if "version" in attribute:
        raise NotUnderstoodError(f"attribute {full!r} is a version, which muster does not compare")
    value = next(iter(attribute.values()), None)
    return type(value) is type(term.value) and value == term.value


class Devices:
    """Classes, slices and claims of a cluster."""

    def __init__(self) -> None:
        self._classes: dict[str, DeviceClass] = {}
        self._pools: dict[PoolKey, dict[str, ResourceSlice]] = {}
        self._pools_on: dict[str, set[PoolKey]] = {}  #: by node
        self._claims: dict[str, ResourceClaim] = {}  #: those that have devices
        self._holders: dict[PoolKey, set[str]] = {}  #: by pool: claims that have devices of it
        self._served: dict[str, DeviceClass] = {}  #: by resource
        self._terms: dict[str, list[_Term]] = {}  #: by class
        self._asked: set[str] = set()  #: resources that pods ask for

    # -- facts -------------------------------------------------------------------------------

    def set_class(self, item: DeviceClass, *, gone: bool = False) -> None:
        """Process a class: the offer of every node may change."""
        self._classes.pop(item.metadata.name, None)
        if not gone:
            self._classes[item.metadata.name] = item
        self._served = {}
        # of classes with the same resource the newest counts, then the first by name
        by_age = sorted(self._classes.values(), key=lambda one: one.metadata.name, reverse=True)
        by_age.sort(key=lambda one: one.metadata.creation_timestamp or "")
        for one in by_age:
            self._served[IMPLICIT + one.metadata.name] = one
            if one.spec.extended_resource_name:
                self._served[one.spec.extended_resource_name] = one
        self._terms.pop(item.metadata.name, None)

    def set_slice(self, item: ResourceSlice, *, gone: bool = False) -> set[str]:
        """Process a slice; return the nodes whose devices changed."""
        spec = item.spec
        key = (spec.driver, spec.pool.name)
        pool = self._pools.setdefault(key, {})
        before = pool.pop(item.metadata.uid, None)
        if not gone:
            pool[item.metadata.uid] = item
        here = {one.spec.node_name for one in pool.values()}
        nodes = here | {spec.node_name} | ({before.spec.node_name} if before else set())
        for node in nodes:
            pools = self._pools_on.setdefault(node, set())
            (pools.add if node in here else pools.discard)(key)
        if not pool:
            del self._pools[key]
        return nodes - {""}

    def set_claim(self, item: ResourceClaim, *, gone: bool = False) -> None:
        """Process a claim; a user may create thousands of claims without devices."""
        uid = item.metadata.uid
        before = self._claims.pop(uid, None)
        for key in _pools_of(before) if before is not None else ():
            self._holders[key].discard(uid)
            if not self._holders[key]:
                del self._holders[key]
        if gone or item.status.allocation is None:
            return
        self._claims[uid] = item
        for key in _pools_of(item):
            self._holders.setdefault(key, set()).add(uid)

    # -- what follows ------------------------------------------------------------------------

    def asked_by(self, pod: Pod) -> str:
        """Return a resource of a pod that devices may provide; empty if there is none.

        Only kube-scheduler gives it devices.
        """
        if not self._served:
            return ""
        for one in (*pod.spec.containers, *pod.spec.init_containers):
            for name in (*one.resources.requests, *one.resources.limits):
                if name in self._served:
                    self._asked.add(name)
                    return name
        return ""

    def offered(self, node: str) -> Offer:
        """Return what a node's devices amount to."""
        counts: Counter[str] = Counter()
        unknown: dict[str, str] = {}
        for driver, device in self._devices_on(node):
            for resource, one in self._served.items():
                try:
                    counts[resource] += self._matches(one, driver, device)
                except NotUnderstoodError as error:
                    unknown[resource] = str(error)
        known = {name: n for name, n in counts.items() if n and name not in unknown}
        # every class has a resource of its own, for which hardly anybody asks
        said = {
            name: why
            for name, why in unknown.items()
            if name in self._asked or not name.startswith(IMPLICIT)
        }
        return Offer(known, said)

    def shared(self) -> list[str]:
        """Return slices whose devices do not belong to one node: they are counted nowhere."""
        if not self._served:
            return []
        return sorted(
            one.metadata.name
            for pool in self._pools.values()
            for one in pool.values()
            if not one.spec.node_name and one.spec.devices
        )

    def taken(self, claim: ResourceClaim, pods: Sequence[Pod | None]) -> dict[str, Counter[str]]:
        """Return what a claim holds of each node's resources, unless its pods count for it.

        `pods` are those that it is reserved for; None for one that is not known.
        """
        found: dict[str, Counter[str]] = {}
        allocation = claim.status.allocation
        if allocation is None or self._stands_for_requests(claim, pods):
            return found
        for one in allocation.devices.results:
            if one.admin_access:
                continue
            for each in self._pools.get((one.driver, one.pool), {}).values():
                node = each.spec.node_name
                for device in each.spec.devices if node else ():
                    if device.name == one.device:
                        held = found.setdefault(node, Counter())
                        held.update(self._resources_of(one.driver, device))
        return found

    def _stands_for_requests(self, claim: ResourceClaim, pods: Sequence[Pod | None]) -> bool:
        """True if kube-scheduler made a claim for what pods request: its annotation is anybody's.

        One that somebody else made is reserved for pods that name it, or a template.
        """
        said, allocation = claim.metadata.annotations, claim.status.allocation
        if said.get(STANDS_FOR_REQUESTS) != "true" or OF_TEMPLATE in said or allocation is None:
            return False
        asked = 0
        for pod in pods:
            if pod is None or _names(pod, claim.metadata.name):
                return False
            try:
                asked += sum(n for name, n in pod_requests(pod).items() if name in self._served)
            except ValueError:
                return False
        return asked >= len(allocation.devices.results) * UNIT

    def claim(self, uid: str) -> ResourceClaim | None:
        """Return a claim, if it is there and has devices."""
        return self._claims.get(uid)

    def claims(self, beside: ResourceSlice | None = None) -> list[ResourceClaim]:
        """Return the claims that have devices; or those alone that may have some of a slice."""
        if beside is None:
            return list(self._claims.values())
        key = (beside.spec.driver, beside.spec.pool.name)
        return [self._claims[uid] for uid in sorted(self._holders.get(key, ()))]

    # -- devices and classes -----------------------------------------------------------------

    def _devices_on(self, node: str) -> Iterator[tuple[str, Device]]:
        """Yield the devices, each with its driver, that a claim may get on a node.

        None of a pool of which not all slices of the last generation are there: kube-scheduler
        does without them then.
        """
        for key in sorted(self._pools_on.get(node, ())):
            slices = self._pools[key].values()
            last = max(one.spec.pool.generation for one in slices)
            present = [one.spec for one in slices if one.spec.pool.generation == last]
            if len(present) != present[0].pool.resource_slice_count:
                continue
            for spec in present:
                for device in spec.devices if spec.node_name == node else ():
                    if not any(taint.effect in _CLOSES for taint in device.taints):
                        yield key[0], device

    def _resources_of(self, driver: str, device: Device) -> list[str]:
        try:
            return [r for r, one in self._served.items() if self._matches(one, driver, device)]
        except NotUnderstoodError:
            return []  # its node counts for nothing

    def _matches(self, one: DeviceClass, driver: str, device: Device) -> bool:
        """True if the device is one of the class.

        Raises:
            NotUnderstoodError: nobody can say without more of CEL, or it is not one whole device.
        """
        name = one.metadata.name
        wanted = self._terms.get(name)
        if wanted is None:
            wanted = self._terms[name] = [
                term
                for selector in one.spec.selectors
                for term in terms(selector.cel.expression if selector.cel else "")
            ]
        if not all(_holds(term, driver, device) for term in wanted):
            return False
        if device.consumes_counters or device.allow_multiple_allocations:
            raise NotUnderstoodError(
                f"device {device.name!r} of {driver} can be shared or partitioned"
            )
        return True


def _pools_of(claim: ResourceClaim) -> set[PoolKey]:
    allocation = claim.status.allocation
    results = allocation.devices.results if allocation is not None else ()
    return {(one.driver, one.pool) for one in results}


def _names(pod: Pod, claim: str) -> bool:
    claims = (one for one in pod.spec.resource_claims if isinstance(one, dict))
    return any(one.get("resourceClaimName") == claim for one in claims)
