"""What a pod requests and a node offers, counted as kube-scheduler counts.

A line-by-line reading of `PodRequests` in k8s.io/component-helpers/resource (0.37.2), with what
kube-scheduler asks of it: pod-level resources, overhead, init containers and sidecars in their
order, and of a pod that is resized in place the most of what it asks for, was allotted and has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, localcontext
from functools import lru_cache
from math import ceil

from scheduler.core.model import PodShape, others
from scheduler.kube.objects import (
    Container,
    ContainerStatus,
    NodeObject,
    Pod,
    Quantities,
)
from scheduler.workloads.gangs import MOST

MILLI, UNIT = 10**6, 10**9  #: in nano, the finest step of a quantity
LARGEST = (1 << 63) - 1  #: of a quantity, in its unit

#: by resource, in nano
Amounts = dict[str, int]
#: what one container takes, seen in one way: its status is None if there is none
_View = Callable[[Container, ContainerStatus | None, bool], Amounts]


@lru_cache(maxsize=4096)
def nano(text: str | int) -> int:
    """Return a Kubernetes quantity in billionths of its unit, rounded up as Kubernetes does.

    Raises:
        ValueError: the text is not a quantity, or exceeds what Kubernetes keeps.
    """
    from kubernetes.utils.quantity import parse_quantity  # half of the start of kubectl-muster

    with localcontext(prec=60):
        try:
            exact: Decimal = parse_quantity(text)  # type: ignore[no-untyped-call]
        except ArithmeticError:
            raise ValueError(f"quantity {text!r} is too large to be read") from None
        if not exact.is_finite():
            raise ValueError(f"quantity {text!r} is not a number")
        # asked before it becomes an integer with as many digits as it says
        if exact.copy_abs() > LARGEST:
            raise ValueError(f"quantity {text!r} is too large; Kubernetes keeps up to {LARGEST}")
        return ceil(exact * UNIT)


def pod_shape(pod: Pod, resource: str) -> PodShape:
    """Return what a pod takes of a node, or will take; `resource` names the GPUs."""
    return _shape(pod_requests(pod), resource, 1)


def resized(one: Pod, other: Pod, resource: str) -> bool:
    """True if two states of a pod count differently."""
    return _read(one) != _read(other) and pod_shape(one, resource) != pod_shape(other, resource)


def _read(pod: Pod) -> tuple[object, ...]:
    """Return all that a pod's shape is worked out from."""
    spec, status = pod.spec, pod.status
    said = (*status.init_container_statuses, *status.container_statuses)
    has = said and [(one.name, one.resources, one.allocated_resources) for one in said]
    whole = (status.resize_is_infeasible, status.resources, status.allocated_resources)
    return spec.containers, spec.init_containers, spec.resources, spec.overhead, has, whole


