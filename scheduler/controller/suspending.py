"""Suspends a job while its pods are evicted, so that it resumes once they are gone.

A rank that is asked to stop may exit with 0. Its owner would take that for the end of the work, or
count a deleted pod as a failed one. A suspended job does neither: it deletes its pods, and
recreates them once it is resumed.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from scheduler.controller.lanes import Lanes
from scheduler.controller.membership import LiveGang
from scheduler.controller.tables import Tables
from scheduler.kube.api import ApiError
from scheduler.kube.objects import SUSPENDED, Pod, Thing, node_ready, unix_s
from scheduler.kube.watch import Change
from scheduler.workloads.gangs import KINDS, KUEUE_QUEUE, SYSTEM, TRAINING_JOBS, Source
from scheduler.workloads.sizes import training_job

log = logging.getLogger("muster.suspending")
LOOK_S, LONGEST_S = 1.0, 300.0  #: a resume that was refused is tried again then, and ever later
OVERDUE_S = 300.0  #: a pod that is overdue for this long may stay for good
MOST_WRITING = 50  #: resumes under way: whoever owns a job may write such a note
TURN_S = 0.01  #: of a step, for all jobs together
OWN_RUNNER = "kubernetes.io/job-controller"
#: kind, namespace and name of a job
Where = tuple[str, str, str]


class Job(NamedTuple):
    """A job that can be suspended."""

    kind: str
    thing: Thing

    @property
    def path(self) -> str:
        """Its address."""
        root, _, plural = KINDS[self.kind].path.rpartition("/")
        meta = self.thing.metadata
        return f"{root}/namespaces/{meta.namespace}/{plural}/{meta.name}"

    @property
    def is_suspended(self) -> bool:
        """True while nobody wants it to run."""
        return bool(self._policy.get("suspend"))

    @property
    def is_run_by_others(self) -> bool:
        """True if something else decides when it runs, such as Kueue: two would undo each other."""
        meta, runner = self.thing.metadata, self._policy.get("managedBy") or OWN_RUNNER
        maker = meta.controller()  # says whether it runs; a CronJob says it once
        made = maker is not None and maker.kind != "CronJob"
        return (self.kind == "Job" and (runner != OWN_RUNNER or made)) or KUEUE_QUEUE in meta.labels

    @property
    def is_noted(self) -> bool:
        """True if muster suspended it and may resume it.

        The annotation on a copy names another uid; users who may change a job may forge one.
        """
        meta = self.thing.metadata
        said = meta.annotations.get(SUSPENDED)
        if said is None or not (self.kind == "Job" or self.kind in TRAINING_JOBS):
            return False
        if meta.namespace == SYSTEM or self.is_run_by_others:
            return False
        earlier = (f"{of}/{meta.name}" for of in (Source.JOB, Source.KUBEFLOW))
        return said == meta.uid or said in earlier

    @property
    def _policy(self) -> dict[str, object]:
        spec = self.thing.spec
        policy = spec.get("runPolicy") if self.kind in TRAINING_JOBS else spec
        return policy if isinstance(policy, dict) else {}

    def spec(self, *, suspend: bool) -> dict[str, object]:
        """Return the part of the spec to write."""
        wanted = {"suspend": suspend}
        return {"runPolicy": wanted} if self.kind in TRAINING_JOBS else dict(wanted)


@dataclass(slots=True)
class _Noted:
    """A job with a note of muster's."""

    job: Job | None  #: none: the note is gone
    since_s: float
    lost_s: float  #: when muster last heard of the end of a pod
    num_tries: int = 0
    is_writing: bool = False
    due_s: dict[str, float] = field(default_factory=dict)  #: by uid: when pods are gone


