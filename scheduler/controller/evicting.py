"""Evicts running pods as their disruption budgets allow, so that their jobs resume."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from scheduler.controller.lanes import Lanes
from scheduler.controller.membership import LiveGang
from scheduler.controller.metrics import Metrics
from scheduler.controller.slots import Slot, SlotState
from scheduler.controller.suspending import Job, Suspending
from scheduler.controller.tables import Tables
from scheduler.controller.telling import Telling
from scheduler.kube.api import ApiError
from scheduler.kube.objects import Pod
from scheduler.workloads.gangs import GangKey

log = logging.getLogger("muster.evicting")
#: pods, each with the slot that ends with it, if one does
Pods = list[tuple[Slot | None, Pod]]
CHANGED_S = 2.0  #: a job that changed meanwhile is looked at again then
FORBIDDEN, TOO_MANY = 403, 429  #: the latter is said for a budget, too
COSTS = (
    "its Job would count it as a failure beyond the backoffLimit, and muster may not suspend "
    "that Job"
)
EVICT_AGAIN_S = 10.0  #: an eviction that was refused is tried again then, and ever later


class Evicting:
    """Evicts pods, and reports who forbids it."""

    def __init__(
        self,
        tables: Tables,
        suspending: Suspending,
        lanes: Lanes,
        telling: Telling,
        metrics: Metrics,
        start: Callable[[LiveGang, Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._work = tables.work
        self._ages = tables.ages
        self._failures = tables.failures
        self._suspending = suspending
        self._lanes = lanes
        self._telling = telling
        self._metrics = metrics
        self._start = start  #: a write beside the steps
        self._going: set[str] = set()
        self._asking: set[GangKey] = set()

    def evict_whole(self, gang: LiveGang, pods: Pods) -> None:
        """Evict running pods of a gang, so that their job resumes."""
        may = self._work.active and self._work.now_s() >= gang.refused_until_s
        if not may or gang.key in self._asking:
            self._stay(gang, pods)
            return
        self._asking.add(gang.key)
        self._start(gang, partial(self._evict_whole, gang, pods))

    async def _evict_whole(self, gang: LiveGang, pods: Pods) -> None:
        try:
            job = self._suspending.job_of(gang)
            if job is not None:
                may = await self._suspended(gang, job, pods)
            else:
                may = None if await self._leave_enough(gang, pods) else False
            if may is None:
                may = self._go_on(gang, pods)
            if not may:
                return
            for slot, pod in pods:
                self.evict(gang, pod, slot)
        finally:
            self._asking.discard(gang.key)

    def _go_on(self, gang: LiveGang, pods: Pods) -> bool:
        """False if a Job that is not suspended would count too many of these pods as failed."""
        if self._failures.may_be_evicted(gang, [pod for _, pod in pods]):
            return True
        self._not_evicted(gang, pods[0][1], ApiError(FORBIDDEN, COSTS))
        self._stay(gang, pods)
        return False

    async def _suspended(self, gang: LiveGang, job: Job, pods: Pods) -> bool | None:
        """Suspend a job, if all its pods may go; False if one may not, None if it may not be."""
        asked = (self._lanes.evict(pod, only_ask=True) for _, pod in pods)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for (_, pod), answer in zip(pods, answers, strict=True):
            if isinstance(answer, ApiError):
                self._not_evicted(gang, pod, answer)
                self._stay(gang, pods)
                return False
        # who runs the job ends all its pods without asking for any
        ended = [pod for pod in gang.live_pods() if pod.spec.node_name]
        ended = [pod for pod in ended if pod.metadata.deletion_timestamp is None]
        may_go = await self._may_go(gang, ended) if ended else True
        if not may_go:
            if may_go is False:
                self._stay(gang, pods)
            return may_go  # None: then the API server judges each by itself
        try:
            await self._suspending.suspend(job)
        except ApiError as error:
            log.warning("job not suspended: %s", error, extra={"gang": gang.name})
            if error.code == 409:  # not known as it is now
                gang.evict_at_s = self._work.now_s() + CHANGED_S
                self._work.look_again(gang.key, gang.evict_at_s)
                self._stay(gang, pods)
                return False
            return None  # it is ended all the same: its GPUs do nothing
        return True

    async def _leave_enough(self, gang: LiveGang, pods: Pods) -> bool:
        """False if a budget that knows too little would let too many go."""
        if not self._lanes.budgets.are_taken_from(gang.key.namespace, self._work.now_s()):
            return True
        if await self._may_go(gang, [pod for _, pod in pods]) is not False:
            return True
        self._stay(gang, pods)
        return False

    async def _may_go(self, gang: LiveGang, pods: list[Pod]) -> bool | None:
        """Take pods from their disruption budgets; None: it is not known whether they may go.

        That is so, too, where a budget would not allow even one: then none of them serves.
        """
        uids, now_s = {pod.metadata.uid for pod in pods}, self._work.now_s()
        try:
            budgets = self._lanes.budgets
            tight = await budgets.take(gang.key.namespace, uids, self._going, now_s)
        except ApiError as error:
            if error.code != FORBIDDEN:
                self._not_evicted(gang, pods[0], error)
                return False
            log.warning("job not suspended: %s", error, extra={"gang": gang.name})
            return None
        if tight is not None and tight.allowed:
            self._not_evicted(gang, pods[0], ApiError(TOO_MANY, tight.text))
            return False
        return True if tight is None else None

    def _stay(self, gang: LiveGang, pods: Pods) -> None:
        for slot, _ in pods:
            if slot is not None and slot.state is SlotState.ENDING:
                slot.stays(self._work.now_s())
                self._work.touch(gang.key)
                self._work.wake()

    def evict(self, gang: LiveGang, pod: Pod, slot: Slot | None = None) -> None:
        """Evict a running pod; if that is forbidden, it keeps a slot that ends with it."""
        going = pod.metadata.deletion_timestamp or pod.metadata.uid in self._going
        if self._work.active and not going and self._work.now_s() >= gang.refused_until_s:
            self._going.add(pod.metadata.uid)
            gang.sent_away = True
            self._ages.note(gang)
            self._start(gang, partial(self._evict, gang, pod, slot))

    async def _evict(self, gang: LiveGang, pod: Pod, slot: Slot | None) -> None:
        try:
            await self._lanes.evict(pod)
            if gang.why_evicted:
                self._metrics.aborts.labels(cause="degraded").inc()
                # its last pod may be gone before the answer is here, and it is about that pod then
                whom = gang if gang.pods else replace(gang, pods={pod.metadata.uid: pod})
                self._telling.event(whom, "Evicted", gang.why_evicted)
            gang.why_evicted, gang.num_refused = "", 0
        except ApiError as error:
            about = {"pod": pod.where, "node": pod.spec.node_name}
            log.warning("pod not evicted: %s", error, extra=about)
            self._not_evicted(gang, pod, error)
            self._stay(gang, [(slot, pod)])
        finally:
            self._going.discard(pod.metadata.uid)

    def _not_evicted(self, gang: LiveGang, pod: Pod, error: ApiError) -> None:
        """Say who keeps a pod where it is, and try again later: a budget may allow it then."""
        now_s = self._work.now_s()
        if now_s >= gang.refused_until_s:  # the first of this try
            again_s = min(300.0, EVICT_AGAIN_S * 2 ** min(gang.num_refused, 8))
            if error.is_late:
                again_s = max(EVICT_AGAIN_S, error.retry_after_s)
            else:
                gang.num_refused += 1
            gang.refused_until_s = gang.evict_at_s = now_s + again_s
            self._work.look_again(gang.key, gang.evict_at_s)
        if error.is_late:  # nobody keeps it: a log line says that, and no Event
            return
        kept_by = f"pod {pod.metadata.name} may not be evicted: {error.text[:500]}"
        if not gang.kept_by:
            self._telling.event(gang, "NotEvicted", f"{kept_by}; muster tries again")
        gang.kept_by = kept_by
