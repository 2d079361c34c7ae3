"""What must hold whatever happens, judged from the API alone.

The observer shares no code with muster: it lists and watches nodes, pods, pod groups and plan
records, and asks muster what it keeps for whom. Seven things must hold. GPUs of bound pods never
exceed what their node has; no gang is bound in part for longer than a repair takes, or starts
incomplete; every reservation ends, in the records and on the pods; filter calls are few for each
pod that is bound; no pod is bound after its barrier failed: whom muster binds itself, as one of a
gang, was of a plan that was committed; no GPU is kept without a living pod for longer than a repair
takes; and no gang waits while room that it could use goes to a later or lower one of others.

Times are counted on a clock that runs only while no fault is in effect and all components are well,
so that a limit is a promise about muster and not about the length of an outage.
"""

from __future__ import annotations

import json
import math
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.wire import Object, Wire

RESOURCE = "nvidia.com/gpu"
DEVICES = "tests.muster.dev/devices"
JUST_NOW_S = 15.0
LATE_S = 5.0  #: what one watch may lag behind another
GATE = "muster.dev/queued"
GANG_LABELS = ("scheduling.x-k8s.io/pod-group", "training.kubeflow.org/job-name")
TRAINER_STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
GROUPS = "/apis/scheduling.x-k8s.io/v1alpha1/podgroups"
JOBS = "/apis/kubeflow.org/v1/pytorchjobs"
PLANS = "/api/v1/namespaces/muster-system-plans/configmaps?labelSelector=muster.dev%2Fplan%3Dtrue"


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


def pinned_to(pod: Object) -> str:
    """Return the node that the affinity of a pod ties it to, or nothing."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for rule in term.get("matchFields") or ():
            return str((rule.get("values") or [""])[0])
    return ""


def bound_by_muster(pod: Object) -> bool:
    """True for a pod of a plan that kube-scheduler does not bind by itself.

    It binds those that are pinned, and asks no extender about a pod without GPUs.
    """
    asks = gpus_of(pod) > 0 and not planned_node(pod)
    return asks or pod["spec"].get("schedulerName") == "muster-direct"


def held_by(state: Object) -> dict[tuple[str, str], int]:
    """Return the GPUs that muster keeps for each gang, from what it answers at /state."""
    roles: dict[str, list[int]] = {}
    held: dict[tuple[str, str], int] = defaultdict(int)
    for line in state.get("lines") or ():
        if line["is"] == "GangSubmitted":
            name, of, *_ = line["v"]["gang"]
            roles[name] = [role["pod"][0] for role in of]
        elif line["is"] == "Admitted":
            name = line["v"]["gang"]
            space, _, gang = name.partition("/")
            for role, low, high, pods in line["v"]["placement"]:
                held[space, gang] += (high - low) * pods * roles[name][role]
    return dict(held)


def num_filters(status_url: str) -> float:
    """Return how often muster's filter was asked since it started.

    Raises:
        OSError: it does not say.
    """
    with urllib.request.urlopen(status_url + "/metrics", timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith('muster_extender_seconds_count{verb="filter"')
    )


def plan_of(text: str) -> str:
    """Return gang and generation of a record, as the annotation of its pods has them."""
    try:
        plan = json.loads(text)
        return f"{plan['unit']}/{plan['generation']}"
    except (ValueError, KeyError):  # another version's
        return ""


def ended(pod: Object) -> bool:
    """True for a pod that holds nothing any more."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


@dataclass
class Limits:
    """Seconds on the observer's clock."""

    partial_s: float = 60.0  #: a gang bound in part, counting the repair time and an eviction
    plan_s: float = 60.0  #: one generation of a plan record
    released_s: float = 60.0  #: a pod without gate and without node
    empty_s: float = (
        20.0  #: GPUs kept for pods that do not live: a repair, and what it takes to see
    )
    passed_s: float = 20.0  #: a gang still waits, though another got what it could use
    filters_per_bind: float = 10.0


