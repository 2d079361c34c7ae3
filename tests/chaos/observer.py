"""What must hold whatever happens, judged from the API alone.

The observer shares no code with muster: it lists and watches nodes, pods and plan records. Times
are counted on a clock that runs only while no fault is in effect and all components are well, so
that a limit is a promise about muster and not about the length of an outage.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.wire import Object, Wire

RESOURCE = "nvidia.com/gpu"
JUST_NOW_S = 15.0
GATE = "muster.dev/queued"
GANG_LABELS = ("scheduling.x-k8s.io/pod-group", "training.kubeflow.org/job-name")
PLANS = "/api/v1/namespaces/muster-system/configmaps?labelSelector=muster.dev%2Fplan%3Dtrue"


def gpus_of(pod: Object) -> int:
    """Return the GPUs that a pod asks for."""
    containers = pod["spec"]["containers"]
    return sum(
        int((c.get("resources") or {}).get("limits", {}).get(RESOURCE, 0)) for c in containers
    )


def planned_node(pod: Object) -> bool:
    """True for a pod that its affinity ties to one node."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return any(term.get("matchFields") for term in required.get("nodeSelectorTerms") or ())


def ended(pod: Object) -> bool:
    """True for a pod that holds nothing any more."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


@dataclass
class Limits:
    """Seconds on the observer's clock."""

    partial_s: float = 60.0  #: a gang bound in part, counting the repair time and an eviction
    plan_s: float = 60.0  #: one generation of a plan record
    released_s: float = 60.0  #: a pod without gate and without node


