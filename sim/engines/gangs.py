"""Gang admission: the policy core driven by an agenda of events.

A gang costs one arrival and one completion event, whatever its size; between the two everything
follows in closed form (`sim.engines.lifecycle`). One decision pass runs per distinct instant, after
all completions and submissions of that instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, repeat
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, Preempt, Wait
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    Considered,
    GangCancelled,
    GangFinished,
    GangInterrupted,
    GangSubmitted,
    NodeCordoned,
    NodeLost,
    NodeReturned,
)
from scheduler.core.model import FamilyKey, Gang, Node, Phase, Placement, Role, Slice
from scheduler.core.nodeset import NodeSet
from scheduler.core.queueing import family_key, family_size
from scheduler.core.quota import Amounts
from scheduler.core.quotabook import QuotaBook
from scheduler.core.sentences import never
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US, ends_us, to_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.explain import never_fits
from sim.engines.agenda import Act, Agenda
from sim.engines.attempts import COMPLETED, NODE_LOST, PREEMPTED, UNFINISHED, Attempts, GangLog
from sim.engines.claimed import ClaimedStints
from sim.engines.lifecycle import Binder, Creation
from sim.engines.quotas import UsageOverTime, check_queues
from sim.engines.records import Records, assemble
from sim.engines.waits import Demand, QueueLedger, StepLog, Stints
from sim.engines.workload import in_us
from sim.schema.config import RunConfig

if TYPE_CHECKING:
    from sim.engines.workload import Workload

#: called with (simulated seconds, simulation events so far)
ProgressCallback = Callable[[float, int], None]


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
        self.agenda = Agenda()
        self.policy = replace(
            catalog.policy(config.policy), restart_s=config.faults.restart_overhead_s
        )
        self.state = ClusterState(nodes, self.policy.order)
        #: of the queues file, if there is one; that of the state unless it limits nothing
        self.book: QuotaBook | None = None
        if config.queues is not None:
            self.book = QuotaBook(self.state.capacity, config.queues)
            check_queues(work.queue, self.book)
            if self.book.is_one_queue:
                words = replace(config.policy, discipline=self.book.disciplines[0].value)
                self.policy = catalog.policy(words)
            else:
                self.state = ClusterState(nodes, self.policy.order, config.queues)
                self.book = self.state.book
        self._creation = Creation(work.submit_s, work.num_pods, config.control_plane)
        self._ready_us: list[int] = in_us(np.array(self._creation.ready_s)).tolist()
        self.log = StepLog()
        self.ledger = QueueLedger()
        self.claimed = ClaimedStints()
        self.evicted_for: dict[int, int] = {}  #: by row of the log, for which job
        self.attempts = GangLog()
        self.down: list[tuple[float, float, int]] = []  #: outages that happened
        plane = config.control_plane
        self._plane = plane
        self._binder = Binder(plane, self._creation)
        self._starting_us = to_us(plane.start_warm_s)
        #: pods may take longer or shorter than that to start, the first time, too
        self._starts_vary = bool(plane.start_jitter_ratio or plane.pull_cold_s)
        self._cold = NodeSet()
        if plane.pull_cold_s and not plane.warm_at_start:
            self._cold.add(0, len(nodes))
        num_jobs = work.num_jobs
        self.created_s = [us / 1e6 for us in self._ready_us]
        self.left_us = list(work.duration_us)  #: run time still to do
        self.tries = [0] * num_jobs
        self.start_us = [0] * num_jobs  #: of the attempt under way, or the last one
        self.never_fits: list[int] = []
        self._unmet: dict[int, str] = {}  #: where queues have quota, why each of them does not
        #: by row of the log, what an attempt takes of quota; empty where there is none
        self._took: list[Amounts] = []
        #: the attempt under way, as a row of the log; -1 if there is none
        self.row_of = [-1] * num_jobs
        fields = zip(
            work.job,
            work.roles,
            work.submit_us,
            work.walltime_us,
            work.priority,
            work.queue,
            repeat(0),
            count(),
            work.evicts,
            work.evictable,
            strict=False,
        )
        self._gangs: Iterator[Gang] = map(Gang._make, fields)
        self.num_events = 0
        self._next = 0
        self._wake_us = FOREVER_US  #: when the policy wants to decide again
        self._settled_us = 0  #: when something happened last
        self._overslept = False  #: woken after all was over
        self._progress = progress
        self._reported_s = perf_counter()
        self._faults = faults

    def go_on(self, placement: Placement, expected_end_us: int, left_us: int) -> None:
        """Let the next gang hold its nodes from time 0, without binding or starting."""
        job = self._next
        self._next += 1
        gang = next(self._gangs)
        apply(self.state, GangSubmitted(gang))
        apply(self.state, Admitted(gang.name, placement, 0, expected_end_us))
        row = self.row_of[job] = self.attempts.open(job, 0.0, 0.0, 0.0, inf, 0.0, 0.0, 0.0)
        self._hold(row, job, placement)
        self.agenda.at(left_us, self._finish, (job, row))

    def change_node(self, at_us: int, node: int, is_open: bool | None) -> None:
        """Open a node, close it for new pods, or remove it (None) then, as happened live."""
        self.agenda.at(at_us, self._node_changed, (node, is_open))

    def run(self) -> Records:
        """Simulate and return the records."""
        return self.records(self.simulate())

    def simulate(self) -> float:
        """Run all events; return the time at which the run ends."""
        if self._next < self.work.num_jobs:
            self.agenda.at_next(self._ready_us[self._next], self._arrive)
        for start_s, end_s, node in self._faults:
            self._at(to_us(start_s), self._node_lost, (node, to_us(end_s)))
        until_s = self.config.until_s
        if until_s is None:
            self._run_out()
            end_s = self._settled_us / 1e6 if self._overslept else self._now_s
        else:
            until_us = max(1, to_us(until_s))
            self.agenda.run(until_us)
            end_s = until_us / 1e6
        self._close(end_s)
        return end_s

    def _run_out(self) -> None:
        """Run until no event is left."""
        self.agenda.run()

    def records(self, end_s: float) -> Records:
        """Work out the tables of a run that has ended, from what it kept."""
        num_pods = np.array(self.work.num_pods, np.int64)
        gpus_per_pod = self.work.table["gpus_per_pod"].to_numpy(np.int64)
        attempts = self.attempts.columns()
        usage = self._usage(attempts)
        return assemble(
            work=self.work,
            nodes=self.state.capacity.nodes,
            plane=self._plane,
            creation=self._creation,
            end_s=end_s,
            num_events=self.num_events,
            log=self.log,
            attempts=attempts,
            batches=self.attempts.batches(
                num_pods, gpus_per_pod, np.array(self.work.gpus, np.int64)
            ),
            pending_pod_s=self._queued_pod_s(attempts, usage, end_s),
            node_gpu_s=self.attempts.node_gpu_s(len(self.state.capacity.nodes)),
            down=self.down,
            never_fits=self.never_fits,
            unmet=self._unmet,
            queues=None if usage is None else usage.totals(self._queue_of_job(), end_s),
            evicted_for=self.evicted_for,
        )

    def _queued_pod_s(
        self, attempts: Attempts, usage: UsageOverTime | None, end_s: float
    ) -> dict[int, NDArray[np.float64]]:
        """Return pod-seconds in the queue per reason and job."""
        waiting = [member.gang.ordinal for member in self.state.queue.members.values()]
        for claims in list(self.claimed.since_us):
            waiting.append(claims)
            self.claimed.end(claims, to_us(end_s))
        demand, demands = self._demands()
        if self.state.book is None:
            usage = None
        elif usage is not None:  # as the core counts it
            held, from_s, to_s = self.claimed.stints()
            queues = self._queue_of_job()[held]
            usage = usage.with_claims(queues, self.claimed.took, from_s, to_s)
        created_s = np.array(self.created_s)[waiting]
        job = np.append(attempts.job, np.array(waiting, np.int64))
        from_s = np.append(attempts.created_s, created_s)
        to_s = np.append(attempts.admitted_s, np.full(len(waiting), end_s))
        pod_s = self.ledger.settle(
            self.claimed.cut_out(Stints(job, from_s, to_s)),
            demand,
            demands,
            self.log,
            self.work.num_jobs,
            usage,
        )
        num_pods, gpus = np.array(self.work.num_pods), np.array(self.work.gpus)
        if self.state.book is not None:
            self.claimed.settle(self.log, num_pods, gpus, pod_s, self._queue_of_job())
        return pod_s

    def _demands(self) -> tuple[NDArray[np.int64], list[Demand]]:
        """Return the distinct demands, and for each job the index of its own there."""
        work, book = self.work, self.state.book
        roles_of = work.distinct_roles
        if book is None:
            return work.roles_index, [_demand(roles, family_key(roles)) for roles in roles_of]
        pairs, demand = np.unique(
            np.stack((work.roles_index, self._queue_of_job()), axis=1), axis=0, return_inverse=True
        )
        demands = []
        for at, queue in pairs.tolist():
            flavors = book.flavors_of[queue]
            family = self.state.family(roles_of[at], flavors)
            one = _demand(roles_of[at], (family_key(roles_of[at]), flavors))
            demands.append(one._replace(queue=queue, options=family.options))
        return demand.reshape(-1), demands

    def _usage(self, attempts: Attempts) -> UsageOverTime | None:
        book = self.book
        if book is None:
            return None
        took = self._took
        if self.state.book is None:  # one queue: what a job takes does not depend on its nodes
            each = []
            for roles in self.work.distinct_roles:
                (only,) = book.options(roles, book.flavors_of[0])
                each.append(only.amounts(family_size(roles)))
            took = [each[at] for at in self.work.roles_index[attempts.job].tolist()]
        queues = self._queue_of_job()[attempts.job]
        return UsageOverTime(book, queues, took, attempts.admitted_s, attempts.end_s)

    def _queue_of_job(self) -> NDArray[np.int64]:
        """Return the queue of each job by its number in the tree, where queues have quota."""
        book = self.book
        assert book is not None
        queue_of = {name: book.queue_named(name) for name in set(self.work.queue)}
        return np.array([queue_of[name] for name in self.work.queue], np.int64)

    @property
    def _now_s(self) -> float:
        return self.agenda.now_us / 1e6

    def _at(self, time_us: int, act: Act, value: object) -> None:
        self.agenda.at(time_us, act, value)

    # -- events --------------------------------------------------------------------------

    def _arrive(self, _: object) -> None:
        ready_us = self._ready_us
        state = self.state
        at = self._next
        now_us = ready_us[at]
        num_jobs = self.work.num_jobs
        while at < num_jobs and ready_us[at] <= now_us:
            gang = next(self._gangs)
            apply(state, GangSubmitted(gang))
            if gang.name not in state.queue.members:
                self._reject(at)
            at += 1
        self._next = at
        if at < num_jobs:
            self.agenda.at_next(ready_us[at], self._arrive)
        self._settle(now_us)

    def _reject(self, job: int) -> None:
        """A gang larger than the cluster leaves at once: waiting would not help."""
        name = self.work.job[job]
        member = self.state.gangs[name]
        assert member.phase is Phase.IMPOSSIBLE
        if self.state.book is not None:
            found = never_fits(self.state, member)
            self._unmet[job] = never(found) if found is not None else ""
        apply(self.state, GangCancelled(name))
        self.never_fits.append(job)

    def _finish(self, attempt: Any) -> None:
        job, row = attempt
        if self.row_of[job] != row:  # interrupted since
            self._pass_over()
            return
        now_us = self.agenda.now_us
        self._end_attempt(job, COMPLETED, now_us)
        apply(self.state, GangFinished(self.work.job[job]))
        self._settle(now_us)

    def _node_lost(self, outage: Any) -> None:
        node, end_us = outage
        now_us = self.agenda.now_us
        state = self.state
        if node in state.capacity.unschedulable:
            self._pass_over()
            return
        for name in dict.fromkeys(state.on_node[node]):
            job = state.gangs[name].gang.ordinal
            self._end_attempt(job, NODE_LOST, now_us)
            apply(state, GangInterrupted(name))
        apply(state, NodeLost(state.capacity.nodes[node].name))
        self.down.append((now_us / 1e6, end_us / 1e6, node))
        if self._plane.pull_cold_s and not self._is_cold(node, node + 1):
            self._cold.add(node, node + 1)
        if end_us < FOREVER_US and not self._is_over():
            self._at(end_us, self._node_returned, node)
        self._settle(now_us)

    def _node_returned(self, node: Any) -> None:
        apply(self.state, NodeReturned(self.state.capacity.nodes[node].name))
        self._settle(self.agenda.now_us)

    def _node_changed(self, change: Any) -> None:
        node, is_open = change
        if self._is_over():
            self._overslept = True
            return
        name = self.state.capacity.nodes[node].name
        now_s = self.agenda.now_us / 1e6
        if is_open is None:
            if node in self.state.capacity.unschedulable:
                apply(self.state, NodeReturned(name))
            self._node_lost((node, FOREVER_US))
            return
        for at, (down_s, up_again_s, other) in enumerate(self.down):
            if other == node and up_again_s > now_s:
                self.down[at] = (down_s, now_s, node)
        apply(self.state, NodeReturned(name) if is_open else NodeCordoned(name))
        self._settle(self.agenda.now_us)

    def _is_over(self) -> bool:
        """True if no job is left, so that outages need not be followed to their end."""
        return self._next == self.work.num_jobs and not self.state.gangs

    def _settle(self, now_us: int) -> None:
        """Run the decision pass if nothing else happens at this instant."""
        self.num_events += 1
        self._settled_us = now_us
        if self.agenda.next_us() > now_us:
            if self.claimed.since_us:
                self._note_dropped(now_us)
            if self.state.queue.members or self.state.claims or self.state.past is not None:
                self._pass(now_us)
            if self.config.audit:
                validate(self.state)
            if self._progress is not None and not self.num_events & 255:
                self._report()

    def _pass_over(self) -> None:
        """Note that nothing happens after all; what happened before at this instant is settled."""
        if self._settled_us == self.agenda.now_us:
            self._settle(self._settled_us)

    def _report(self) -> None:
        if self._progress is not None and perf_counter() - self._reported_s > 0.1:
            self._reported_s = perf_counter()
            self._progress(self._now_s, self.num_events)

    # -- decisions -----------------------------------------------------------------------

    def _pass(self, now_us: int) -> None:
        state = self.state
        policy = self.policy
        waiting = state.queue.members
        while waiting or state.claims or state.past is not None:
            for decision in decide(state, policy, now_us):
                if isinstance(decision, Admit):
                    self._start(decision, now_us)
                    continue
                if isinstance(decision, Preempt):
                    self._preempt(decision, now_us)
                    continue
                apply(state, decision)
                if isinstance(decision, Wait):
                    self.ledger.note(decision, now_us / 1e6)
                elif isinstance(decision, Considered):
                    if state.until_us <= now_us:
                        break  # a slice of the pass
                    if state.until_us < self._wake_us:
                        self._come_back()
                    return

    def _preempt(self, decision: Preempt, now_us: int) -> None:
        """Claim nodes for a gang, and let those leave that are not leaving already."""
        state = self.state
        victims = [name for name in decision.victims if not state.gangs[name].leaving]
        apply(state, CapacityClaimed(decision.gang, decision.placement, decision.victims))
        claims = state.gangs[decision.gang].gang.ordinal
        self.claimed.begin(claims, now_us, state.claims[decision.gang].amounts)
        for name in victims:
            self._evict(state.gangs[name].gang.ordinal, claims, now_us)

    def _evict(self, job: int, claims: int, now_us: int) -> None:
        """Let a job leave its nodes for another: without costs it does so at once, and queues."""
        self.evicted_for[self.row_of[job]] = claims
        self._end_attempt(job, PREEMPTED, now_us)
        apply(self.state, GangInterrupted(self.work.job[job]))

    def _note_dropped(self, now_us: int) -> None:
        """Note which jobs lost their claims, as with a node."""
        for job in list(self.claimed.since_us):
            if self.work.job[job] not in self.state.claims:
                self.claimed.end(job, now_us)

    def _come_back(self) -> None:
        """Schedule a pass at the time when decisions may change without an event."""
        self._wake_us = until_us = self.state.until_us
        self._at(until_us, self._wake, None)

    def _wake(self, _: object) -> None:
        now_us = self.agenda.now_us
        if now_us == self._wake_us:
            self._wake_us = FOREVER_US
        if not self.state.queue.members:
            self._overslept = self._is_over()
            self._pass_over()
        elif now_us < self.state.until_us:  # a pass since then has put it off
            if self.state.until_us < self._wake_us:
                self._come_back()
            self._pass_over()
        else:
            self._settle(now_us)

    def _start(self, admit: Admit, now_us: int) -> None:
        name, placement = admit.gang, admit.placement
        gang = self.state.gangs[name].gang
        job = gang.ordinal
        now_s = now_us / 1e6
        begin_s, tokens, bound_s = self._binder.bind(self.work.num_pods[job], now_s)
        bound_us = to_us(bound_s)
        starting_us = self._starting_us
        if self._starts_vary or self.tries[job]:
            starting_us = to_us(self._starting_s(job, placement))
        start_us = bound_us + starting_us
        apply(self.state, Admitted(name, placement, now_us, ends_us(start_us, gang.walltime_us)))
        log = self.attempts
        row = self.row_of[job] = log.open(
            job,
            self.created_s[job],
            now_s,
            begin_s,
            tokens,
            bound_us / 1e6,
            starting_us / 1e6,
            start_us / 1e6,
        )
        self._hold(row, job, placement)
        self.claimed.end(job, now_us)
        self.start_us[job] = start_us
        self.agenda.at(start_us + self.left_us[job], self._finish, (job, row))

    def _hold(self, row: int, job: int, placement: Placement) -> None:
        self.attempts.hold(row, placement, self.work.role_gpus[job])
        if self.state.book is not None:
            self._took.append(self.state.book.amounts_of(self.work.roles[job], placement))

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

    def _end_attempt(self, job: int, outcome: int, now_us: int) -> None:
        """Write how the attempt ended; keep the work up to the last checkpoint if it was cut."""
        row = self.row_of[job]
        self.row_of[job] = -1
        kept_us = max(0, now_us - self.start_us[job])
        if outcome in (NODE_LOST, PREEMPTED):
            interval_us = to_us(self.config.faults.checkpoint_interval_s)
            if interval_us:
                kept_us -= kept_us % interval_us
            self.left_us[job] -= kept_us
            self.tries[job] += 1
            self.created_s[job] = now_us / 1e6
        self.attempts.close(row, now_us / 1e6, outcome, kept_us / 1e6)

    def _close(self, end_s: float) -> None:
        """Write what still runs when the run ends."""
        for job, row in enumerate(self.row_of):
            if row >= 0:
                self._end_attempt(job, UNFINISHED, to_us(end_s))


def _demand(roles: tuple[Role, ...], family: FamilyKey) -> Demand:
    pods = sum(role.count for role in roles)
    return Demand(family, family_size(roles), pods, sum(role.gpus for role in roles))