@dataclass
class Observer:
    """Collects violations; each is one sentence."""

    clock: Callable[[], float]
    sizes: dict[tuple[str, str], int]  #: what the load asked for: pods of each gang
    limits: Limits = field(default_factory=Limits)
    violations: list[str] = field(default_factory=list)
    num_binds: int = 0
    num_gangs_started: int = 0
    num_committed: int = 0  #: binds after a barrier, or by muster itself
    num_filters: float = 0.0
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self.allocatable: dict[str, int] = {}
        self.least: dict[tuple[str, str], int] = {}  #: of elastic jobs: pods that they can run with
        self.by_node: dict[str, set[str]] = defaultdict(set)
        self.by_gang: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.finished: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.plans: dict[str, tuple[str, float]] = {}
        self._since: dict[tuple[str, Any], float] = {}
        self._started: set[tuple[str, str]] = set()
        self._whole_s: dict[tuple[str, str], float] = {}
        self._committed: dict[str, float] = {}  #: plan -> when its record was erased, or infinity
        self._to_judge: list[tuple[float, str, str]] = []  #: binds that need a commit
        self._gap_s = time.monotonic()  #: when a watch last began anew
        self._broken: set[str] = set()  #: watches that broke off and were not listed anew yet
        self._filters_seen = 0.0
        self.closed: set[str] = set()  #: nodes that take no pods
        self.held: dict[tuple[str, str], int] = {}  #: GPUs that muster keeps for each gang
        self._first_s: dict[tuple[str, str], float] = {}  #: when each gang was seen first
        self._waits: dict[tuple[str, str], float] = {}  #: gangs that wait whole, and since when
        self._decided: set[tuple[str, str]] = set()  #: gangs that have a node or were told of one
        self._passed: dict[tuple[tuple[str, str], tuple[str, str]], float] = {}

    def _wrong(self, text: str) -> None:
        if text not in self.violations:
            self.violations.append(text)

    # -- what the API says -----------------------------------------------------------------------

    async def watch(self, wire: Wire, path: str, handle: Callable[[str, Object], None]) -> None:
        """Follow one kind for ever."""

        async def listed() -> None:
            return None

        def heard(change: str, item: Object) -> None:
            if change == "BROKEN":
                self._broken.add(path)
                return
            self._broken.discard(path)
            handle(change, item)

        await wire.watch(path, heard, listed)

    def on_node(self, change: str, item: Object) -> None:
        """Note what nodes offer."""
        if change == "SYNC":
            self.allocatable = {}
            self.closed.clear()
            for node in item["items"]:
                self.on_node("ADDED", node)
        elif change == "DELETED":
            self.allocatable.pop(item["metadata"]["name"], None)
        elif change != "BOOKMARK":
            count = int(item["status"].get("allocatable", {}).get(RESOURCE, 0))
            # of GPUs that a driver publishes as devices it has the test's word
            count += int(item["metadata"].get("annotations", {}).get(DEVICES, 0))
            self.allocatable[item["metadata"]["name"]] = count
            closed = item.get("spec", {}).get("unschedulable")
            (self.closed.add if closed else self.closed.discard)(item["metadata"]["name"])

    def on_group(self, change: str, item: Object) -> None:
        """Take the size of a gang from its group, where nobody else says it."""
        if change == "SYNC":
            for group in item["items"]:
                self.on_group("ADDED", group)
        elif change != "BOOKMARK":
            key = (item["metadata"]["namespace"], item["metadata"]["name"])
            if change == "DELETED":
                self.sizes.pop(key, None)
            else:
                self.sizes[key] = item["spec"]["minMember"]

    def on_job(self, change: str, item: Object) -> None:
        """Take what an elastic job can start with; its operator asks for all ranks at once."""
        if change == "SYNC":
            for job in item["items"]:
                self.on_job("ADDED", job)
        elif change != "BOOKMARK":
            key = (item["metadata"]["namespace"], item["metadata"]["name"])
            least = (item["spec"].get("elasticPolicy") or {}).get("minReplicas")
            if change == "DELETED" or not least:
                self.least.pop(key, None)
            else:
                self.least[key] = int(least)

    def needed(self, gang: tuple[str, str]) -> int:
        """Return how many pods a gang needs to run; 0 if nobody has said."""
        size = self.sizes.get(gang, 0)
        return min(size, self.least.get(gang, size))

    def on_plan(self, change: str, item: Object) -> None:
        """Note plan records: each generation must end."""
        if change == "SYNC":
            self._gap_s = time.monotonic()
            now = {one["metadata"]["name"]: one for one in item["items"]}
            for name in set(self.plans) - set(now):
                del self.plans[name]
            for one in now.values():
                self.on_plan("ADDED", one)
        elif change == "DELETED":
            text, _ = self.plans.pop(item["metadata"]["name"], ("", 0.0))
            gang = plan_of(text).rpartition("/")[0]
            for plan in self._committed:
                if plan.rpartition("/")[0] == gang:
                    self._committed[plan] = time.monotonic()
        elif change != "BOOKMARK":
            name, text = item["metadata"]["name"], item["data"]["plan"]
            mark = (item["metadata"].get("annotations") or {}).get("muster.dev/committed", "")
            if mark:  # of one of the plans that the record has
                gang = plan_of(text).rpartition("/")[0]
                self._committed[f"{gang}/{mark.split()[0]}"] = math.inf
            if self.plans.get(name, ("", 0.0))[0] != text:
                self.plans[name] = (text, self.clock())

    def on_pod(self, change: str, item: Object) -> None:
        """Note pods, and judge every bind as it is seen."""
        if change == "SYNC":
            self._gap_s = time.monotonic()
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
        if TRAINER_STEP in labels:  # its group counts initializers that end before
            return None
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
            if len(self.by_gang[gang]) >= self.needed(gang):
                self._whole_s[gang] = time.monotonic()
        node = pod["spec"].get("nodeName")
        if not node or ended(pod):
            return
        self.by_node[node].add(uid)
        if old is not None and old["spec"].get("nodeName"):
            return
        self.num_binds += 1
        told = (pod["metadata"].get("annotations") or {}).get("muster.dev/plan", "")
        if told and bound_by_muster(pod):
            name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            self._to_judge.append((time.monotonic(), name, told.rpartition("/")[0]))
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
            self._wrong(f"{'/'.join(gang)} starts with {there} of its {self.needed(gang)} pods")

    # -- what must end ---------------------------------------------------------------------------

    @property
    def living(self) -> set[str]:
        """Plans that are on record: gang and generation."""
        return {plan_of(text) for text, _ in self.plans.values()}

    def _lasts(self, what: str, key: Any, holds: bool, limit_s: float, text: str) -> None:
        if not holds:
            self._since.pop((what, key), None)
            return
        length_s = self.clock() - self._since.setdefault((what, key), self.clock())
        self.longest[what] = max(self.longest[what], length_s)
        if length_s > limit_s:
            self._wrong(f"{text} for more than {limit_s:.0f} s")

    def count_filters(self, total: float) -> None:
        """Take in how many filter calls there were since muster started."""
        self.num_filters += total - self._filters_seen if total >= self._filters_seen else total
        self._filters_seen = total

    @property
    def filters_per_bind(self) -> float:
        """How often kube-scheduler asked, for each pod that was bound."""
        return self.num_filters / max(1, self.num_binds)

    def end(self) -> None:
        """Judge what is known when all is over."""
        limit = self.limits.filters_per_bind
        if self.filters_per_bind > limit:
            asked = f"{self.filters_per_bind:.1f} filter calls per bound pod"
            self._wrong(f"{asked}; at most {limit:.0f} are fair")

    def _judge_binds(self) -> None:
        """Every bind behind a barrier must be of a plan that was committed."""
        if self._broken:
            return
        now_s = time.monotonic()
        later = []
        for seen_s, name, plan in self._to_judge:
            if now_s - seen_s < LATE_S:
                later.append((seen_s, name, plan))
            elif plan in self._committed:
                self.num_committed += 1
            elif seen_s - self._gap_s > LATE_S:  # else the commit may have gone unseen
                self._wrong(f"{name} is bound by plan {plan}, which was not committed")
        self._to_judge = later
        for plan, erased_s in list(self._committed.items()):
            if now_s - erased_s > 2 * LATE_S:
                del self._committed[plan]

    # -- what is kept, and who is passed ---------------------------------------------------------

    def _judge_held(self) -> None:
        """No GPU may be kept for pods that do not live: of known gangs, and of each namespace."""
        living: dict[tuple[str, str], int] = defaultdict(int)
        of_space: dict[str, int] = defaultdict(int)
        for pod in self.pods.values():
            if not ended(pod):
                gang = self._gang(pod)
                if gang is not None:
                    living[gang] += gpus_of(pod)
                of_space[pod["metadata"]["namespace"]] += gpus_of(pod)
        kept: dict[str, int] = defaultdict(int)
        for gang, gpus in self.held.items():
            kept[gang[0]] += gpus
            if gang in self.sizes:
                self._kept(gang, "/".join(gang), gpus, living[gang])
        for space, gpus in kept.items():
            self._kept(space, f"namespace {space}", gpus, of_space[space])
        for what, key in list(self._since):
            if what == "empty" and key not in self.held and key not in kept:
                del self._since[what, key]

    def _kept(self, key: Any, name: str, gpus: int, living: int) -> None:
        text = f"GPUs are kept for {name} without a living pod"
        self._lasts("empty", key, gpus > living, self.limits.empty_s, text)

    def _place(self, gang: tuple[str, str]) -> tuple[int, str, float]:
        """Return how a gang stands in the queue: the smaller, the earlier."""
        pods = [self.pods[uid] for uid in self.by_gang[gang]]
        priority = min(int(pod["spec"].get("priority") or 0) for pod in pods)
        made = min(str(pod["metadata"].get("creationTimestamp", "")) for pod in pods)
        return -priority, made, self._first_s[gang]

    def _is_decided(self, pod: Object) -> bool:
        gates = {gate["name"] for gate in pod["spec"].get("schedulingGates") or ()}
        return bool(pod["spec"].get("nodeName")) or (planned_node(pod) and GATE not in gates)

    def _room(self) -> dict[str, int]:
        """Return the free GPUs of nodes that take pods; what is pinned to a node is not free."""
        room = {n: has for n, has in self.allocatable.items() if n not in self.closed}
        for pod in self.pods.values():
            node = pod["spec"].get("nodeName") or pinned_to(pod)
            if node in room and not ended(pod):
                room[node] -= gpus_of(pod)
        return room

    def _judge_passing(self) -> None:
        """No gang may wait while what it could use goes to a later or lower one of others."""
        now_s = self.clock()
        news = []
        for gang, uids in self.by_gang.items():
            pods = [self.pods[uid] for uid in uids]
            live = [p for p in pods if not ended(p) and "deletionTimestamp" not in p["metadata"]]
            if live:
                self._first_s.setdefault(gang, now_s)
            decided = any(map(self._is_decided, pods))
            if decided and gang not in self._decided:
                news.append(gang)
            (self._decided.add if decided else self._decided.discard)(gang)
            if not live or decided or len(live) < (self.needed(gang) or math.inf):
                self._waits.pop(gang, None)
            else:
                self._waits.setdefault(gang, now_s)
        for other in news:
            self._note_passed(other, now_s)
        for (gang, other), since_s in list(self._passed.items()):
            if self._waits.get(gang, math.inf) > since_s:
                del self._passed[gang, other]
            elif now_s - since_s > self.limits.passed_s:
                first, second = "/".join(gang), "/".join(other)
                self._wrong(
                    f"{first} waits, though {second}, later or lower, got what it could use"
                )

    def _note_passed(self, other: tuple[str, str], now_s: float) -> None:
        """Note who waited already when a gang got its nodes, and would have fitted there."""
        room = self._room()
        for pod in (self.pods[uid] for uid in self.by_gang[other]):
            node = pod["spec"].get("nodeName") or pinned_to(pod)
            if node in room and not ended(pod):
                room[node] += gpus_of(pod)
        for gang, since_s in self._waits.items():
            if gang[0] == other[0] or now_s - since_s < LATE_S:
                continue
            mine, its = self._place(gang), self._place(other)
            if mine[0] > its[0] or (mine[0] == its[0] and (mine[1] >= its[1] or mine[2] >= its[2])):
                continue
            gpus = max(gpus_of(self.pods[uid]) for uid in self.by_gang[gang])
            if gpus and sum(free // gpus for free in room.values()) >= self.needed(gang):
                self._passed.setdefault((gang, other), now_s)

    def look(self) -> None:
        """Judge what may last only so long."""
        self._judge_binds()
        self._judge_held()
        self._judge_passing()
        for gang in self.sizes:
            size = self.needed(gang)
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
