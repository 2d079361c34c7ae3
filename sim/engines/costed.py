"""Gang admission with costs: jobs start up, save, are interrupted, lose work, and restart.

An interrupted attempt stops working at once but holds its nodes until that is noticed (a kill,
a lost node) or until it has saved and left (a preemption). Its pods are recreated a while later;
until then the gang has no pods and is not in the queue.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from scheduler.core.decisions import Admit
from scheduler.core.events import (
    CheckpointSaved,
    GangCancelled,
    GangSubmitted,
    NodeCordoned,
    NodeLost,
    NodeReturned,
)
from scheduler.core.model import Gang, Node
from scheduler.core.state import apply
from scheduler.core.times import to_us
from sim.engines.attempts import COMPLETED, KILLED, NODE_LOST, PREEMPTED, UNFINISHED
from sim.engines.course import Course
from sim.engines.gangs import GangSimulation, ProgressCallback
from sim.engines.records import Records
from sim.schema.config import RunConfig
from sim.schema.costs import Costs, Interrupt, Kind
from sim.schema.tables import GOODPUT_PARTS

if TYPE_CHECKING:
    from sim.engines.workload import Workload

#: seconds of an attempt by `GOODPUT_PARTS`
Parts = tuple[float, float, float, float, float, float, float]
NOTHING: Parts = (0.0,) * 7
INSTANT_US = 1


class Cut(NamedTuple):
    """An attempt that has stopped working and still holds its nodes."""

    row: int
    since_us: int
    outcome: int
    until_us: int


class CostedSimulation(GangSimulation):
    """One run in gang admission mode, with costs."""

    def __init__(
        self,
        work: Workload,
        nodes: list[Node],
        config: RunConfig,
        faults: list[tuple[float, float, int]],
        progress: ProgressCallback | None = None,
    ) -> None:
        assert config.costs is not None
        # The two numbers that costs stand in for.
        plain = msgspec.structs.replace(
            config.faults, restart_overhead_s=0.0, checkpoint_interval_s=0.0
        )
        plain_config = msgspec.structs.replace(config, faults=plain)
        super().__init__(work, nodes, plain_config, faults, progress)
        self.costs: Costs = config.costs
        self.policy = replace(self.policy, restart_s=_restart_s(config.costs))
        self.work_s = list(work.duration_s)
        self.saved_s = [0.0] * work.num_jobs  #: work that a restart finds
        self.cut: dict[int, Cut] = {}  #: by job
        self.gone: dict[int, Gang] = {}  #: jobs whose pods are to be made again
        self.parts: dict[int, Parts] = {}  #: by attempt
        self.courses: dict[int, Course] = {}  #: by job, of its next attempt or the one under way
        self._has_ended = False  #: no job is left; what was to happen later does not
        self._at_step: dict[int, list[Interrupt]] = {}
        self._num_interrupts = len(config.interrupt or ())
        self._num_met = 0  #: of them; the others came when their job did not run
        self._plan_interrupts(config.interrupt or ())
        for job in range(work.num_jobs):
            self._set_out(job)

    def _plan_interrupts(self, interrupts: tuple[Interrupt, ...]) -> None:
        index = {name: job for job, name in enumerate(self.work.job)}
        for one in interrupts:
            job = index.get(one.job)
            if job is None:
                raise ValueError(f"interrupt of job {one.job!r}: the jobs table has no such job")
            if one.at_s is not None:
                self._at(to_us(one.at_s), self._interrupted_at, (job, one))
                continue
            assert one.at_step is not None
            step_s = self.costs.step_s.mean_s
            if not step_s:
                raise ValueError(
                    f"interrupt of job {one.job!r} at step {one.at_step}: costs.toml has no "
                    "step_s, so its time is unknown; add step_s or give at_s"
                )
            if one.at_step * step_s >= self.work_s[job]:
                raise ValueError(
                    f"interrupt of job {one.job!r} at step {one.at_step}: the job ends at step "
                    f"{self.work_s[job] / step_s:.6g} (duration_s {self.work_s[job]:.6g}, steps "
                    f"of {step_s:.6g} s); give an earlier step"
                )
            self._at_step.setdefault(job, []).append(one)

    def _set_out(self, job: int) -> None:
        """Draw the costs of the job's next attempt; the engine sees only how long they take."""
        course = self.courses[job] = Course(
            self.costs,
            self.config.seed,
            job,
            self.tries[job],
            self.saved_s[job],
            self.work_s[job],
        )
        self.left_us[job] = to_us(course.total_s)

    # -- events --------------------------------------------------------------------------

    def _start(self, admit: Admit, now_us: int) -> None:
        super()._start(admit, now_us)
        job = self.state.gangs[admit.gang].gang.ordinal
        self._save_next(job, self.row_of[job], 1)
        pending = self._at_step.get(job)
        if not pending:
            return
        row = self.row_of[job]
        start_s = self.start_us[job] / 1e6
        course = self.courses[job]
        for one in pending:
            assert one.at_step is not None
            work_s = one.at_step * self.costs.step_s.mean_s
            reached_s = start_s + course.reaches_s(max(work_s, course.from_s))
            self._at(to_us(reached_s), self._interrupted_in, (job, row, one))

    def _save_next(self, job: int, row: int, save: int) -> None:
        """Notify the core of an attempt's next checkpoint once it is committed.

        Before whatever else happens at that instant, so that no pass is made for it alone.
        """
        course = self.courses[job]
        if save > course.num_saves:
            return
        start_s = self.start_us[job] / 1e6
        begins_s, committed_s = course.save_s(save)
        saved = (job, row, save, to_us(start_s + begins_s))
        self.agenda.at(to_us(start_s + committed_s), self._committed, saved, urgent=True)

    def _committed(self, saved: Any) -> None:
        job, row, save, begun_us = saved
        if self.row_of[job] == row and job not in self.cut:
            apply(self.state, CheckpointSaved(self.work.job[job], begun_us))
            self._save_next(job, row, save + 1)

    def _interrupted_in(self, reached: Any) -> None:
        """A job has reached the step of an interrupt."""
        job, row, one = reached
        if self.row_of[job] != row or job in self.cut:
            self._pass_over()
            return
        self._at_step[job].remove(one)
        self._num_met += 1
        self._cut(job, one.kind)
        self._settle(self.agenda.now_us)

    def _interrupted_at(self, due: Any) -> None:
        """The time of an interrupt has come."""
        job, one = due
        if self.row_of[job] >= 0 and job not in self.cut:
            self._num_met += 1
            self._cut(job, one.kind)
        self._settle(self.agenda.now_us)

    def _cut(self, job: int, kind: Kind, *, node_lost: bool = False) -> int:
        """Let a job stop working; return when it leaves its nodes."""
        now_us = self.agenda.now_us
        row = self.row_of[job]
        course = self.courses[job]
        if kind is Kind.PREEMPT:
            ran_us = now_us - self.start_us[job]
            save_s = course.final_save_s if ran_us / 1e6 > course.setup_s else 0.0
            outcome, until_us = PREEMPTED, now_us + to_us(max(course.stop_s, save_s))
        else:
            outcome = NODE_LOST if node_lost else KILLED
            until_us = now_us + to_us(course.detect_s)
        self.cut[job] = Cut(row, now_us, outcome, until_us)
        self._at(until_us, self._left, (job, row))
        return until_us

    def _evict(self, job: int, claims: int, now_us: int) -> None:
        """Let a job save and leave for another; one that was interrupted leaves anyway."""
        if job not in self.cut:
            self.evicted_for[self.row_of[job]] = claims
            self._cut(job, Kind.PREEMPT)

    def _left(self, attempt: Any) -> None:
        """An interrupted job leaves its nodes; its pods will be recreated."""
        job, row = attempt
        if self.row_of[job] != row:
            self._pass_over()
            return
        now_us = self.agenda.now_us
        name = self.work.job[job]
        recreate_us = to_us(self.courses[job].recreate_s)
        self._end_attempt(job, self.cut[job].outcome, now_us)
        self.gone[job] = self.state.gangs[name].gang
        apply(self.state, GangCancelled(name))
        self._at(now_us + recreate_us, self._made_again, job)
        self._settle(now_us)

    def _made_again(self, job: Any) -> None:
        now_us = self.agenda.now_us
        self.created_s[job] = now_us / 1e6
        self._set_out(job)
        apply(self.state, GangSubmitted(self.gone.pop(job)))
        self._settle(now_us)

    def _finish(self, attempt: Any) -> None:
        if attempt[0] in self.cut:
            self._pass_over()
        else:
            super()._finish(attempt)

    def _node_lost(self, outage: Any) -> None:
        """Interrupt the gangs on a node; it is out of service once they are known to be dead."""
        node, end_us = outage
        state = self.state
        if node in state.capacity.unschedulable:
            self._pass_over()
            return
        until_us = self.agenda.now_us
        for name in dict.fromkeys(state.on_node[node]):
            job = state.gangs[name].gang.ordinal
            if job in self.cut:
                until_us = max(until_us, self.cut[job].until_us)
            else:
                until_us = max(until_us, self._cut(job, Kind.KILL, node_lost=True))
        if until_us == self.agenda.now_us and not state.on_node[node]:
            super()._node_lost(outage)
            return
        apply(state, NodeCordoned(state.capacity.nodes[node].name))
        self._at(until_us, self._node_known_dead, (node, end_us))
        self._settle(self.agenda.now_us)

    def _node_known_dead(self, outage: Any) -> None:
        node, end_us = outage
        now_us = self.agenda.now_us
        name = self.state.capacity.nodes[node].name
        if self.state.on_node[node]:  # at this very instant the last of its gangs leaves
            self._at(now_us + INSTANT_US, self._node_known_dead, outage)
            self._pass_over()
            return
        if end_us <= now_us:  # back before anybody looked
            apply(self.state, NodeReturned(name))
        else:
            apply(self.state, NodeLost(name))
            self.down.append((now_us / 1e6, end_us / 1e6, node))
            if not self._is_over():
                self._at(end_us, self._node_returned, node)
        if self._plane.pull_cold_s and not self._is_cold(node, node + 1):
            self._cold.add(node, node + 1)
        self._settle(now_us)

    def _settle(self, now_us: int) -> None:
        super()._settle(now_us)
        if not self._has_ended and self._is_over():
            self._has_ended = True
            if self.config.until_s is None:
                self.agenda.end()

    def _is_over(self) -> bool:
        return super()._is_over() and not self.gone

    # -- records -------------------------------------------------------------------------

    def _end_attempt(self, job: int, outcome: int, now_us: int) -> None:
        """Write how the attempt ended, and what its time went into."""
        row = self.row_of[job]
        self.row_of[job] = -1
        cut = self.cut.pop(job, None)
        start_us = self.start_us[job]
        course = self.courses[job]
        # A run may end before a job that was cut has left.
        worked = cut.outcome if cut is not None and outcome == UNFINISHED else outcome
        parts = NOTHING
        ran_s = max(0, now_us - start_us) / 1e6
        if start_us < now_us:
            stopped_us = now_us if cut is None else max(start_us, cut.since_us)
            parts, saved_s = _parts(course, worked, (stopped_us - start_us) / 1e6, ran_s)
            self.saved_s[job] = saved_s
        if outcome != COMPLETED:
            self.tries[job] += 1
        self.parts[row] = parts
        _, _, _, _, lost_s, recovery_s, _ = parts
        self.attempts.close(row, now_us / 1e6, outcome, ran_s - lost_s - recovery_s)

    def records(self, end_s: float) -> Records:
        """Work out the tables, with the parts of each attempt."""
        records = super().records(end_s)
        rows = [self.parts[row] for row in range(len(records.attempts))]
        parts = pd.DataFrame(
            np.array(rows, np.float64).reshape(-1, len(GOODPUT_PARTS)), columns=list(GOODPUT_PARTS)
        )
        records.attempts = pd.concat([records.attempts, parts], axis=1)
        records.interrupts_not_met = self._num_interrupts - self._num_met
        return records


def _restart_s(costs: Costs) -> float:
    """Return how long a job takes, on the average, from its eviction to where it was."""
    each = (costs.stop_s, costs.recreate_s, costs.startup_s, costs.first_step_extra_s)
    return sum(one.mean_s for one in (*each, costs.restore_s))


def _parts(course: Course, outcome: int, worked_s: float, ran_s: float) -> tuple[Parts, float]:
    """Return what the time of an attempt went into, and the work that its successor finds.

    It ran for `ran_s`, and worked for the first `worked_s` of it.
    """
    standing = course.at(worked_s)
    saved_s = standing.committed_s
    stall_s = standing.save_stall_s
    recovery_s = ran_s - worked_s
    if outcome in (COMPLETED, UNFINISHED):
        saved_s = standing.work_s
    elif outcome == PREEMPTED and worked_s > course.setup_s:
        final_s = min(recovery_s, course.final_save_s)
        stall_s += final_s
        recovery_s -= final_s
        saved_s = standing.work_s
    lost_s = standing.work_s - saved_s
    productive_s = standing.working_s - lost_s
    return (
        productive_s,
        standing.startup_s,
        standing.restore_s,
        stall_s,
        lost_s,
        recovery_s,
        standing.other_s,
    ), saved_s
