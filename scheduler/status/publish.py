"""Events and the condition by which `kubectl describe` shows why a gang waits.

Events go to what the user made: the job, JobSet or PodGroup that owns the pods, at the end of the
chain of owners that muster watches. Their status belongs to their controllers, so the condition
is put on the gang's first pod.

A waiting gang is reported once it has waited for a moment, and again when its reason changes, but
not when only a number changes. Updates are rate-limited for each gang and for all of a namespace: a
thousand gangs behind one blocked head must not load the API server or silence others.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf

import msgspec

from scheduler.controller.membership import LiveGang
from scheduler.controller.rates import Rates
from scheduler.core.decisions import PendingReason
from scheduler.kube.api import Api, ApiError
from scheduler.kube.objects import Owner, unix_s
from scheduler.status.owners import Owners
from scheduler.status.pages import Breath
from scheduler.status.plain import plain
from scheduler.status.status import GangView
from scheduler.status.story import Memory, Moment
from scheduler.workloads.gangs import LWS, Find, GangKey, Source

log = logging.getLogger("muster.publish")
CONDITION = "muster.dev/Admitted"
STRATEGIC = "application/strategic-merge-patch+json"
WITHIN_S = 10.0  #: a message that the API server does not take is dropped
LATE_S = 5.0  #: gangs admitted sooner need no condition
LOOK_S = 1.0  #: reasons that change together are looked at together
REFUSED_S = 60.0  #: where a message was refused nothing is sent for so long: others wait behind it
#: reported changes of reason per namespace; the burst covers a queue that changes at once
PER_MINUTE, BURST = 2.0, 200.0
FIRST_GAP_S, LONGEST_GAP_S = 10.0, 600.0  #: between two changes of one gang; doubles each time
#: where the PodGroup of ownerless pods is found, and its apiVersion
POD_GROUPS = {
    Source.NATIVE: ("native", "scheduling.k8s.io/v1beta1"),
    Source.COSCHEDULING: ("coscheduling", "scheduling.x-k8s.io/v1alpha1"),
    Source.VOLCANO: ("volcano", "scheduling.volcano.sh/v1beta1"),
}
#: of what was done, all is told; any other reason is, in one namespace, so often: at once, and per
#: second. One change by a user may give it to a thousand gangs
DONE = {"Started", "Evicted"}
NAMESPACE_RATE = 50.0, 1.0
#: what an Event's reason is called in a gang's story
WORDS = {"Started": "bound", "Replanned": "given up", "Evicted": "evicted"}

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Told:
    """What was last said of a gang."""

    what: str
    pod: str  #: uid of the pod with the condition
    until_s: float  #: nothing else is said before
    gap_s: float


class Publisher:
    """Writes what people read about gangs. A lost message has no other effect."""

    def __init__(self, api: Api, identity: str) -> None:
        self._api = api
        self._identity = identity
        self._owners = Owners(api)
        self._queue: asyncio.Queue[tuple[str, bytes, str]] = asyncio.Queue(maxsize=5000)
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._turns = Rates(BURST, PER_MINUTE / 60)
        self._rates = Rates(*NAMESPACE_RATE)
        self._refused_until_s: dict[str, float] = {}  #: by namespace
        self._told: dict[str, Told] = {}
        self.find: Find = lambda kind, namespace, name: None
        self.memory = Memory()
        self.on_change: Callable[[GangKey], None] = lambda key: None
        self.active = False

    def wake(self) -> None:
        """Note that reasons may have changed."""
        self._wake.set()

    def changed(self, key: GangKey) -> None:
        """Note that a gang may stand otherwise than it did, or be gone."""
        self.on_change(key)

    def forget(self, gang: LiveGang) -> None:
        """Note that a gang is gone."""
        self.changed(gang.key)
        self._told.pop(gang.name, None)
        self._owners.forget(gang.name)

    def note(self, gang: LiveGang, what: str, text: str) -> None:
        """Add an entry to the gang's history."""
        self.changed(gang.key)
        if self.active:
            self.memory.note(gang.name, what, text)

    def event(self, gang: LiveGang, reason: str, message: str) -> None:
        """Write a Kubernetes Event on the object that the user created, or on the first pod."""
        if not self.active or not gang.pods:
            return
        self.note(gang, WORDS.get(reason, "told"), message)
        where = gang.key.namespace, reason
        if reason not in DONE and not self._rates.allow(where, time.monotonic()):
            return  # the pages say it, and so does the word of why it waits
        self._event(gang, reason, message, "Normal" if reason == "Started" else "Warning")

    def _event(self, gang: LiveGang, reason: str, message: str, kind: str) -> None:
        namespace = gang.key.namespace
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"muster.{os.getpid():x}.{time.time():.6f}.{next(self._numbers)}",
                "namespace": namespace,
            },
            "eventTime": now,
            "reportingController": "muster.dev/scheduler",
            "reportingInstance": self._identity[:128],
            "type": kind,
            "reason": reason,
            "action": reason,
            "note": plain(message, 990),
            "regarding": {**self._regarding(gang), "namespace": namespace},
        }
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        self._put(path, _encode(body), "POST")

    def _regarding(self, gang: LiveGang) -> dict[str, str]:
        """Return the object that a user looks at: the last owner known, a PodGroup, a pod."""
        return self._made(gang)[0]

    def came(self, gang: LiveGang) -> Moment:
        """Return when the object that the user created was created."""
        about, came_s = self._made(gang)
        name = "" if about["kind"] == "Pod" else f" {about['name']}"
        return Moment(came_s, "submitted", f"{about['kind']}{name} was created")

    def _made(self, gang: LiveGang) -> tuple[dict[str, str], float]:
        """Return what the user made, and when, as far as muster watches such objects."""
        pod = min(gang.pods.values(), key=lambda p: p.metadata.name)
        times = [unix_s(p.metadata.creation_timestamp) for p in gang.pods.values()]
        came_s = min(times)
        owner = pod.metadata.controller()
        if owner is None and gang.key.source in POD_GROUPS:
            word, version = POD_GROUPS[gang.key.source]
            group = self.find(word, gang.key.namespace, gang.key.name)
            if group is not None:
                about = _reference("PodGroup", gang.key.name, group.metadata.uid, version)
                return about, unix_s(group.metadata.creation_timestamp) or came_s
        if owner is None:
            return _reference("Pod", pod.metadata.name, pod.metadata.uid, "v1"), came_s
        lws = self.find("LeaderWorkerSet", gang.key.namespace, pod.metadata.labels.get(LWS, ""))
        if lws is not None and gang.key.source is Source.LEADER_WORKER_SET:
            # its pods are of StatefulSets, which muster does not watch
            version = "leaderworkerset.x-k8s.io/v1"
            owner = Owner("LeaderWorkerSet", lws.metadata.name, lws.metadata.uid, version)
        for _ in range(4):  # a pod of a Job of a JobSet of a TrainJob
            thing = self.find(owner.kind, gang.key.namespace, owner.name)
            if thing is None or thing.metadata.uid != owner.uid:
                break
            came_s = unix_s(thing.metadata.creation_timestamp) or came_s
            above = thing.metadata.controller()
            if above is None:
                break
            owner = above
        return _reference(owner.kind, owner.name, owner.uid, owner.api_version), came_s

    def _put(self, path: str, body: bytes, method: str) -> None:
        try:
            self._queue.put_nowait((path, body, method))
        except asyncio.QueueFull:
            log.warning("messages dropped: the API server accepts them too slowly")

    async def send(self) -> None:
        """Send queued messages, without end."""
        while True:
            path, body, method = await self._queue.get()
            namespace, now_s = path.split("/namespaces/")[1].split("/")[0], time.monotonic()
            if now_s < self._refused_until_s.get(namespace, -inf):
                continue
            content_type = STRATEGIC if method == "PATCH" else "application/json"
            try:
                await self._api.persist(
                    method, path, body, content_type=content_type, within_s=WITHIN_S
                )
            except ApiError as error:
                log.info("message not accepted: %s", error)
                if error.code == 403:  # a quota, or a policy
                    until_s = self._refused_until_s
                    for other in [one for one, end_s in until_s.items() if end_s <= now_s]:
                        del until_s[other]
                    until_s[namespace] = time.monotonic() + REFUSED_S

    async def watch_reasons(
        self, gangs: Callable[[], list[LiveGang]], view: Callable[[LiveGang], GangView]
    ) -> None:
        """Report gangs whose reason changed, without end."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await asyncio.sleep(LOOK_S)
            self._wake.clear()
            if not self.active:
                continue
            wait_s = await self.look(gangs(), view, loop.time())
            if wait_s < inf:
                loop.call_later(wait_s, self._wake.set)

    async def look(
        self, gangs: Iterable[LiveGang], view: Callable[[LiveGang], GangView], now_s: float
    ) -> float:
        """Send what may be sent now; return in how many seconds more may be, inf if all was."""
        wait_s = inf
        self._owners.begin()
        breath = Breath()
        for gang in gangs:
            await breath()
            try:
                wait_s = min(wait_s, await self._look_at(gang, view, now_s))
            except Exception:  # one gang must not end the word to all others
                log.exception("cannot report on a gang", extra={"gang": gang.name})
        return wait_s

    async def _look_at(
        self, gang: LiveGang, view: Callable[[LiveGang], GangView], now_s: float
    ) -> float:
        """Tell of one gang what may be told; return in how many seconds more may be."""
        pods = gang.live_pods()
        if not pods:
            return inf
        wait_s = inf
        seen = view(gang)
        if _lacks_pods(seen):
            wait_s = await self._owners.ask(gang, now_s) - now_s
            seen = view(gang)
        else:
            gang.owner_says = ""
        return min(wait_s, self._consider(gang, seen, pods[0].metadata.uid, now_s))

    def _consider(self, gang: LiveGang, seen: GangView, pod: str, now_s: float) -> float:
        """Tell of one gang if it is time; return in how many seconds it will be, if not."""
        if seen.phase == "ending":
            return inf  # nobody waits for it any more
        admitted = seen.phase in ("starting", "running")
        short = seen.short.resource if seen.short else ""
        reason = "SetAside" if seen.aside else _camel(seen.reason)
        why = gang.problem or gang.owner_says
        what = "admitted" if admitted else f"{seen.phase} {reason} {short} {why}"
        told = self._told.get(gang.name)
        if told is None:
            if admitted:
                return inf
            if seen.waited_s < LATE_S:
                return LATE_S - seen.waited_s
            told = self._told[gang.name] = Told("", "", 0.0, FIRST_GAP_S)
        elif (told.what, told.pod) == (what, pod):
            return inf
        else:
            if told.until_s > now_s:
                return told.until_s - now_s
            if not self._turns.allow(gang.key.namespace, now_s):
                return 60 / PER_MINUTE
            told.gap_s = min(2 * told.gap_s, LONGEST_GAP_S)
        told.until_s = now_s + told.gap_s
        self._condition(gang, seen, admitted)
        if told.what != what and not admitted:
            never = seen.reason == PendingReason.NEVER_FITS
            bad = why or never or seen.aside or seen.pods_bound
            self._event(gang, reason, seen.text, "Warning" if bad else "Normal")
            self.note(gang, "degraded" if seen.phase == "degraded" else "waits", seen.text)
        told.what, told.pod = what, pod
        return inf

    def _condition(self, gang: LiveGang, seen: GangView, admitted: bool) -> None:
        """Put one condition on the gang's first pod."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        condition = {
            "type": CONDITION,
            "status": "True" if admitted else "False",
            "reason": "Admitted" if admitted else _camel(seen.reason),
            "message": plain(f"gang {gang.name} {seen.text}", 990),
            "lastTransitionTime": now,
        }
        meta = gang.live_pods()[0].metadata
        path = f"/api/v1/namespaces/{meta.namespace}/pods/{meta.name}/status"
        body = {"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}}
        self._put(path, _encode(body), "PATCH")


def _lacks_pods(seen: GangView) -> bool:
    """True of a gang that waits for pods to be made."""
    late = seen.waited_s >= LATE_S and seen.reason == PendingReason.MEMBERS
    return late and seen.pods_present < seen.pods_needed


def _reference(kind: str, name: str, uid: str, version: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "uid": uid, "apiVersion": version}


def _camel(reason: str) -> str:
    return (reason or "waiting").title().replace("_", "")
