"""Gang admission: the policy core driven by simpy events.

A gang costs one arrival and one completion event, whatever its size; between the two everything
follows in closed form (`sim.lifecycle`). One decision pass runs per distinct instant, after all
completions and submissions of that instant.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import simpy
from numpy.typing import NDArray

from scheduler import catalog
from scheduler.audit import validate
from scheduler.decisions import Admit, Wait
from scheduler.events import (
    Admitted,
    Considered,
    GangCancelled,
    GangFinished,
    GangInterrupted,
    GangSubmitted,
    NodeLost,
    NodeReturned,
)
from scheduler.model import Gang, Node, Phase, Slice
from scheduler.nodeset import NodeSet
from scheduler.policy import decide
from scheduler.queueing import GangState
from scheduler.state import ClusterState, apply
from sim.attempts import COMPLETED, NODE_LOST, UNFINISHED, AttemptLog, Batches, NodeUse
from sim.config import RunConfig
from sim.ledger import BEHIND_HEAD, CAPACITY, FRAGMENTATION, QueueLedger, StepLog
from sim.lifecycle import Binder
from sim.records import Records, assemble

if TYPE_CHECKING:
    from sim.workload import Workload

#: called with (simulated seconds, simulation events so far)
ProgressCallback = Callable[[float, int], None]


class Running:
    """An attempt under way."""

    __slots__ = ("admitted_s", "begin_s", "bound_s", "start_s", "starting_s", "tokens")

    def __init__(
        self,
        admitted_s: float,
        begin_s: float,
        tokens: float,
        bound_s: float,
        starting_s: float,
    ) -> None:
        self.admitted_s = admitted_s
        self.begin_s = begin_s
        self.tokens = tokens
        self.bound_s = bound_s
        self.starting_s = starting_s
        self.start_s = bound_s + starting_s


class GangSimulation:
    """One run in gang admission mode."""

    def __init__(
        self,
        work: Workload,
        nodes: list[Node],
        config: RunConfig,
        faults: list[tuple[float, float, int]],
        progress: ProgressCallback | None = None,
    ) -> None:
        self.work = work
        self.config = config
        self.env = simpy.Environment()
        self.policy = catalog.policy(
            config.order, config.discipline, config.backfill, config.placement
        )
        self.state = ClusterState(nodes, self.policy.order)
        self.log = StepLog()
        self.ledger = QueueLedger(self.log)
        self.attempts = AttemptLog()
        self._begin_s = array("d")  #: of the binder's turn, per attempt
        self._tokens = array("d")
        self.node_use = NodeUse(len(nodes))
        self.down: list[tuple[float, float, int]] = []  #: outages that happened
        plane = config.control_plane
        self._plane = plane
        self._binder = Binder(plane)
        self._cold = NodeSet()
        if plane.pull_cold_s and not plane.warm_at_start:
            self._cold.add(0, len(nodes))
        num_jobs = work.num_jobs
        self.waited = [array("d", bytes(8 * num_jobs)) for _ in range(3)]
        self.created_s = array("d", work.submit_s)
        self.left_s = array("d", work.duration_s)  #: run time still to do
        self.tries = array("i", bytes(4 * num_jobs))
        self.never_fits: list[int] = []
        self.running: dict[int, Running] = {}
        self.num_events = 0
        self._next = 0
        self._progress = progress
        self._reported_s = perf_counter()
        self._faults = faults

    def run(self) -> Records:
        """Simulate and return the records."""
        self._schedule_arrival()
        for start_s, end_s, node in self._faults:
            self._at(start_s, self._node_lost, (node, end_s))
        until_s = self.config.until_s
        if until_s is None:
            self.env.run()
            end_s = self.env.now
        else:
            self.env.run(until=until_s)
            end_s = until_s
        self._close(end_s)
        return assemble(
            work=self.work,
            nodes=self.state.capacity.nodes,
            plane=self._plane,
            end_s=end_s,
            num_events=self.num_events,
            log=self.log,
            attempts=self.attempts,
            batches=self._batches(),
            pending_pod_s=self._queued_pod_s(),
            node_use=self.node_use,
            down=self.down,
            never_fits=self.never_fits,
        )

    def _batches(self) -> Batches:
        """Return one batch per attempt: a gang is placed whole."""
        job = np.frombuffer(self.attempts.job, np.int64)
        placed_s = np.frombuffer(self.attempts.admitted_s, np.float64)
        return Batches(
            np.arange(len(job)),
            placed_s,
            placed_s,
            np.frombuffer(self._begin_s, np.float64),
            np.frombuffer(self._tokens, np.float64),
            np.array(self.work.num_pods, np.int64)[job],
            self.work.table["gpus_per_pod"].to_numpy(np.int64)[job],
            np.array(self.work.gpus, np.int64)[job],
        )

    def _queued_pod_s(self) -> dict[int, NDArray[np.float64]]:
        """Return pod-seconds in the queue per reason and job."""
        pods = np.array(self.work.num_pods, np.float64)
        return {
            code: np.frombuffer(waited, np.float64) * pods
            for code, waited in zip(
                (CAPACITY, FRAGMENTATION, BEHIND_HEAD), self.waited, strict=True
            )
        }

    def _at(self, time_s: float, callback: Callable[[simpy.Event], None], value: object) -> None:
        event = simpy.Timeout(self.env, max(0.0, time_s - self.env.now), value)
        event.callbacks.append(callback)

    # -- events --------------------------------------------------------------------------

    def _schedule_arrival(self) -> None:
        if self._next < self.work.num_jobs:
            self._at(self.work.submit_s[self._next], self._arrive, None)

    def _arrive(self, _: simpy.Event) -> None:
        work = self.work
        now_s = work.submit_s[self._next]
        while self._next < work.num_jobs and work.submit_s[self._next] <= now_s:
            job = self._next
            self._next += 1
            gang = Gang(
                work.job[job],
                work.roles[job],
                work.submit_s[job],
                work.walltime_s[job],
                work.priority[job],
                work.queue[job],
                0,
                job,
            )
            apply(self.state, GangSubmitted(gang))
            if gang.name not in self.state.queue.members:
                self._reject(job)
        self._schedule_arrival()
        self._settle()

    def _reject(self, job: int) -> None:
        """A gang larger than the cluster leaves at once: waiting would not help it."""
        name = self.work.job[job]
        assert self.state.gangs[name].phase is Phase.IMPOSSIBLE
        apply(self.state, GangCancelled(name))
        self.never_fits.append(job)

    def _finish(self, event: simpy.Event) -> None:
        job, running = event.value
        if self.running.get(job) is not running:
            return  # interrupted since
        self._end_attempt(job, COMPLETED, self.env.now)
        apply(self.state, GangFinished(self.work.job[job]))
        self._settle()

    def _node_lost(self, event: simpy.Event) -> None:
        node, end_s = event.value
        now_s = self.env.now
        state = self.state
        if node in state.capacity.unschedulable:
            return
        for name in dict.fromkeys(state.on_node[node]):
            job = state.gangs[name].gang.ordinal
            self._end_attempt(job, NODE_LOST, now_s)
            apply(state, GangInterrupted(name))
        apply(state, NodeLost(state.capacity.nodes[node].name))
        self.down.append((now_s, end_s, node))
        if self._plane.pull_cold_s and not self._is_cold(node, node + 1):
            self._cold.add(node, node + 1)
        if not self._is_over():
            self._at(end_s, self._node_returned, node)
        self._settle()

    def _node_returned(self, event: simpy.Event) -> None:
        apply(self.state, NodeReturned(self.state.capacity.nodes[event.value].name))
        self._settle()

    def _is_over(self) -> bool:
        """True if no job is left, so that outages need not be followed to their end."""
        return self._next == self.work.num_jobs and not self.state.gangs

    def _settle(self) -> None:
        """Run the decision pass if nothing else happens at this instant."""
        self.num_events += 1
        env = self.env
        if env.peek() > env.now:
            if self.state.queue.members:
                self._pass(env.now)
            if self.config.audit:
                validate(self.state)
            if self._progress is not None and not self.num_events & 255:
                self._report()

    def _report(self) -> None:
        if self._progress is not None and perf_counter() - self._reported_s > 0.1:
            self._reported_s = perf_counter()
            self._progress(self.env.now, self.num_events)

    # -- decisions -----------------------------------------------------------------------

    def _pass(self, now_s: float) -> None:
        state = self.state
        policy = self.policy
        while True:
            for decision in decide(state, policy, now_s):
                kind = type(decision)
                if kind is Admit:
                    self._start(decision, now_s)
                    continue
                if kind is Considered:
                    self._join_newcomers(now_s)
                    apply(state, decision)
                    return
                apply(state, decision)
                if kind is Wait:
                    self.ledger.state_wait(decision, now_s)

    def _join_newcomers(self, now_s: float) -> None:
        """Gangs that the pass did not admit begin to wait."""
        work = self.work
        for member in self.state.queue.fresh:
            job = member.gang.ordinal
            pods, gpus = work.num_pods[job], work.gpus[job]
            self.ledger.join(job, member.family.key, member.size, pods, gpus, now_s)

    def _start(self, admit: Admit, now_s: float) -> None:
        state = self.state
        work = self.work
        name = admit.gang
        member = state.gangs[name]
        job = member.gang.ordinal
        self._stop_waiting(job, member, now_s)
        begin_s, tokens, bound_s = self._binder.bind(work.num_pods[job], now_s)
        running = Running(now_s, begin_s, tokens, bound_s, self._starting_s(job, admit.placement))
        self.running[job] = running
        start_s = running.start_s
        apply(state, Admitted(name, admit.placement, now_s, start_s + work.walltime_s[job]))
        end_s = start_s + self.left_s[job]
        event = simpy.Timeout(self.env, end_s - now_s, (job, running))
        event.callbacks.append(self._finish)

    def _starting_s(self, job: int, placement: tuple[Slice, ...]) -> float:
        """Return how long the pods start; all of them as long as the slowest."""
        plane = self._plane
        seconds = plane.start_warm_s
        if plane.start_jitter_ratio:
            seconds *= 1.0 + plane.start_jitter_ratio * self.work.jitter(job, self.tries[job])
        if self._cold.size:
            cold = [(lo, hi) for _, lo, hi, _ in placement if self._is_cold(lo, hi)]
            if cold:
                seconds += plane.pull_cold_s
                for lo, hi in cold:
                    self._warm(lo, hi)
        if self.tries[job]:
            seconds += self.config.faults.restart_overhead_s
        return seconds

    def _is_cold(self, lo: int, hi: int) -> bool:
        return any(start < hi and lo < end for start, end in self._cold)

    def _warm(self, lo: int, hi: int) -> None:
        overlaps = [(max(lo, s), min(hi, e)) for s, e in self._cold if s < hi and lo < e]
        for start, end in overlaps:
            self._cold.remove(start, end)

    # -- records -------------------------------------------------------------------------

    def _end_attempt(self, job: int, outcome: int, now_s: float) -> None:
        """Write the attempt's row; keep the work up to the last checkpoint if it was cut short."""
        running = self.running.pop(job)
        ran_s = max(0.0, now_s - running.start_s)
        kept_s = ran_s
        if outcome == NODE_LOST:
            interval_s = self.config.faults.checkpoint_interval_s
            kept_s = ran_s // interval_s * interval_s if interval_s else ran_s
            self.left_s[job] -= kept_s
        held = self.state.gangs[self.work.job[job]].held
        num_nodes = self.node_use.add(self.work.role_gpus[job], held, now_s - running.admitted_s)
        self._begin_s.append(running.begin_s)
        self._tokens.append(running.tokens)
        self.attempts.add(
            job,
            self.created_s[job],
            running.admitted_s,
            running.bound_s,
            running.starting_s,
            running.start_s,
            now_s,
            outcome,
            num_nodes,
            kept_s,
        )
        self.tries[job] += 1
        self.created_s[job] = now_s

    def _close(self, end_s: float) -> None:
        """Write what still runs or waits when the run ends."""
        for job in list(self.running):
            self._end_attempt(job, UNFINISHED, end_s)
        for member in self.state.queue.members.values():
            self._stop_waiting(member.gang.ordinal, member, end_s)

    def _stop_waiting(self, job: int, member: GangState, now_s: float) -> None:
        waits = self.ledger.leave(job, member.family.key, member.size, now_s)
        if waits is not None:
            for waited, seconds in zip(self.waited, waits, strict=True):
                waited[job] += seconds
