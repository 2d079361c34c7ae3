"""The observer of live tests and chaos sees each broken promise, and no other."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import observer as observers
from tests.chaos.observer import Observer

GANG = ("n", "g")


class Scene:
    """An observer with a node of 8 GPUs, a gang of two and a clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(observers, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.observer = Observer(lambda: self.now_s, {GANG: 2})
        status = {"allocatable": {"nvidia.com/gpu": "8"}}
        self.observer.on_node("ADDED", {"metadata": {"name": "a"}, "status": status})
        self.now_s += 60.0

    def pod(
        self,
        name: str,
        node: str = "",
        *,
        gpus: int = 4,
        plan: str = "",
        space: str = "n",
        gang: str = "g",
        made: str = "2026-01-01T00:00:00Z",
        **spec: Any,
    ) -> None:
        """Tell of a pod of a gang."""
        meta: dict[str, Any] = {"name": name, "namespace": space, "uid": name}
        meta |= {"creationTimestamp": made}
        meta["labels"] = {"scheduling.x-k8s.io/pod-group": gang}
        meta["annotations"] = {"muster.dev/plan": plan} if plan else {}
        spec |= {"containers": [{"resources": {"limits": {"nvidia.com/gpu": gpus}}}]}
        spec |= {"nodeName": node} if node else {}
        status = {"phase": "Running" if node else "Pending"}
        self.observer.on_pod("MODIFIED", {"metadata": meta, "spec": spec, "status": status})

    def plan(self, generation: int, committed: str = "", change: str = "MODIFIED") -> None:
        """Tell of the gang's plan record."""
        marks = {"muster.dev/committed": committed} if committed else {}
        text = json.dumps({"unit": "n/g", "generation": generation})
        meta = {"name": "record", "annotations": marks}
        self.observer.on_plan(change, {"metadata": meta, "data": {"plan": text}})

    def after(self, length_s: float) -> str:
        """Let time pass; return what is wrong then."""
        self.now_s += length_s
        self.observer.look()
        return "; ".join(self.observer.violations)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Return a scene."""
    return Scene(monkeypatch)


def test_a_gang_that_starts_whole_after_a_commit_breaks_nothing(scene: Scene) -> None:
    scene.plan(1)
    for name in ("g-0", "g-1"):
        scene.pod(name)
    scene.plan(1, "1 me")
    for name in ("g-0", "g-1"):
        scene.pod(name, "a", plan="n/g/1/worker-0")
    scene.plan(1, "1 me", "DELETED")
    scene.observer.count_filters(4)
    scene.observer.end()
    assert scene.after(6.0) == ""
    assert scene.after(600.0) == ""
    assert scene.observer.num_committed == 2


def test_gpus_given_away_twice(scene: Scene) -> None:
    scene.pod("g-0", "a")
    scene.pod("g-1", "a", gpus=8)
    assert "12 of 8 GPUs of a are given away" in scene.after(0.0)


def test_a_gang_bound_in_part(scene: Scene) -> None:
    scene.pod("g-0")
    scene.pod("g-1")
    scene.pod("g-0", "a")
    assert scene.after(0.0) == ""
    assert scene.after(61.0) == "n/g is bound in part for more than 60 s"


def test_a_gang_that_starts_incomplete(scene: Scene) -> None:
    scene.pod("g-0", "a")
    assert scene.after(0.0) == "n/g starts with 1 of its 2 pods"


def test_reservations_without_end(scene: Scene) -> None:
    scene.plan(1)
    scene.pod("g-0", plan="n/g/1/worker-0")
    assert scene.after(0.0) == ""
    found = scene.after(61.0)
    assert "plan record record stays" in found
    assert "g-0 is released and not bound" in found


def test_nothing_is_judged_by_records_while_their_watch_is_broken(scene: Scene) -> None:
    """A commit may have gone unseen; the list that comes next says what became of the record."""

    async def break_off(path: str, handle: Any, listed: Any) -> None:
        handle("BROKEN", {})

    scene.plan(1)
    wire: Any = SimpleNamespace(watch=break_off)
    asyncio.run(scene.observer.watch(wire, observers.PLANS, scene.observer.on_plan))
    scene.pod("g-0")
    scene.pod("g-1")
    scene.pod("g-0", "a", plan="n/g/1/worker-0")
    assert scene.after(20.0) == ""

    async def list_anew(path: str, handle: Any, listed: Any) -> None:
        handle("SYNC", {"items": []})

    wire = SimpleNamespace(watch=list_anew)
    asyncio.run(scene.observer.watch(wire, observers.PLANS, scene.observer.on_plan))
    assert scene.after(20.0) == ""


@pytest.mark.parametrize("committed", ["", "1 me"])
def test_a_bind_without_a_commit_of_its_plan(scene: Scene, committed: str) -> None:
    """A commit of the generation before does not count."""
    scene.pod("g-0")
    scene.pod("g-1")
    scene.plan(1, committed)
    scene.plan(2, committed)
    scene.pod("g-0", "a", plan="n/g/2/worker-0")
    assert scene.after(6.0) == "n/g-0 is bound by plan n/g/2, which was not committed"


@pytest.mark.parametrize(("scheduler", "is_judged"), [("", False), ("muster-direct", True)])
def test_a_pod_without_gpus_is_bound_by_kube_scheduler_alone(
    scene: Scene, scheduler: str, is_judged: bool
) -> None:
    scene.pod("g-0", gpus=0, schedulerName=scheduler)
    scene.pod("g-1")
    scene.plan(1)
    scene.pod("g-0", "a", gpus=0, plan="n/g/1/worker-0", schedulerName=scheduler)
    assert ("which was not committed" in scene.after(6.0)) == is_judged


def test_many_filter_calls(scene: Scene) -> None:
    for node in ("", "a"):
        for name in ("g-0", "g-1"):
            scene.pod(name, node)
    scene.observer.count_filters(15)
    scene.observer.count_filters(6)  # muster started anew meanwhile
    scene.observer.end()
    assert scene.observer.violations == ["10.5 filter calls per bound pod; at most 10 are fair"]


def test_an_elastic_job_needs_its_minimum_and_no_less(scene: Scene) -> None:
    job = {"metadata": {"name": "g", "namespace": "n"}}
    scene.observer.on_job("ADDED", {**job, "spec": {"elasticPolicy": {"minReplicas": 1}}})
    scene.pod("g-0", "a")
    assert scene.after(600.0) == ""
    scene.observer.on_job("MODIFIED", {**job, "spec": {}})
    scene.after(1.0)
    assert "bound in part" in scene.after(600.0)


# -- what is kept for nobody, and who is passed ------------------------------------------------


def test_gpus_that_are_kept_for_nobody(scene: Scene) -> None:
    for node in ("", "a"):
        scene.pod("g-0", node)
        scene.pod("g-1", node)
    scene.observer.held = {GANG: 8}
    assert scene.after(600.0) == ""
    scene.observer.on_pod("DELETED", {"metadata": {"uid": "g-1"}})
    scene.pod("g-1-again")
    assert "kept" not in scene.after(40.0), "its successor lives"
    scene.observer.on_pod("DELETED", {"metadata": {"uid": "g-1-again"}})
    scene.after(1.0)
    assert "kept" not in scene.after(19.0), "a successor has that long to come"
    found = scene.after(2.0)
    assert "GPUs are kept for n/g without a living pod for more than 20 s" in found
    assert "GPUs are kept for namespace n without a living pod for more than 20 s" in found


def test_gpus_that_a_tenant_holds_without_labels_count_for_its_namespace(scene: Scene) -> None:
    """Pods of which the labels were taken off live, and those that were deleted do not."""
    scene.observer.sizes.clear()
    scene.pod("x-0", "a", space="t", gang="x")
    scene.observer.held = {("t", "x"): 4}
    meta = {"name": "x-0", "namespace": "t", "uid": "x-0"}
    limits = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 4}}}]}
    bare = {"metadata": meta, "spec": {"nodeName": "a", **limits}, "status": {"phase": "Running"}}
    scene.observer.on_pod("MODIFIED", bare)
    scene.after(1.0)
    assert scene.after(600.0) == ""
    scene.observer.on_pod("DELETED", bare)
    scene.after(1.0)
    assert "kept for namespace t" in scene.after(21.0)


def test_what_is_kept_is_read_from_the_lines_of_the_state() -> None:
    role = {"count": 2, "pod": [4, 0, 0], "selector": ["", ""], "name": "worker"}
    lines = [
        {"is": "Snapshot"},
        {"is": "GangSubmitted", "v": {"gang": ["n/g", [role], 0], "present": 2}},
        {"is": "Admitted", "v": {"gang": "n/g", "placement": [[0, 3, 5, 1]]}},
        {"is": "GangSubmitted", "v": {"gang": ["n/waits", [role], 0], "present": 2}},
    ]
    assert observers.held_by({"lines": lines}) == {("n", "g"): 8}


class Passing(Scene):
    """A gang of n that waits for both of its pods, and one of another namespace."""

    def wait(self) -> None:
        for name in ("g-0", "g-1"):
            self.pod(name, priority=5)

    def other(self, *, node: str = "a", space: str = "t", priority: int = 0, gpus: int = 4) -> None:
        made = "2026-01-01T01:00:00Z"
        for name in ("h-0", "h-1"):
            self.pod(name, node, space=space, gang="h", priority=priority, gpus=gpus, made=made)


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Passing:
    """Return such a scene."""
    return Passing(monkeypatch)


PASSED = "n/g waits, though t/h, later or lower, got what it could use"


@pytest.mark.parametrize("priority", [0, 5])
def test_a_gang_that_is_passed_by_a_lower_or_later_one(passing: Passing, priority: int) -> None:
    passing.wait()
    passing.after(0.0)
    passing.after(10.0)
    passing.other(priority=priority)
    assert passing.after(0.0) == ""
    assert passing.after(21.0) == PASSED


def test_one_that_starts_soon_was_not_passed(passing: Passing) -> None:
    passing.wait()
    passing.after(0.0)
    passing.after(10.0)
    passing.other()
    passing.after(0.0)
    for name in ("h-0", "h-1"):
        passing.observer.on_pod("DELETED", {"metadata": {"uid": name}})
    for name in ("g-0", "g-1"):
        passing.pod(name, "a", priority=5)
    assert passing.after(60.0) == ""


@pytest.mark.parametrize(
    "other",
    [
        {"priority": 9},  # higher
        {"space": "n"},  # its own namespace's
        {"gpus": 1, "node": "small"},  # nothing that it could use
    ],
)
def test_what_is_no_passing(passing: Passing, other: dict[str, Any]) -> None:
    status = {"allocatable": {"nvidia.com/gpu": "2"}}
    passing.observer.on_node("ADDED", {"metadata": {"name": "small"}, "status": status})
    if other.get("node"):
        passing.pod("full-0", "a", space="m", gang="full", gpus=8)
    passing.wait()
    passing.after(0.0)
    passing.after(10.0)
    passing.other(**other)
    passing.after(0.0)
    assert "waits, though" not in passing.after(60.0)


def test_nobody_is_passed_before_it_is_whole_or_on_closed_nodes(passing: Passing) -> None:
    passing.pod("g-0", priority=5)
    passing.after(0.0)
    passing.after(10.0)
    passing.other()
    passing.after(0.0)
    assert "waits, though" not in passing.after(60.0)
    passing.wait()
    passing.after(10.0)
    status = {"allocatable": {"nvidia.com/gpu": "8"}}
    closed = {"metadata": {"name": "b"}, "spec": {"unschedulable": True}, "status": status}
    passing.observer.on_node("ADDED", closed)
    passing.pod("i-0", "b", space="t", gang="i", made="2026-01-01T02:00:00Z")
    passing.after(0.0)
    assert "waits, though" not in passing.after(60.0)
