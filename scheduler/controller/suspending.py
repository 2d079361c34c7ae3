"""Ending the pods of a job so that the job resumes: it is suspended until they are gone.

A rank that is told to end may exit with 0. Its owner would take that for the end of the work, or
count a pod that was deleted as one that failed. A job that is suspended does neither: it deletes
its pods, and makes them again once it is resumed.
"""

from __future__ import annotations

import logging
from math import inf
from typing import NamedTuple

from scheduler.controller.lanes import Lanes
from scheduler.controller.membership import LiveGang
from scheduler.controller.tables import Tables
from scheduler.kube.api import ApiError
from scheduler.kube.objects import SUSPENDED, Thing
from scheduler.kube.watch import Change
from scheduler.workloads.gangs import KINDS, TRAINING_JOBS, GangKey, Source
from scheduler.workloads.sizes import training_job

log = logging.getLogger("muster.suspending")
LOOK_S = 1.0


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
        spec = self.thing.spec
        if self.kind in TRAINING_JOBS:
            spec = spec.get("runPolicy") or {}
        return bool(spec.get("suspend"))

    def spec(self, *, suspend: bool) -> dict[str, object]:
        """Return what is to be written."""
        wanted = {"suspend": suspend}
        return {"runPolicy": wanted} if self.kind in TRAINING_JOBS else dict(wanted)


class Suspending:
    """Suspends jobs, and resumes those that muster suspended."""

    def __init__(self, tables: Tables, lanes: Lanes) -> None:
        self._tables = tables
        self._work = tables.work
        self._lanes = lanes
        self._suspended: dict[tuple[str, str, str], Job] = {}
        self._gone_s: dict[str, float] = {}  #: by uid: since when no pod of a suspended job is left

    def job_of(self, gang: LiveGang) -> Job | None:
        """Return the job that makes the pods of a gang, if it can be suspended and is its own."""
        find, pods = self._tables.find, gang.live_pods()
        owner = pods[0].metadata.controller() if pods else None
        if owner is None:
            return None
        kind, thing = training_job(pods[0], find)
        if thing is None and gang.key.source is Source.JOB:
            kind, thing = "Job", find("Job", gang.key.namespace, gang.key.name)
            if thing is not None and thing.metadata.controller() is not None:
                return None  # whoever made it says whether it runs
        if thing is None or thing.metadata.uid != owner.uid:
            return None
        job = Job(kind, thing)
        return None if job.is_suspended else job

    async def suspend(self, gang: LiveGang, job: Job) -> None:
        """Have a job make no pods, and judge none, until those that are there are gone.

        Raises:
            ApiError: it may not be, or is another one by now.
        """
        key = gang.key
        said = f"{key.source}/{key.name}"
        await self._lanes.suspend(job.path, job.thing.metadata.uid, said, job.spec(suspend=True))

    def see(self, kind: str, change: Change, thing: Thing) -> None:
        """Take in a job as it is now."""
        where = (kind, thing.metadata.namespace, thing.metadata.name)
        if self._suspended.pop(where, None) is not None:
            self._gone_s.pop(thing.metadata.uid, None)
        if change is not Change.DELETED and SUSPENDED in thing.metadata.annotations:
            self._suspended[where] = Job(kind, thing)
            self._work.wake()

    def go_on(self, now_s: float) -> float:
        """Resume jobs whose pods are gone; return when to look again.

        Not at once: their controller may hear later than muster of the last pod.
        """
        for job in self._suspended.values():
            uid = job.thing.metadata.uid
            if self._pods_are_there(job):
                self._gone_s.pop(uid, None)
            elif now_s - self._gone_s.setdefault(uid, now_s) >= LOOK_S:
                self._gone_s[uid] = now_s  # if nothing comes of it, again after that
                self._work.start(self._resume(job))
        return now_s + LOOK_S if self._suspended else inf

    def _pods_are_there(self, job: Job) -> bool:
        meta = job.thing.metadata
        source, _, name = meta.annotations[SUSPENDED].partition("/")
        gangs = self._tables.gangs
        for owner in (meta.uid, ""):
            gang = gangs.get(GangKey(meta.namespace, name, source, owner))  # type: ignore[arg-type]
            if gang is not None and any(not pod.ended for pod in gang.pods.values()):
                return True
        return False

    async def _resume(self, job: Job) -> None:
        uid = job.thing.metadata.uid
        try:
            await self._lanes.suspend(job.path, uid, None, job.spec(suspend=False))
        except ApiError as error:
            about = {"job": f"{job.thing.metadata.namespace}/{job.thing.metadata.name}"}
            log.warning("job not resumed: %s", error, extra=about)