@dataclass
class Observer:
    """Collects violations; each is one sentence."""

    clock: Callable[[], float]
    sizes: dict[tuple[str, str], int]  #: what the load asked for: pods of each gang
    limits: Limits = field(default_factory=Limits)
    violations: list[str] = field(default_factory=list)
    num_binds: int = 0
    num_gangs_started: int = 0
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self.allocatable: dict[str, int] = {}
        self.by_node: dict[str, set[str]] = defaultdict(set)
        self.by_gang: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.finished: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.plans: dict[str, tuple[str, float]] = {}
        self._since: dict[tuple[str, Any], float] = {}
        self._started: set[tuple[str, str]] = set()
        self._whole_s: dict[tuple[str, str], float] = {}

    def _wrong(self, text: str) -> None:
        if text not in self.violations:
            self.violations.append(text)

    # -- what the API says -----------------------------------------------------------------------

    async def watch(self, wire: Wire, path: str, handle: Callable[[str, Object], None]) -> None:
        """Follow one kind for ever."""

        async def listed() -> None:
            return None

        await wire.watch(path, handle, listed)

    def on_node(self, change: str, item: Object) -> None:
        """Note what nodes offer."""
        if change == "SYNC":
            self.allocatable = {}
            for node in item["items"]:
                self.on_node("ADDED", node)
        elif change == "DELETED":
            self.allocatable.pop(item["metadata"]["name"], None)
        elif change != "BOOKMARK":
            count = int(item["status"].get("allocatable", {}).get(RESOURCE, 0))
            self.allocatable[item["metadata"]["name"]] = count

    def on_plan(self, change: str, item: Object) -> None:
        """Note plan records: each generation must end."""
        if change == "SYNC":
            now = {one["metadata"]["name"]: one for one in item["items"]}
            for name in set(self.plans) - set(now):
                del self.plans[name]
            for one in now.values():
                self.on_plan("ADDED", one)
        elif change == "DELETED":
            self.plans.pop(item["metadata"]["name"], None)
        elif change != "BOOKMARK":
            name, text = item["metadata"]["name"], item["data"]["plan"]
            if self.plans.get(name, ("", 0.0))[0] != text:
                self.plans[name] = (text, self.clock())

    def on_pod(self, change: str, item: Object) -> None:
        """Note pods, and judge every bind as it is seen."""
        if change == "SYNC":
            now = {pod["metadata"]["uid"]: pod for pod in item["items"]}
            for uid in set(self.pods) - set(now):
                self._forget(uid)
            for uid, pod in now.items():
                self._know(uid, pod)
        elif change == "DELETED":
            self._forget(item["metadata"]["uid"])
        elif change != "BOOKMARK":
            self._know(item["metadata"]["uid"], item)

    def _gang(self, pod: Object) -> tuple[str, str] | None:
        meta = pod["metadata"]
        labels = meta.get("labels") or {}
        for label in GANG_LABELS:
            if label in labels:
                return meta["namespace"], labels[label]
        return None

    def _forget(self, uid: str) -> None:
        pod = self.pods.pop(uid, None)
        if pod is not None:
            self.by_node[pod["spec"].get("nodeName", "")].discard(uid)
            gang = self._gang(pod)
            if gang is not None:
                self.by_gang[gang].discard(uid)

    def _know(self, uid: str, pod: Object) -> None:
        old = self.pods.get(uid)
        self._forget(uid)
        self.pods[uid] = pod
        gang = self._gang(pod)
        if gang is not None:
            self.by_gang[gang].add(uid)
            if pod["status"].get("phase") == "Succeeded":
                self.finished[gang].add(pod["metadata"]["name"])
            if len(self.by_gang[gang]) >= self.sizes.get(gang, 0):
                self._whole_s[gang] = time.monotonic()
        node = pod["spec"].get("nodeName")
        if not node or ended(pod):
            return
        self.by_node[node].add(uid)
        if old is not None and old["spec"].get("nodeName"):
            return
        self.num_binds += 1
        used = sum(gpus_of(self.pods[u]) for u in self.by_node[node])
        has = self.allocatable.get(node)
        if has is not None and used > has:
            names = sorted(self.pods[u]["metadata"]["name"] for u in self.by_node[node])
            self._wrong(f"{used} of {has} GPUs of {node} are given away, to {', '.join(names)}")
        if gang is None or gang not in self.sizes or gang in self._started:
            return
        self._started.add(gang)
        self.num_gangs_started += 1
        there = sum(not ended(self.pods[u]) for u in self.by_gang[gang])
        # a pod may have been deleted between the decision and the bind
        if time.monotonic() - self._whole_s.get(gang, -1e9) > JUST_NOW_S:
            self._wrong(f"{'/'.join(gang)} starts with {there} of its {self.sizes[gang]} pods")

    # -- what must end ---------------------------------------------------------------------------

    @property
    def living(self) -> set[str]:
        """Plans that are on record: unit and generation."""
        found = (json.loads(text) for text, _ in self.plans.values())
        return {f"{plan['unit']}/{plan['generation']}" for plan in found}

    def _lasts(self, what: str, key: Any, holds: bool, limit_s: float, text: str) -> None:
        if not holds:
            self._since.pop((what, key), None)
            return
        length_s = self.clock() - self._since.setdefault((what, key), self.clock())
        self.longest[what] = max(self.longest[what], length_s)
        if length_s > limit_s:
            self._wrong(f"{text} for more than {limit_s:.0f} s")

    def look(self) -> None:
        """Judge what may last only so long."""
        for gang, size in self.sizes.items():
            pods = [self.pods[uid] for uid in self.by_gang[gang]]
            live = [p for p in pods if not ended(p) and "deletionTimestamp" not in p["metadata"]]
            bound = sum(bool(p["spec"].get("nodeName")) for p in live)
            part = 0 < bound < size - len(self.finished[gang])
            name = "/".join(gang)
            self._lasts("partial", gang, part, self.limits.partial_s, f"{name} is bound in part")
        living = self.living
        for uid, pod in self.pods.items():
            gates = {gate["name"] for gate in pod["spec"].get("schedulingGates") or ()}
            plan = (pod["metadata"].get("annotations") or {}).get("muster.dev/plan", "")
            # what was never gated keeps the word of a plan that was given up, and waits again
            planned = planned_node(pod) or plan.rpartition("/")[0] in living
            loose = planned and GATE not in gates and not pod["spec"].get("nodeName")
            if ended(pod) or "deletionTimestamp" in pod["metadata"]:
                loose = False
            text = f"{pod['metadata']['name']} is released and not bound"
            self._lasts("released", uid, loose, self.limits.released_s, text)
        for what, key in list(self._since):
            if what == "released" and key not in self.pods:
                del self._since[what, key]
        for name, (_, since_s) in self.plans.items():
            length_s = self.clock() - since_s
            self.longest["plan"] = max(self.longest["plan"], length_s)
            if length_s > self.limits.plan_s:
                self._wrong(f"plan record {name} stays for more than {self.limits.plan_s:.0f} s")