def node_shape(
    node: NodeObject, resource: str, devices: Mapping[str, int] | None = None
) -> PodShape:
    """Return what pods may use of a node; `resource` names the GPUs.

    `devices` are those of the node that extended resources stand for: they count for resources of
    which nothing is allocatable.
    """
    offered = _amounts(node.status.allocatable)
    for name, count in (devices or {}).items():
        offered[name] = offered.get(name) or count * UNIT
    return _shape(offered, resource, -(-offered.pop("pods", 0) // UNIT))


def devices_shape(counts: Mapping[str, int], resource: str) -> PodShape:
    """Return the shape of this many devices; they take no pod slot."""
    return _shape({name: count * UNIT for name, count in counts.items()}, resource, 0)


def _shape(amounts: Amounts, resource: str, pods: int) -> PodShape:
    """Return amounts in the units of a shape, rounded up; more than any node has is as good."""

    def take(name: str, unit: int = UNIT, most: int = MOST * MOST) -> int:
        return min(-(-amounts.pop(name, 0) // unit), most)

    return PodShape(
        take(resource, most=MOST),
        take("cpu", MILLI),
        take("memory"),
        min(pods, MOST),
        others({name: take(name) for name in list(amounts)}) if amounts else (),
    )


def pod_requests(pod: Pod) -> Amounts:
    """Return what kube-scheduler counts for a pod that has a node, or is to get one."""
    spec, status = pod.spec, pod.status
    infeasible = status.resize_is_infeasible
    said = {  # what says which resources a container has, or was allotted
        one.name: one
        for one in (*status.init_container_statuses, *status.container_statuses)
        if one.resources is not None or one.allocated_resources is not None
    }
    seen = [] if infeasible else [_of_containers(pod, _asked, {}, infeasible)]
    level = status.resources
    if status.allocated_resources is not None and level and level.requests is not None:
        seen += [_amounts(level.requests), _amounts(status.allocated_resources)]
    elif infeasible or said:  # else all three are the same
        seen += [_of_containers(pod, view, said, infeasible) for view in (_actual, _allotted)]
    total = _most(seen) if len(seen) > 1 else seen[0]
    if spec.resources is not None:
        asked = _amounts(spec.resources.requests)
        _default(pod, asked)
        if any(map(_is_pod_level, asked)):
            if level is not None:
                told = [level.requests or {}, status.allocated_resources or {}]
                asked = _most([{} if infeasible else asked, *map(_amounts, told)])
            total |= {name: amount for name, amount in asked.items() if _is_pod_level(name)}
    if spec.overhead:
        _add(total, _amounts(spec.overhead))
    return total


def _default(pod: Pod, asked: Amounts) -> None:
    """Fill in pod-level requests as the API server does where there are pod-level limits."""
    resources = pod.spec.resources
    assert resources is not None
    if not resources.limits:
        return
    for name, amount in _of_containers(pod, _asked, {}, False).items():
        if _is_pod_level(name) and not name.startswith("hugepages-"):
            asked.setdefault(name, amount)
    for name, amount in _amounts(resources.limits).items():
        if _is_pod_level(name):
            asked.setdefault(name, amount)


def _is_pod_level(name: str) -> bool:
    return name in ("cpu", "memory") or name.startswith("hugepages-")


def _of_containers(
    pod: Pod, view: _View, status: dict[str, ContainerStatus], infeasible: bool
) -> Amounts:
    """Return the most that the containers take at any time of the pod's life.

    While the i-th init container runs, so do the sidecars before it.
    """
    first, *more = pod.spec.containers or (Container(),)
    total = view(first, status.get(first.name), infeasible)
    for container in more:
        _add(total, view(container, status.get(container.name), infeasible))
    if not pod.spec.init_containers:
        return total
    sidecars: Amounts = {}
    peaks: list[Amounts] = []
    for container in pod.spec.init_containers:
        taken = view(container, status.get(container.name), infeasible)
        if container.restart_policy == "Always":
            _add(total, taken)
            _add(sidecars, taken)
            peaks.append(dict(sidecars))
        else:
            _add(taken, sidecars)
            peaks.append(taken)
    return _most([total, *peaks])


def _asked(container: Container, _: ContainerStatus | None, __: bool = False) -> Amounts:
    """Return the requests; where one is missing, the API server takes the limit for it."""
    resources = container.resources
    return _amounts(resources.limits | resources.requests)


def _allotted(container: Container, status: ContainerStatus | None, infeasible: bool) -> Amounts:
    if status is not None and status.allocated_resources is not None:
        return _amounts(status.allocated_resources)
    return {} if infeasible else _asked(container, status)


def _actual(container: Container, status: ContainerStatus | None, infeasible: bool) -> Amounts:
    if status is not None and status.resources and status.resources.requests is not None:
        return _amounts(status.resources.requests)
    return _allotted(container, status, infeasible)


def _amounts(quantities: Quantities) -> Amounts:
    return {name: nano(text) for name, text in quantities.items()}


def _add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _most(seen: Iterable[Amounts]) -> Amounts:
    found: Amounts = {}
    for amounts in seen:
        for name, amount in amounts.items():
            found[name] = max(found.get(name, amount), amount)
    return found
