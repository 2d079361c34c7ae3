"""A live journal as the tables of a run: reports show a live cluster as they show a simulated one.

Each gang that the live core decided on is a job, at the largest size that it had; in journals of
earlier versions what a running one missed is another, `NAME+1`. The journal does not have
binding and starting, because the core takes no part in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scheduler.core.decisions import PendingReason, Wait
from scheduler.core.events import (
    Admitted,
    ForeignPodBound,
    ForeignPodGone,
    GangResized,
    GangSubmitted,
    NodeAdded,
    NodeCordoned,
    NodeLost,
    NodeReturned,
)
from scheduler.core.model import FamilyKey, Gang, Node, Phase
from scheduler.core.queueing import GangState
from scheduler.core.sentences import UNMATCHED, never
from scheduler.core.shortage import unmet
from scheduler.core.times import FOREVER_US, to_s
from scheduler.journal.history import Aside, Begin, Entry, Follower, read
from scheduler.journal.lines import Gap
from scheduler.policies.spec import PolicySpec
from sim.engines.accounting import check_accounting
from sim.engines.records import CapacitySteps
from sim.engines.waits import CODE, Demand, QueueLedger, StepLog, Stints, by_reason, by_resource
from sim.runs.folder import RunResult, versions
from sim.runs.metrics import Window
from sim.runs.summary import summarize
from sim.schema.cluster import GIB, Cluster, Pool
from sim.schema.config import ControlPlane, RunConfig
from sim.schema.tables import REASONS, RESOURCES

Floats = NDArray[np.float64]
#: a node's GPUs held by gangs, and those that a gang could have
Share = tuple[int, int]
MOST_NAMED = 20  #: lines set aside that a run names
CREATION_STEP_S = 1.0  #: Kubernetes notes creation in whole seconds, rounded down


@dataclass(slots=True)
class Attempt:
    """One stay on nodes."""

    created_s: float
    admitted_s: float
    num_nodes: int
    end_s: float = inf
    held_gpu_s: float = 0.0


@dataclass(slots=True)
class _Stand:
    """What a job holds, and what it waits for, since `since_s`."""

    held_gpus: int
    holds: bool
    phase: Phase  #: of what waits; running: nothing does
    pods: int  #: that exist and wait
    gpus: int  #: that they ask for
    demand: Demand | None  #: if it is queued
    since_s: float = 0.0

    def same(self, other: _Stand) -> bool:
        """True if nothing changed."""
        return replace(other, since_s=self.since_s) == self


@dataclass(slots=True)
class Job:
    """A request, from its first line to its last."""

    name: str
    gang: Gang
    submit_s: float
    epoch: int  #: which of the recorder's epochs its selectors are of
    stand: _Stand | None = None
    created_s: float = 0.0  #: it waits since then
    attempts: list[Attempt] = field(default_factory=list)
    end_s: float = inf
    complete_s: float = inf  #: all its pods exist
    last: Phase = Phase.GATHERING
    unmet: str = ""  #: which request no node offered, if it could never fit


class Recorder:
    """Follows a journal and notes who waited for what, who held what, and since when."""

    def __init__(self) -> None:
        self.follower = Follower()
        self.log = StepLog()
        self.ledger = QueueLedger()
        self.jobs: list[Job] = []
        self.policy = PolicySpec()
        self.end_s = 0.0
        self.before_s = 0.0  #: the instant before that
        self.num_lines = 0
        self.line_s = 0.0  #: `end_s` by the clock of the process that wrote it
        self.nodes: dict[str, Node] = {}  #: every node met, at its largest
        self.shares: dict[str, list[tuple[float, int, int]]] = {}  #: changes, by node
        self.open: dict[str, int] = {}  #: job under way, by name
        self.epochs: list[dict[str, str]] = []  #: class of each node, while classes had these names
        self.zero_unix_s: float | None = None
        self.gaps: list[tuple[Gap, float, float]] = []  #: what is not told, from when to when
        self.aside: list[str] = []  #: lines that were left out, and why
        #: whether each node takes pods, from when on; None while it is not there
        self.doors: dict[str, list[tuple[float, bool | None]]] = {}
        self._touched: dict[str, None] = {}
        self._touched_nodes: dict[str, None] = {}
        self._foreign: dict[str, int] = {}  #: GPUs of pods of no gang, by node
        self._offset_s = 0.0
        self._told_s: dict[FamilyKey, float] = {}  #: first outlook of each family
        self._rows: dict[tuple[int, Demand], int] = {}
        self._stints: tuple[list[int], list[float], list[float]] = ([], [], [])
        self._aside: list[tuple[int, PendingReason, float]] = []  #: job, reason, pod-seconds

    # -- lines -------------------------------------------------------------------------------

    def take(self, entry: Entry) -> None:
        """Process the next entry; entries of one instant count together."""
        if entry.now_s > self.end_s:
            self.settle()
            self.before_s = self.end_s
            self.end_s = entry.now_s
        self.num_lines += 1
        if isinstance(entry.item, Aside):
            self.aside.append(f"{entry.place}: {entry.item.why}")
            return
        self._note_before(entry)
        try:
            self.follower.follow(entry)
        except ValueError as error:  # a line before it is missing, or was set aside
            self.aside.append(str(error))
            return
        self._note_after(entry)
        self.line_s = self.end_s - self._offset_s

    def close(self) -> None:
        """Finish the last instant."""
        self.settle()
        for name in list(self.open):
            job = self.jobs[self.open[name]]
            self._leave(self.open[name], job)

    def _note_before(self, entry: Entry) -> None:
        state = self.follower.state
        item = entry.item
        if isinstance(item, Begin):
            self._touched.update(dict.fromkeys(self.open))
            self._touched_nodes.update(dict.fromkeys(state.capacity.index_of))
        gang = getattr(item, "gang", None)
        if isinstance(gang, str):
            self._touched[gang] = None
            self._touch_held(gang)
        if isinstance(item, ForeignPodGone) and item.pod in state.foreign:
            at, shape = state.foreign[item.pod]
            name = state.capacity.nodes[at].name
            self._foreign[name] -= shape.gpus
            self._touched_nodes[name] = None

    def _note_after(self, entry: Entry) -> None:
        item = entry.item
        match item:
            case Begin():
                self.policy = item.policy
                self.zero_unix_s = item.zero_unix_s
                self.epochs.append({})
                if self.gaps and self.gaps[-1][2] == inf:
                    gap, from_s, _ = self.gaps[-1]
                    self.gaps[-1] = (gap, from_s, entry.now_s)
                self._offset_s = item.offset_s
                self._foreign.clear()
                for node in item.nodes:
                    self._meet(node)
                if self.epochs[-1] in self.epochs[-2:-1]:
                    self.epochs.pop()
            case GangSubmitted():
                self._submitted(item.gang, entry.now_s)
            case GangResized():
                self._resized(self.follower.state.gangs[item.gang].gang)
            case Admitted():
                self._touch_held(item.gang)
            case Wait():
                self.ledger.note(item, entry.now_s)
                self._told_s.setdefault(item.family, entry.now_s)
            case ForeignPodBound():
                self._foreign[item.node] = self._foreign.get(item.node, 0) + item.shape.gpus
                self._touched_nodes[item.node] = None
            case Gap():
                self.gaps.append((item, self.before_s, inf))
            case NodeAdded():
                self._meet(item.node)
            case NodeCordoned() | NodeReturned() | NodeLost():
                self._touched_nodes[item.node] = None
            case _:
                pass

    def _touch_held(self, gang: str) -> None:
        state = self.follower.state
        member = state.gangs.get(gang)
        for _, lo, hi, _ in member.held if member is not None else ():
            for node in state.capacity.nodes[lo:hi]:
                self._touched_nodes[node.name] = None

    def _meet(self, node: Node) -> None:
        known = self.nodes.get(node.name)
        if known is None or node.capacity.gpus >= known.capacity.gpus:
            self.nodes[node.name] = node
        self._touched_nodes[node.name] = None
        self.epochs[-1][node.name] = node.pool

    def _submitted(self, gang: Gang, now_s: float) -> None:
        self._touched[gang.name] = None
        at = self.open.get(gang.name)
        if at is None:
            created_s = to_s(gang.submit_us) + self._offset_s
            submit_s = max(created_s, min(now_s, created_s + CREATION_STEP_S))
            self.open[gang.name] = len(self.jobs)
            self.jobs.append(Job(gang.name, gang, submit_s, len(self.epochs) - 1))
        else:
            self._resized(gang)

    def _resized(self, gang: Gang) -> None:
        """Note a gang's size: the last before it starts, and the largest from then on."""
        job = self.jobs[self.open[gang.name]]
        if not job.attempts or gang.num_pods > job.gang.num_pods:
            job.gang, job.epoch = gang, len(self.epochs) - 1

    # -- instants ----------------------------------------------------------------------------

    def settle(self) -> None:
        """Note what the instant that ends now changed."""
        now_s = self.end_s
        state = self.follower.state
        for name in self._touched:
            at = self.open.get(name)
            if at is None:
                continue
            job = self.jobs[at]
            member = state.gangs.get(name)
            stand = None if member is None else _stand(member)
            if stand is None:
                self._leave(at, job)
                job.end_s = now_s
                del self.open[name]
            elif job.stand is None or not stand.same(job.stand):
                self._change(at, job, stand, member)
        self._touched.clear()
        for name in self._touched_nodes:
            share = self._share(name)
            told = self.shares.setdefault(name, [])
            if not told or told[-1][1:] != share:
                told.append((now_s, *share))
            doors, is_open = self.doors.setdefault(name, []), self._is_open(name)
            if not doors or doors[-1][1] is not is_open:
                doors.append((now_s, is_open))
        self._touched_nodes.clear()

    def _is_open(self, name: str) -> bool | None:
        capacity = self.follower.state.capacity
        at = capacity.index_of.get(name)
        return None if at is None else at not in capacity.unschedulable

    def _share(self, name: str) -> Share:
        capacity = self.follower.state.capacity
        at = capacity.index_of.get(name)
        if at is None:
            return 0, 0
        free = capacity.free_on(at).gpus
        held = capacity.nodes[at].capacity.gpus - free - self._foreign.get(name, 0)
        return held, 0 if at in capacity.unschedulable else free

    def _change(self, at: int, job: Job, stand: _Stand, member: GangState | None) -> None:
        now_s = self.end_s
        was_held = job.stand is not None and job.stand.holds
        self._end_stand(at, job, now_s)
        if stand.holds and not was_held:
            assert member is not None
            created_s = job.created_s if job.stand is not None else now_s
            num_nodes = len({i for p in member.held for i in range(p.lo, p.hi)})
            job.attempts.append(Attempt(created_s, now_s, num_nodes))
        elif not stand.holds and (was_held or job.stand is None):
            if was_held:
                job.attempts[-1].end_s = now_s
            job.created_s = now_s
        stand.since_s = now_s
        job.stand = stand
        phase = Phase.RUNNING if stand.holds else stand.phase
        # pods that go one by one, with their job, do not make it fit
        if job.last is not Phase.IMPOSSIBLE or phase is not Phase.GATHERING:
            job.last = phase
        if phase is Phase.IMPOSSIBLE and member is not None:
            found = unmet(self.follower.state.capacity, member.missing)
            # a journal calls classes of nodes by numbers, which tell people nothing
            job.unmet = never(found, lambda _: "", UNMATCHED) if found is not None else ""
        if phase is not Phase.GATHERING:
            job.complete_s = min(job.complete_s, now_s)

    def _leave(self, at: int, job: Job) -> None:
        """Close the account of a job that is gone, or still there at the end."""
        now_s = self.end_s
        self._end_stand(at, job, now_s)
        if job.stand is not None and job.stand.holds:
            job.attempts[-1].end_s = now_s
        job.stand = None

    def _end_stand(self, at: int, job: Job, now_s: float) -> None:
        """Note what the job waited for, or held, until now."""
        stand = job.stand
        if stand is None or now_s <= stand.since_s:
            return
        if stand.holds:
            job.attempts[-1].held_gpu_s += stand.held_gpus * (now_s - stand.since_s)
        match stand.phase:
            case Phase.GATHERING:
                self._waited(at, stand, PendingReason.MEMBERS, stand.since_s, now_s)
            case Phase.IMPOSSIBLE:
                self._waited(at, stand, PendingReason.NEVER_FITS, stand.since_s, now_s)
            case Phase.ASIDE:
                self._waited(at, stand, PendingReason.CAPACITY, stand.since_s, now_s)
            case Phase.WAITING:
                assert stand.demand is not None, "what waits is queued"
                told_s = self._told_s.get(stand.demand.family, inf)
                if told_s > stand.since_s:  # the core has not said anything of it yet
                    until_s = min(told_s, now_s)
                    reason = PendingReason.CONTROL_PLANE
                    self._waited(at, stand, reason, stand.since_s, until_s)
                if told_s < now_s:
                    row = self._rows.setdefault((at, stand.demand), len(self._rows))
                    values = (row, max(stand.since_s, told_s), now_s)
                    for column, value in zip(self._stints, values, strict=True):
                        column.append(value)  # type: ignore[attr-defined]

    def _waited(
        self, at: int, stand: _Stand, reason: PendingReason, from_s: float, to_s: float
    ) -> None:
        self.log.add(from_s, CODE[reason], stand.pods, stand.gpus)
        self.log.add(to_s, CODE[reason], -stand.pods, -stand.gpus)
        self._aside.append((at, reason, stand.pods * (to_s - from_s)))

    # -- tables ------------------------------------------------------------------------------

    def pending_pod_s(self) -> dict[int, Floats]:
        """Return pod-seconds pending, by `coded` reason and job; completes the log, so ask once."""
        found: dict[int, Floats] = {}
        for at, reason, pod_s in self._aside:
            found.setdefault(CODE[reason], np.zeros(len(self.jobs)))[at] += pod_s
        if not self._rows:
            return found
        demands = list(dict.fromkeys(demand for _, demand in self._rows))
        number = {demand: index for index, demand in enumerate(demands)}
        row, from_s, to_s = self._stints
        queued = self.ledger.settle(
            Stints(np.array(row, np.int64), np.array(from_s), np.array(to_s)),
            np.array([number[demand] for _, demand in self._rows], np.int64),
            demands,
            self.log,
            len(self._rows),
        )
        job_of_row = np.array([at for at, _ in self._rows], np.int64)
        for code, waited in queued.items():
            np.add.at(found.setdefault(code, np.zeros(len(self.jobs))), job_of_row, waited)
        return found

    def names(self) -> list[str]:
        """Return a name for each job; one that comes again under its name says which run it is.

        It was evicted whole, or submitted again: to the core one gang ended and another arrived.
        """
        times: dict[str, int] = {}
        names = []
        for job in self.jobs:
            count = times[job.name] = times.get(job.name, 0) + 1
            names.append(job.name if count == 1 else f"{job.name} (run {count})")
        return names

    def jobs_table(self, pending_pod_s: Floats, short_pod_s: Floats) -> pd.DataFrame:
        """Return jobs.parquet."""
        rows = []
        for job, name in zip(self.jobs, self.names(), strict=True):
            gang = job.gang
            run_s = sum(one.end_s - one.admitted_s for one in job.attempts)
            rows.append(
                {
                    "job": name,
                    "user": "",
                    "queue": gang.queue,
                    "priority": gang.priority,
                    "submit_s": job.submit_s,
                    "start_s": max(job.attempts[0].admitted_s, job.submit_s)
                    if job.attempts
                    else np.nan,
                    "end_s": job.end_s if job.end_s < inf else np.nan,
                    "duration_s": run_s,
                    "walltime_s": to_s(gang.walltime_us)
                    if gang.walltime_us < FOREVER_US
                    else run_s,
                    "num_pods": gang.num_pods,
                    "gpus_per_pod": max(role.pod.gpus for role in gang.roles),
                    "gpus": gang.gpus,
                    "cpu_per_pod": max(role.pod.cpu_milli for role in gang.roles) / 1000,
                    "mem_gib_per_pod": max(role.pod.mem_bytes for role in gang.roles) / GIB,
                    "attempts": len(job.attempts),
                    "outcome": _outcome(job),
                    "held_gpu_s": sum(one.held_gpu_s for one in job.attempts),
                    "lost_gpu_s": 0.0,
                }
            )
        table = pd.DataFrame(rows)
        mean_s = pending_pod_s / table["num_pods"].to_numpy(np.float64)[:, None]
        for code, reason in enumerate(REASONS):
            table[f"pending_{reason}_s"] = mean_s[:, code]
        mean_s = short_pod_s / table["num_pods"].to_numpy(np.float64)[:, None]
        for code, resource in enumerate(RESOURCES):
            table[f"short_{resource}_s"] = mean_s[:, code]
        table["unmet"] = [job.unmet if _outcome(job) == "never_fits" else "" for job in self.jobs]
        return table

    def attempts_table(self) -> pd.DataFrame:
        """Return attempts.parquet."""
        rows = [
            {
                "job": name,
                "attempt": number,
                "created_s": one.created_s,
                "admitted_s": one.admitted_s,
                "bound_s": one.admitted_s,
                "start_s": one.admitted_s,
                "end_s": np.nan if is_open else one.end_s,
                "outcome": "unfinished" if is_open else "completed",
                "evicted_for": "",
                "num_nodes": one.num_nodes,
                "held_gpu_s": one.held_gpu_s,
                "lost_gpu_s": 0.0,
            }
            for job, name in zip(self.jobs, self.names(), strict=True)
            for number, one in enumerate(job.attempts, 1)
            for is_open in (job.end_s == inf and number == len(job.attempts),)
        ]
        columns = ["job", "attempt", "created_s", "admitted_s", "bound_s", "start_s", "end_s"]
        columns += ["outcome", "evicted_for", "num_nodes", "held_gpu_s", "lost_gpu_s"]
        return pd.DataFrame(rows, columns=columns)

    def capacity_tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return allocation.parquet and nodes.parquet.

        GPUs are unavailable while their node is away or takes no pods, and while pods of no gang
        hold them.
        """
        steps = CapacitySteps()
        rows = []
        for name, node in self.nodes.items():
            gpus = node.capacity.gpus
            told = self.shares.get(name, [])
            time_s = np.array([0.0, *(one[0] for one in told)])
            held = np.array([0, *(one[1] for one in told)], np.int64)
            away = gpus - held - np.array([0, *(one[2] for one in told)], np.int64)
            change = np.diff(held, prepend=0)
            steps.add(time_s, change, change, np.diff(away, prepend=0))
            width_s = np.diff(time_s, append=self.end_s)
            rows.append((name, node.pool, node.gpu_model, gpus, held @ width_s, away @ width_s))
        columns = ["node", "pool", "gpu_model", "gpus", "allocated_gpu_s", "unavailable_gpu_s"]
        return steps.table(), pd.DataFrame(rows, columns=columns)


def cluster_of(nodes: Iterable[Node]) -> Cluster:
    """Return nodes as pools, by their GPUs."""
    count: dict[tuple[int, str], int] = {}
    for node in nodes:
        kind = (node.capacity.gpus, node.gpu_model)
        count[kind] = count.get(kind, 0) + 1
    return Cluster(
        tuple(
            Pool(f"{gpus}-gpus{'-' if model else ''}{model}", num, gpus, model)
            for (gpus, model), num in count.items()
        )
    )


def _stand(member: GangState) -> _Stand:
    roles = member.gang.roles
    held_gpus = sum(piece.num_pods * roles[piece.role].pod.gpus for piece in member.held)
    lacks = sum(role.count for role in member.missing)
    gpus = sum(role.gpus for role in member.missing)
    holds = bool(member.held)
    if not lacks:
        return _Stand(held_gpus, holds, Phase.RUNNING, 0, 0, None)
    if member.phase in (Phase.GATHERING, Phase.IMPOSSIBLE, Phase.ASIDE):
        pods = min(max(0, member.present - (member.gang.num_pods - lacks)), lacks)
        return _Stand(held_gpus, holds, member.phase, pods, gpus * pods // lacks, None)
    demand = Demand(member.family.key, member.size, lacks, gpus)
    return _Stand(held_gpus, holds, Phase.WAITING, lacks, gpus, demand)


def _outcome(job: Job) -> str:
    if job.last is Phase.IMPOSSIBLE:
        return "never_fits"
    if job.end_s == inf:
        return "unfinished"
    return "completed" if job.attempts else "cancelled"


def recorded(paths: Sequence[Path], label: str = "live") -> RunResult:
    """Return a live journal, its files in order, as a run.

    Raises:
        ValueError: the files are not a journal, or have no gang.
    """
    recorder = Recorder()
    for entry in read(paths):
        recorder.take(entry)
    recorder.close()
    if not recorder.jobs and recorder.aside:
        raise ValueError(recorder.aside[0])
    if not recorder.jobs:
        names = ", ".join(str(path) for path in paths)
        many = "1 line" if recorder.num_lines == 1 else f"{recorder.num_lines} lines"
        raise ValueError(f"{names}: no gang in {many}; nothing to report")
    end_s = recorder.end_s
    if not end_s > 0:
        raise ValueError(f"{paths[0]}: all lines have the same time; nothing to report")
    waited_pod_s = recorder.pending_pod_s()
    pending_pod_s = by_reason(waited_pod_s, len(recorder.jobs))
    jobs = recorder.jobs_table(pending_pod_s, by_resource(waited_pod_s, len(recorder.jobs)))
    attempts = recorder.attempts_table()
    pending = recorder.log.table()
    allocation, nodes = recorder.capacity_tables()
    cluster = cluster_of(recorder.nodes.values())
    accounting = check_accounting(
        end_s, pending_pod_s, attempts, pending, allocation, nodes, cluster.num_gpus
    )
    window = Window(0.0, end_s, end_s)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return RunResult(
        config=RunConfig(
            policy=recorder.policy, control_plane=ControlPlane(name="live"), label=label
        ),
        cluster=cluster,
        jobs=jobs,
        attempts=attempts,
        pending=pending,
        allocation=allocation,
        nodes=nodes,
        summary=summarize(jobs, attempts, pending, allocation, cluster.num_gpus, end_s, window),
        manifest={
            "input": paths[-1].name,
            "input_sha256": digest.hexdigest(),
            "is_live": True,
            "gaps": [
                {"from_s": from_s, "to_s": min(to_s, end_s), "lost": gap.lost, "why": gap.why}
                for gap, from_s, to_s in recorder.gaps
            ],
            "num_set_aside": len(recorder.aside),
            "set_aside": recorder.aside[:MOST_NAMED],
            "window_s": [window.start_s, window.end_s],
            "label": label,
            "seed": 0,
            "num_jobs": len(jobs),
            "num_nodes": cluster.num_nodes,
            "num_gpus": cluster.num_gpus,
            "end_s": end_s,
            "last_submit_s": float(jobs["submit_s"].max()),
            "num_events": recorder.num_lines,
            "num_rejected_rows": 0,
            "accounting": accounting,
            "versions": versions(),
        },
    )