class Suspending:
    """Suspends jobs, and resumes those that muster suspended."""

    def __init__(self, tables: Tables, lanes: Lanes) -> None:
        self._tables = tables
        self._work = tables.work
        self._lanes = lanes
        self._noted: dict[Where, _Noted] = {}  #: jobs with a note of muster's
        self._new: dict[Where, None] = {}  #: of them, those that are not in the heap yet
        self._due: list[tuple[float, Where]] = []  #: a heap: when each of them is looked at
        self._num_writing = 0

    def job_of(self, gang: LiveGang) -> Job | None:
        """Return the job that creates the pods of a gang, if muster may suspend it."""
        find, pods = self._tables.find, gang.live_pods()
        owner = pods[0].metadata.controller() if pods else None
        if owner is None:
            return None
        kind, thing = training_job(pods[0], find)
        if thing is None and gang.key.source is Source.JOB:
            kind, thing = "Job", find("Job", gang.key.namespace, gang.key.name)
        if thing is None or thing.metadata.uid != owner.uid:
            return None
        job = Job(kind, thing)
        return None if job.is_suspended or job.is_run_by_others else job

    async def suspend(self, job: Job) -> None:
        """Suspend a job, so that it creates and judges no pods until the present ones are gone.

        Raises:
            ApiError: it may not be suspended; 409 if it has changed, perhaps because
                somebody suspended it.
        """
        meta, spec = job.thing.metadata, job.spec(suspend=True)
        await self._lanes.suspend(job.path, meta, meta.uid, spec, self._must_not)

    def see(self, kind: str, change: Change, thing: Thing) -> None:
        """Process a job's present state."""
        job, meta = Job(kind, thing), thing.metadata
        where = (kind, meta.namespace, meta.name)
        known = self._noted.get(where)
        if change is Change.DELETED or not job.is_noted:
            if where in self._new:
                del self._new[where], self._noted[where]
            elif known is not None:
                known.job = None  # forgotten when it is due, with how often it was tried
            return
        now_s = self._work.now_s()
        if known is None:
            self._noted[where] = _Noted(job, now_s, now_s)
            self._new[where] = None
            self._work.wake()
            return
        if known.job is None:
            known.since_s = known.lost_s = now_s
        known.job = job

    def lost(self, pod: Pod) -> None:
        """Note that a pod has ended or is gone."""
        owner = pod.metadata.controller() if self._noted else None
        if owner is not None:
            noted = self._noted.get((owner.kind, pod.metadata.namespace, owner.name))
            if noted is not None:
                noted.lost_s = self._work.now_s()

    def go_on(self, now_s: float) -> float:
        """Resume jobs whose pods are gone; return when to look again.

        Not at once: their controller may see the end of the last pod later than muster.
        """
        due, until_s = self._due, time.perf_counter() + TURN_S
        for where in self._new:
            heappush(due, (now_s, where))
        self._new.clear()
        while due and due[0][0] <= now_s and time.perf_counter() < until_s:
            _, where = heappop(due)
            noted = self._noted[where]
            if noted.job is None:
                del self._noted[where]
            else:
                heappush(due, (now_s + self._look(noted, noted.job, now_s), where))
        if due and due[0][0] <= now_s:
            self._work.wake()
        return due[0][0] if due else inf

    def _look(self, noted: _Noted, job: Job, now_s: float) -> float:
        """Resume a job if it is time; return how many seconds later to look again."""
        if noted.is_writing or self._num_writing >= MOST_WRITING:
            return LOOK_S
        if job.is_suspended:  # else somebody has resumed it: who suspends it later is not muster
            if self._pods_are_there(job, noted, now_s):
                return LOOK_S
            if (left_s := noted.lost_s + LOOK_S - now_s) > 0:
                return left_s
        noted.is_writing = True
        self._num_writing += 1
        self._work.start(self._resume(noted, job))
        noted.num_tries += 1
        return min(LONGEST_S, LOOK_S * 2.0 ** min(noted.num_tries, 10))

    def _pods_are_there(self, job: Job, noted: _Noted, now_s: float) -> bool:
        """True while a pod of a job may yet end, or say how it did.

        One that is long overdue may stay for ever, as somebody keeps it; one that is due stays
        until its node is back, if that is lost.
        """
        meta, found = job.thing.metadata, False
        for gang in self._tables.about(meta.namespace, meta.name):
            for pod in gang.pods.values():
                owner, told = pod.metadata.controller(), pod.metadata.deletion_timestamp
                if owner is None or owner.uid != meta.uid:
                    continue
                if pod.ended and told is None:
                    continue  # batch keeps it; of one that goes it is still read how it ended
                due_s = noted.due_s.get(pod.metadata.uid, inf)
                if told is not None and due_s == inf:
                    grace_s = pod.metadata.deletion_grace_period_seconds
                    due_s = max(noted.since_s, unix_s(told) - self._work.zero_unix_s)
                    # the API server's clock may be ahead
                    due_s = min(due_s, now_s + (inf if grace_s is None else grace_s))
                    noted.due_s[pod.metadata.uid] = due_s
                node = self._tables.ledger.nodes.get(pod.spec.node_name)
                wait_s = OVERDUE_S if node is not None and node_ready(node) else 0.0
                found = found or told is None or now_s < due_s + wait_s
        return found

    async def _resume(self, noted: _Noted, job: Job) -> None:
        """Resume a job, or only take the note off one that runs."""
        meta = job.thing.metadata
        try:
            spec = job.spec(suspend=False)
            await self._lanes.suspend(job.path, meta, None, spec, self._must_not)
        except ApiError as error:
            about = {"job": f"{meta.namespace}/{meta.name}"}
            log.warning("job not resumed: %s", error, extra=about)
        finally:
            noted.is_writing = False
            self._num_writing -= 1

    def _must_not(self) -> str:
        return "" if self._work.active else "this replica no longer leads"
