"""What a pod requests and a node offers, as kube-scheduler counts it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.model import PodShape, others
from scheduler.kube.objects import NodeObject
from scheduler.workloads.requests import nano, node_shape, pod_requests, pod_shape
from tests.scheduler.workloads.counted import GPU, RESIZED, SPECS, container, pod_of


def shape_of(counted: dict[str, int]) -> PodShape:
    """Return the shape of a pod that takes so much."""
    rest = dict(counted)
    first = [rest.pop(name, 0) for name in (GPU, "cpu", "memory")]
    return PodShape(*first, 1, others(rest))


@pytest.mark.parametrize("name", list(SPECS))
def test_pods_are_counted_as_by_hand(name: str) -> None:
    spec, counted = SPECS[name]
    assert pod_shape(pod_of(spec), GPU) == shape_of(counted)


@pytest.mark.parametrize("name", list(RESIZED))
def test_a_pod_that_is_resized_counts_with_the_most_that_it_may_have(name: str) -> None:
    spec, status, cpu_milli = RESIZED[name]
    assert pod_shape(pod_of(spec, status), GPU) == PodShape(0, cpu_milli, pods=1)


def test_a_node_offers_what_is_allocatable() -> None:
    allocatable = {
        "cpu": "7910m",
        "memory": "263782416Ki",
        "pods": "110",
        "ephemeral-storage": "47093746742",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "1Gi",
        "example.com/nic": "4",
        GPU: "8",
    }
    node = {"metadata": {"name": "n"}, "status": {"allocatable": allocatable}}
    assert node_shape(msgspec.convert(node, NodeObject), GPU) == PodShape(
        8,
        7910,
        263782416 << 10,
        110,
        (("ephemeral-storage", 47093746742), ("example.com/nic", 4), ("hugepages-2Mi", 1 << 30)),
    )


def test_a_node_that_says_nothing_offers_nothing() -> None:
    assert node_shape(msgspec.convert({"metadata": {"name": "n"}}, NodeObject), GPU) == PodShape(0)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1", 10**9),
        (8, 8 * 10**9),
        ("100m", 10**8),
        ("1u", 1000),
        ("1n", 1),
        ("0.5n", 1),
        ("1e3", 10**12),
        ("1E3", 10**12),
        ("1E", 10**27),
        ("1.5Gi", 3 * 2**29 * 10**9),
        ("9223372036854775807", 9223372036854775807 * 10**9),
        ("0.1", 10**8),
        ("-1", -(10**9)),
    ],
)
def test_quantities_are_exact(text: str | int, amount: int) -> None:
    assert nano(text) == amount


@pytest.mark.parametrize("text", ["", "abc", "1ki", "NaN", "Infinity", "1e999", "1e999999999"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"number format|unknown suffix|is not a number|too large"):
        nano(text)


# -- against another way to count --------------------------------------------------------------

Resources = dict[str, str]
UNITS = {"cpu": 1000, "memory": 1, GPU: 1, "hugepages-2Mi": 1, "example.com/nic": 1}


def plain(text: str) -> Fraction:
    """Return the number of the few kinds of quantities that are drawn below."""
    if text.endswith("m"):
        return Fraction(text[:-1]) / 1000
    return Fraction(text[:-2]) * 2**20 if text.endswith("Mi") else Fraction(text)


def counted(spec: dict[str, Any], status: dict[str, Any], name: str) -> int:
    """Return what is counted of one resource: the largest sum over the moments of a pod's life.

    At the i-th moment run the i-th init container and the sidecars before it, at the last one all
    sidecars and all containers.
    """
    said = [c for c in status.get("conditions", ()) if c["type"] == "PodResizePending"]
    never = bool(said) and said[0]["reason"] == "Infeasible"
    statuses = {s["name"]: s for s in status.get("initContainerStatuses", ())}
    statuses |= {s["name"]: s for s in status.get("containerStatuses", ())}

    def asked(of: dict[str, Any]) -> Resources:
        return {**of["resources"].get("limits", {}), **of["resources"]["requests"]}

    def allotted(of: dict[str, Any]) -> Resources:
        found = statuses.get(of["name"], {}).get("allocatedResources")
        return found if found is not None else {} if never else asked(of)

    def actual(of: dict[str, Any]) -> Resources:
        found = statuses.get(of["name"], {}).get("resources", {}).get("requests")
        return found if found is not None else allotted(of)

    def largest(view: Any) -> Fraction:
        moments = []
        for i, one in enumerate(spec["initContainers"]):
            before = [c for c in spec["initContainers"][:i] if "restartPolicy" in c]
            moments.append([*before, one])
        sidecars = [c for c in spec["initContainers"] if "restartPolicy" in c]
        moments.append([*sidecars, *spec["containers"]])
        return max(sum((plain(view(c).get(name, "0")) for c in m), Fraction(0)) for m in moments)

    has = status.get("resources", {}).get("requests")
    was_allotted = status.get("allocatedResources")
    if has is not None and was_allotted is not None:
        found = [plain(has.get(name, "0")), plain(was_allotted.get(name, "0"))]
    else:
        found = [largest(actual), largest(allotted)]
    total = max(found if never else [*found, largest(asked)])
    whole = spec.get("resources", {}).get("requests", {})
    if name in ("cpu", "memory", "hugepages-2Mi") and whole:
        values = [] if never and "resources" in status else [whole.get(name)]
        if "resources" in status:
            values += [(has or {}).get(name), (was_allotted or {}).get(name)]
        given = [plain(value) for value in values if value is not None]
        total = max(given) if given else total
    total += plain(spec.get("overhead", {}).get(name, "0"))
    scaled = total * UNITS[name]
    return -(-scaled.numerator // scaled.denominator)


amounts = {
    "cpu": st.sampled_from(["0", "100m", "250m", "1", "1.5", "2", "0.1"]),
    "memory": st.sampled_from(["0", "64Mi", "1500m", "1000000", "0.5Mi"]),
    GPU: st.sampled_from(["0", "1", "2"]),
    "hugepages-2Mi": st.sampled_from(["2Mi", "4Mi"]),
    "example.com/nic": st.sampled_from(["1", "3"]),
}
resources = st.fixed_dictionaries({}, optional=amounts)
whole = st.fixed_dictionaries(
    {}, optional={name: amounts[name] for name in ("cpu", "memory", "hugepages-2Mi")}
)


@st.composite
def pods(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a spec and a status that need not go together."""
    names = [f"c{i}" for i in range(draw(st.integers(1, 3)))]
    firsts = [f"i{i}" for i in range(draw(st.integers(0, 4)))]
    spec = {
        "containers": [container(name, draw(resources)) for name in names],
        "initContainers": [
            container(name, draw(resources), always=draw(st.booleans())) for name in firsts
        ],
    }
    if draw(st.booleans()):
        spec["resources"] = {"requests": draw(whole)}
    if draw(st.booleans()):
        spec["overhead"] = draw(whole)
    status: dict[str, Any] = {}
    for field, of in (("containerStatuses", names), ("initContainerStatuses", firsts)):
        seen = status[field] = []
        for name in of:
            one: dict[str, Any] = {"name": name}
            if draw(st.booleans()):
                one["allocatedResources"] = draw(resources)
            if draw(st.booleans()):
                one["resources"] = draw(st.sampled_from([{}, {"requests": draw(resources)}]))
            if draw(st.booleans()):
                seen.append(one)
    if draw(st.booleans()):
        status["resources"] = draw(st.sampled_from([{}, {"requests": draw(whole)}]))
    if draw(st.booleans()):
        status["allocatedResources"] = draw(whole)
    kind = draw(st.sampled_from(["", "Infeasible", "Deferred"]))
    if kind:
        condition = {"type": "PodResizePending", "status": "True", "reason": kind}
        status["conditions"] = [{"type": "Ready", "status": "True"}, condition]
    return spec, status


@given(pods())
def test_any_pod_counts_as_the_largest_sum_over_its_life(
    drawn: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    spec, status = drawn
    found = pod_shape(pod_of(spec, status), GPU)
    assert found == shape_of({name: counted(spec, status, name) for name in UNITS})


def test_nothing_of_a_pod_is_changed_by_counting_it() -> None:
    spec, _ = SPECS["sidecars between init containers"]
    pod = pod_of(spec, RESIZED["a sidecar down"][1])
    first = pod_requests(pod)
    assert pod_requests(pod) == first
