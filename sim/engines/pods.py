"""Pod and permit admission: what a stock kube-scheduler does with gangs, pod by pod.

The scheduler takes one pod after the other from its active queue, ordered by priority and by the
time the pod was queued. A pod that fits is assumed at once and bound by the client behind it; one
that does not waits until capacity is freed and its backoff is over. In `pod` mode a placed rank
waits for the others at the rendezvous; in `permit` mode (coscheduling) it waits before its bind.
If the rest does not come in time, all of them give back their places and the gang tries again.

Equal pods of a gang are handled as counts. Between two simulation events only the scheduler
changes anything, so it works through its queue up to the next event in one go.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from time import perf_counter
from typing import cast

import numpy as np
import simpy
from numpy.typing import NDArray

from scheduler.core import placement
from scheduler.core.capacity import GPUS, Capacity
from scheduler.core.decisions import PendingReason
from scheduler.core.model import Node, NodeStatus, PodShape, Role, Selector, Slice
from scheduler.core.shortage import outlook
from scheduler.core.times import to_us
from scheduler.policies import catalog
from sim.engines.attempts import (
    COMPLETED,
    NODE_LOST,
    PERMIT_TIMEOUT,
    RENDEZVOUS_TIMEOUT,
    UNFINISHED,
    AttemptLog,
    BatchLog,
    NodeUse,
)
from sim.engines.gangs import ProgressCallback
from sim.engines.lifecycle import Binder, Creation, bind_offset_s
from sim.engines.records import Records, assemble
from sim.engines.waits import CODE, NUM_REASONS, StepLog, coded
from sim.engines.workload import Workload, whole_us
from sim.schema.config import RunConfig

_CONTROL_PLANE = CODE[PendingReason.CONTROL_PLANE]
_CAPACITY = CODE[PendingReason.CAPACITY]
_FRAGMENTATION = CODE[PendingReason.FRAGMENTATION]
_HELD_BY_OTHERS = CODE[PendingReason.HELD_BY_OTHERS]
_BACKOFF = CODE[PendingReason.PERMIT_BACKOFF]


class Batch:
    """Pods of one role placed together."""

    __slots__ = ("asked_s", "begin_s", "bound_s", "placed_s", "pods", "role", "slices", "tokens")

    def __init__(self, role: int, pods: int, slices: list[Slice], placed_s: float) -> None:
        self.role = role
        self.pods = pods
        self.slices = slices
        self.placed_s = placed_s
        self.asked_s = inf  #: the binder was asked
        self.begin_s = inf
        self.tokens = 0.0
        self.bound_s = inf


class Attempt:
    """One attempt of a gang: its pods by state."""

    __slots__ = (
        "active",
        "again_s",
        "batches",
        "counts",
        "created_s",
        "failed",
        "failed_s",
        "failures",
        "first_up_s",
        "is_over",
        "job",
        "placed",
        "run_s",
        "shapes",
        "starting_s",
        "unplaced",
        "waiting",
    )

    def __init__(
        self,
        job: int,
        counts: list[int],
        shapes: list[int],
        created_s: float,
        starting_s: float,
    ) -> None:
        self.job = job
        self.shapes = shapes  #: per role, the number of its pod shape and selector
        self.created_s = created_s
        self.starting_s = starting_s
        self.active = counts  #: per role, in the scheduler's queue
        self.failed = [0] * len(counts)  #: per role, found no node at their last try
        self.failed_s = created_s
        self.again_s = created_s  #: may be tried again from then on
        self.failures = 0
        #: per role, what its unplaced pods wait for, as `_state_reasons` puts it
        self.counts: list[int] = []
        self.unplaced = sum(counts)
        self.placed = 0
        self.batches: list[Batch] = []
        self.waiting: list[tuple[int, int, int, float]] = []  #: (reason, pods, gpus, since)
        self.first_up_s = inf
        self.run_s = inf
        self.is_over = False


class PodSimulation:
    """One run in pod or permit mode."""

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
        self.capacity = Capacity(nodes)
        self.log = StepLog()
        self.attempts = AttemptLog()
        self.batches = BatchLog()
        self.node_use = NodeUse(len(nodes))
        self.down: list[tuple[float, float, int]] = []
        self.never_fits: list[int] = []
        self.num_events = 0
        self.pending_pod_s: dict[tuple[int, int], float] = {}
        self._is_permit = config.admission == "permit"
        placer = catalog.policy(config.policy).placer
        self._placer = tightest if placer is placement.pack else placer
        self._creation = Creation(work.submit_s, work.num_pods, config.control_plane)
        self._ready_s: list[float] = whole_us(np.array(self._creation.ready_s)).tolist()
        self._binder = Binder(config.control_plane, self._creation)
        self._faults = faults
        self._progress = progress
        self._reported_s = perf_counter()
        self._next = 0
        self._live: dict[int, Attempt] = {}
        self._backing_off: dict[int, float] = {}  #: job -> since
        self._tries = [0] * work.num_jobs
        self._left_s = list(work.duration_s)
        self._partial_gpus = 0  #: held by gangs that are not whole
        self._active: list[tuple[int, float, int, int, int, Attempt]] = []
        self._parked: list[Attempt] = []
        self._backoff: list[tuple[float, int, int, Attempt]] = []
        self._busy = False
        self._woken_s = inf
        self._shapes: dict[tuple[PodShape, Selector], int] = {}
        #: shapes that found no node: none of them will before capacity is freed
        self._misfits: set[int] = set()
        plane = config.control_plane
        #: after so many failures, the last for all above
        self._backoff_s = [
            min(plane.backoff_initial_s * 2.0**times, plane.backoff_max_s) for times in range(31)
        ]

    def run(self) -> Records:
        """Simulate and return the records."""
        self._schedule_arrival()
        for start_s, end_s, node in self._faults:
            self._at(start_s, self._node_lost, (node, end_s))
        until_s = self.config.until_s
        self.env.run(until=None if until_s is None else max(1, to_us(until_s)))
        end_s = self._now_s
        for attempt in list(self._live.values()):
            self._end(attempt, UNFINISHED, end_s)
        for job, since_s in self._backing_off.items():
            self._wait_in_backoff(job, since_s, end_s)
        return assemble(
            work=self.work,
            nodes=self.capacity.nodes,
            plane=self.config.control_plane,
            creation=self._creation,
            end_s=end_s,
            num_events=self.num_events,
            log=self.log,
            attempts=self.attempts.columns(),
            batches=self.batches.columns(),
            pending_pod_s=self._waited_pod_s(),
            node_gpu_s=self.node_use.gpu_s(),
            down=self.down,
            never_fits=self.never_fits,
        )

    def _waited_pod_s(self) -> dict[int, NDArray[np.float64]]:
        """Return pod-seconds without a node per `coded` reason and job."""
        by_reason: dict[int, NDArray[np.float64]] = {}
        for (job, reason), pod_s in self.pending_pod_s.items():
            column = by_reason.setdefault(reason, np.zeros(self.work.num_jobs))
            column[job] += pod_s
        return by_reason

    @property
    def _now_us(self) -> int:
        now_us: int = self.env.now  # type: ignore[assignment]
        return now_us

    @property
    def _now_s(self) -> float:
        return self.env.now / 1e6

    def _peek_s(self) -> float:
        return self.env.peek() / 1e6

    def _at(
        self, time_s: float, callback: Callable[[simpy.Event], None], value: object = None
    ) -> None:
        delay_us = max(0, to_us(time_s) - self._now_us)
        event = simpy.Timeout(self.env, delay_us, value)
        assert event.callbacks is not None
        event.callbacks.append(callback)

    # -- arrivals and departures ---------------------------------------------------------

    def _schedule_arrival(self) -> None:
        if self._next < self.work.num_jobs:
            self._at(self._ready_s[self._next], self._arrive)

    def _arrive(self, _: simpy.Event) -> None:
        work = self.work
        ready_s = self._ready_s
        now_s = ready_s[self._next]
        while self._next < work.num_jobs and ready_s[self._next] <= now_s:
            job = self._next
            self._next += 1
            if self._can_ever_fit(job):
                self._create(job, self._now_s)
            else:
                self.never_fits.append(job)
        self._schedule_arrival()
        self._settle()

    def _can_ever_fit(self, job: int) -> bool:
        roles = self.work.roles[job]
        return all(
            self.capacity.total_slots(role.pod, role.selector) >= role.count for role in roles
        ) and self.work.gpus[job] <= sum(g.num_nodes * g.gpus_each for g in self.capacity.groups)

    def _create(self, job: int, now_s: float) -> None:
        plane = self.config.control_plane
        starting_s = plane.start_warm_s * (
            1.0 + plane.start_jitter_ratio * self.work.jitter(job, self._tries[job])
        )
        if self._tries[job] and self._left_s[job] < self.work.duration_s[job]:
            starting_s += self.config.faults.restart_overhead_s
        starting_s = _whole_us(starting_s)
        roles = self.work.roles[job]
        known = self._shapes
        shapes = [known.setdefault((role.pod, role.selector), len(known)) for role in roles]
        attempt = Attempt(job, [role.count for role in roles], shapes, now_s, starting_s)
        self._live[job] = attempt
        self._wait(attempt, {_CONTROL_PLANE: (self.work.num_pods[job], self.work.gpus[job])}, now_s)
        self._push(attempt, now_s, 0)

    def _push(self, attempt: Attempt, queued_s: float, turn: int) -> None:
        """Queue the active pods; pods queued at the same time take turns, one by one."""
        if self._is_permit:  # coscheduling sorts by the time the group was made
            queued_s = self.work.submit_s[attempt.job]
        priority = self.work.priority[attempt.job]
        job = attempt.job
        # An attempt that is over may still stand in the queue: its number tells it from the next.
        heappush(self._active, (-priority, queued_s, turn, job, self._tries[job], attempt))

    def _finish(self, event: simpy.Event) -> None:
        attempt = cast(Attempt, event.value)
        if not attempt.is_over:
            self._end(attempt, COMPLETED, self._now_s)
            self._capacity_freed(self._now_s)
        self._settle()

    def _time_out(self, event: simpy.Event) -> None:
        """The first rank's wait for the last one has timed out."""
        attempt = cast(Attempt, event.value)
        now_s = self._now_s
        if attempt.is_over or attempt.run_s <= now_s:
            return
        if self._is_permit:
            if attempt.run_s < inf or self._has_quorum(attempt):
                return
            outcome = PERMIT_TIMEOUT
        else:
            outcome = RENDEZVOUS_TIMEOUT
        self._end(attempt, outcome, now_s)
        self._retry_later(attempt.job, now_s)
        self._capacity_freed(now_s)
        self._settle()

    def _retry_later(self, job: int, now_s: float) -> None:
        times = min(self._tries[job] - 1, 30)
        if self._is_permit:
            plane = self.config.control_plane
            delay_s = min(plane.backoff_initial_s * 2.0**times, plane.backoff_max_s)
        else:
            limits = self.config.timeouts
            delay_s = min(limits.restart_backoff_s * 2.0**times, limits.restart_backoff_max_s)
            delay_s *= 0.5 + self.work.jitter(job, self._tries[job])
        self._backing_off[job] = now_s
        self.log.add(now_s, _BACKOFF, self.work.num_pods[job], self.work.gpus[job])
        self._at(now_s + delay_s, self._create_again, job)

    def _create_again(self, event: simpy.Event) -> None:
        job = cast(int, event.value)
        self._wait_in_backoff(job, self._backing_off.pop(job), self._now_s)
        self._create(job, self._now_s)
        self._settle()

    def _wait_in_backoff(self, job: int, since_s: float, now_s: float) -> None:
        self.log.add(now_s, _BACKOFF, -self.work.num_pods[job], -self.work.gpus[job])
        key = (job, _BACKOFF)
        waited = (now_s - since_s) * self.work.num_pods[job]
        self.pending_pod_s[key] = self.pending_pod_s.get(key, 0.0) + waited

    # -- nodes ---------------------------------------------------------------------------

    def _node_lost(self, event: simpy.Event) -> None:
        node, end_s = cast(tuple[int, float], event.value)
        now_s = self._now_s
        if node in self.capacity.unschedulable:
            return
        for attempt in list(self._live.values()):
            if any(lo <= node < hi for b in attempt.batches for _, lo, hi, _ in b.slices):
                self._end(attempt, NODE_LOST, now_s)
                self._create(attempt.job, now_s)
        self.capacity.set_status(node, NodeStatus.DOWN)
        end_s = _whole_us(end_s)  # as the clock has it: the books count from there
        self.down.append((now_s, end_s, node))
        if self._next < self.work.num_jobs or self._live or self._backing_off:
            self._at(end_s, self._node_returned, node)
        self._capacity_freed(now_s)
        self._settle()

    def _node_returned(self, event: simpy.Event) -> None:
        self.capacity.set_status(cast(int, event.value), NodeStatus.SCHEDULABLE)
        self._capacity_freed(self._now_s)
        self._settle()

    # -- the scheduler -------------------------------------------------------------------

    def _settle(self) -> None:
        self.num_events += 1
        if self._peek_s() > self._now_s and not self._busy:
            self._serve(self._now_s)
        if (
            self._progress is not None
            and not self.num_events & 255
            and perf_counter() - self._reported_s > 0.1
        ):
            self._reported_s = perf_counter()
            self._progress(self._now_s, self.num_events)

    def _serve(self, clock_s: float) -> None:
        """Work through the active queue until it is empty or the next event is due."""
        now_s, peek_s = self._now_s, self._peek_s()
        active, backoff = self._active, self._backoff
        while True:
            while backoff and backoff[0][0] <= clock_s:
                self._activate(heappop(backoff)[3])
            if not active:
                break
            if clock_s > now_s and clock_s >= peek_s:
                self._busy = True
                self._at(clock_s, self._free_again)
                return
            key = heappop(active)
            attempt = key[5]
            if attempt.is_over:
                continue
            next_s = peek_s
            if backoff and backoff[0][0] < next_s:
                next_s = backoff[0][0]
            role_at = 0
            while not attempt.active[role_at]:
                role_at += 1
            if attempt.shapes[role_at] in self._misfits:
                clock_s += self._fail(attempt, role_at, key[1], key[2], clock_s, next_s - clock_s)
            else:
                clock_s += self._try(attempt, role_at, key[1], key[2], clock_s, next_s - clock_s)
                peek_s = self._peek_s()
        if clock_s > now_s:
            self._busy = True
            self._at(clock_s, self._free_again)
        elif backoff and backoff[0][0] != self._woken_s:
            self._woken_s = backoff[0][0]
            self._at(self._woken_s, self._wake)

    def _free_again(self, _: simpy.Event) -> None:
        self._busy = False
        self._settle()

    def _wake(self, _: simpy.Event) -> None:
        self._woken_s = inf
        self._settle()

    def _try(
        self,
        attempt: Attempt,
        role_at: int,
        queued_s: float,
        turn: int,
        now_s: float,
        within_s: float,
    ) -> float:
        """Try pods of one role; return the time it took.

        At least one pod is tried, and no more than can be done `within_s`.
        """
        role = self.work.roles[attempt.job][role_at]
        fit = self.capacity.slots(role.pod, role.selector)
        if not fit:
            self._misfits.add(attempt.shapes[role_at])
            return self._fail(attempt, role_at, queued_s, turn, now_s, within_s)
        plane = self.config.control_plane
        took_each_s = 1.0 / plane.schedule_per_s
        creating_s = self._creating_s(now_s)
        if creating_s:
            took_each_s /= plane.creating_ratio
            within_s = min(within_s, creating_s)
        count = min(self._in_turn(attempt, role_at, queued_s), fit)
        count = min(count, _how_many(within_s, took_each_s))
        attempt.active[role_at] -= count
        self._place(attempt, role_at, count, now_s)
        self._tried(attempt, queued_s, turn, now_s)
        return count * took_each_s

    def _fail(
        self,
        attempt: Attempt,
        role_at: int,
        queued_s: float,
        turn: int,
        now_s: float,
        within_s: float,
    ) -> float:
        """Try pods of a role that has no node; return the time it took."""
        took_each_s = self.config.control_plane.unschedulable_attempt_s
        count = self._in_turn(attempt, role_at, queued_s)
        if count * took_each_s > within_s:
            count = min(count, _how_many(within_s, took_each_s))
        took_s = count * took_each_s
        attempt.active[role_at] -= count
        attempt.failed[role_at] += count
        attempt.failed_s = now_s + took_s
        self._tried(attempt, queued_s, turn, now_s)
        return took_s

    def _in_turn(self, attempt: Attempt, role_at: int, queued_s: float) -> int:
        """Return how many pods of a role are tried before another gang's may be: one or all."""
        if not self._is_permit and self._active:
            following = self._active[0]
            if following[1] == queued_s and following[0] == -self.work.priority[attempt.job]:
                return 1
        return attempt.active[role_at]

    def _tried(self, attempt: Attempt, queued_s: float, turn: int, now_s: float) -> None:
        """Queue what is left to try, or set the attempt aside until capacity is freed."""
        if any(attempt.active):
            self._push(attempt, queued_s, turn + 1)
        elif any(attempt.failed):
            backoff_s = self._backoff_s[min(attempt.failures, 30)]
            attempt.failures += 1
            attempt.again_s = _whole_us(attempt.failed_s + backoff_s)
            self._parked.append(attempt)
            self._state_reasons(attempt, now_s)

    def _place(self, attempt: Attempt, role_at: int, count: int, now_s: float) -> None:
        job = attempt.job
        roles = self.work.roles[job]
        role = roles[role_at]
        slices = self._placer(self.capacity, Role(count, role.pod, role.selector), role_at)
        assert slices is not None
        self.capacity.take(roles, tuple(slices))
        batch = Batch(role_at, count, slices, now_s)
        attempt.batches.append(batch)
        attempt.placed += count
        attempt.unplaced -= count
        self._partial_gpus += count * role.pod.gpus
        self._state_reasons(attempt, now_s)
        if self._is_permit:
            self._wait_for_quorum(attempt, now_s)
        else:
            self._bind(batch, now_s)
            if attempt.first_up_s == inf:
                attempt.first_up_s = self._first_bound_s(batch) + attempt.starting_s
                deadline_s = _whole_us(attempt.first_up_s + self.config.timeouts.rendezvous_s)
                if attempt.unplaced or batch.bound_s + attempt.starting_s > deadline_s:
                    self._at(deadline_s, self._time_out, attempt)
        if not attempt.unplaced:
            run_s = _whole_us(max(b.bound_s for b in attempt.batches) + attempt.starting_s)
            limit_s = _whole_us(attempt.first_up_s + self.config.timeouts.rendezvous_s)
            if self._is_permit or run_s <= limit_s:
                attempt.run_s = run_s
                self._partial_gpus -= self.work.gpus[job]
                self._at(run_s + self._left_s[job], self._finish, attempt)

    def _wait_for_quorum(self, attempt: Attempt, now_s: float) -> None:
        if len(attempt.batches) == 1 and attempt.unplaced:
            self._at(now_s + self.config.timeouts.permit_s, self._time_out, attempt)
        if self._has_quorum(attempt):
            for batch in attempt.batches:
                if batch.asked_s == inf:
                    self._bind(batch, now_s)

    def _has_quorum(self, attempt: Attempt) -> bool:
        return attempt.placed >= self.work.min_member[attempt.job]

    def _bind(self, batch: Batch, now_s: float) -> None:
        batch.asked_s = now_s
        batch.begin_s, batch.tokens, bound_s = self._binder.bind(batch.pods, now_s)
        batch.bound_s = _whole_us(bound_s)

    def _first_bound_s(self, batch: Batch) -> float:
        creating_s = self._creating_s(batch.begin_s)
        plane = self.config.control_plane
        offset_s = bind_offset_s(1, batch.tokens, creating_s, plane)
        return batch.begin_s + offset_s + plane.bind_lag_s

    def _creating_s(self, now_s: float) -> float:
        if self.config.control_plane.creating_ratio == 1.0:
            return 0.0
        return self._creation.left_s(now_s)

    def _capacity_freed(self, now_s: float) -> None:
        """Queue again what found no node; pods still backing off come later."""
        self._misfits.clear()
        for attempt in self._parked:
            if attempt.is_over:
                continue
            if attempt.again_s <= now_s:
                self._activate(attempt)
            else:
                # an attempt that is over may still stand there: its number tells it from the next
                key = (attempt.again_s, attempt.job, self._tries[attempt.job])
                heappush(self._backoff, (*key, attempt))
        self._parked.clear()

    def _activate(self, attempt: Attempt) -> None:
        if not attempt.is_over:
            # none is active: what failed changes places with nothing
            attempt.active, attempt.failed = attempt.failed, attempt.active
            self._push(attempt, attempt.failed_s, 0)

    # -- records -------------------------------------------------------------------------

    def _state_reasons(self, attempt: Attempt, now_s: float) -> None:
        """Say why the unplaced pods wait, as of this try."""
        roles = self.work.roles[attempt.job]
        others_gpus = self._partial_gpus
        if attempt.batches and attempt.unplaced and attempt.run_s == inf:
            others_gpus -= sum(b.pods * roles[b.role].pod.gpus for b in attempt.batches)
        others_gpus = max(others_gpus, 0)
        counts: list[int] = []
        for at, role in enumerate(roles):
            apart = held = 0
            in_all, in_shape = _CAPACITY, _FRAGMENTATION
            short = attempt.failed[at]
            if short:
                free_pods, in_all, in_shape = self._room(role)
                apart = min(short, free_pods)
                short -= apart
                if in_all == _CAPACITY and role.pod.gpus:
                    held = min(short, others_gpus // role.pod.gpus)
                    short -= held
            counts += (attempt.active[at], apart, held, short, in_shape, in_all)
        if counts == attempt.counts:
            return
        attempt.counts = counts
        parts: dict[int, tuple[int, int]] = {}
        for at, role in enumerate(roles):
            *stated, in_shape, in_all = counts[6 * at : 6 * at + 6]
            reasons = (_CONTROL_PLANE, in_shape, _HELD_BY_OTHERS, in_all)
            for reason, pods in zip(reasons, stated, strict=True):
                if pods:
                    had = parts.get(reason, (0, 0))
                    parts[reason] = (had[0] + pods, had[1] + pods * role.pod.gpus)
        self._wait(attempt, parts, now_s)

    def _room(self, role: Role) -> tuple[int, int, int]:
        """Return for how many pods enough of everything is free, and what holds up others.

        The last two are `coded` reasons: what is short in all, and what is free apart.
        """
        asked = self.capacity.asked(role.pod, role.selector)
        if len(asked) == 1 and asked[0].name == GPUS:
            free_pods = self.capacity.free_gpus(role.selector) // role.pod.gpus
            return free_pods, _CAPACITY, _FRAGMENTATION
        _, free_pods, short, apart = outlook(self.capacity, (role,), self._placer)
        return free_pods, coded(_CAPACITY, short), coded(_FRAGMENTATION, apart)

    def _wait(self, attempt: Attempt, parts: dict[int, tuple[int, int]], now_s: float) -> None:
        """Replace the reasons of an attempt's unplaced pods."""
        if {reason: (pods, gpus) for reason, pods, gpus, _ in attempt.waiting} == parts:
            return
        for reason, pods, gpus, since_s in attempt.waiting:
            key = (attempt.job, reason)
            self.pending_pod_s[key] = self.pending_pod_s.get(key, 0.0) + (now_s - since_s) * pods
            self.log.add(now_s, reason % NUM_REASONS, -pods, -gpus)
        attempt.waiting = [(reason, pods, gpus, now_s) for reason, (pods, gpus) in parts.items()]
        for reason, pods, gpus, _ in attempt.waiting:
            self.log.add(now_s, reason % NUM_REASONS, pods, gpus)

    def _end(self, attempt: Attempt, outcome: int, now_s: float) -> None:
        """Close an attempt: give back what it holds and write its rows."""
        job = attempt.job
        roles = self.work.roles[job]
        attempt.is_over = True
        del self._live[job]
        self._wait(attempt, {}, now_s)
        ran_s = max(0.0, now_s - attempt.run_s)
        kept_s = ran_s
        if outcome == NODE_LOST:
            interval_us = to_us(self.config.faults.checkpoint_interval_s)
            kept_us = to_us(ran_s)
            kept_s = (kept_us - kept_us % interval_us if interval_us else kept_us) / 1e6
            self._left_s[job] -= kept_s
        num_nodes = 0
        role_gpus = self.work.role_gpus[job]
        number = len(self.attempts.job)
        for batch in attempt.batches:
            self.capacity.give_back(roles, batch.slices)
            num_nodes += self.node_use.add(role_gpus, batch.slices, now_s - batch.placed_s)
            self.batches.add(
                number,
                batch.placed_s,
                batch.asked_s,
                batch.begin_s,
                batch.tokens,
                batch.pods,
                role_gpus[batch.role],
            )
        if attempt.run_s == inf:
            self._partial_gpus -= sum(b.pods * role_gpus[b.role] for b in attempt.batches)
        is_placed = not attempt.unplaced
        self.attempts.add(
            job=job,
            created_s=attempt.created_s,
            admitted_s=max(b.placed_s for b in attempt.batches) if is_placed else inf,
            bound_s=max(b.bound_s for b in attempt.batches) if is_placed else inf,
            starting_s=attempt.starting_s,
            start_s=attempt.run_s,
            end_s=now_s,
            outcome=outcome,
            num_nodes=num_nodes,
            kept_s=kept_s,
        )
        self._tries[job] += 1


def _whole_us(seconds: float) -> float:
    """Return seconds, rounded to whole microseconds."""
    return to_us(seconds) / 1e6


def _how_many(within_s: float, each_s: float) -> int:
    """Return how many pods can be tried in this time: at least one."""
    if not each_s or within_s == inf:
        return 1 << 60
    return max(1, int(within_s / each_s))


def tightest(capacity: Capacity, role: Role, index: int) -> list[Slice]:
    """Place pods one by one on the fullest node that holds them; they must fit."""
    left = role.count
    chosen: list[Slice] = []
    for fit in capacity.fits(role.pod, role.selector):
        for _, room, nodes in sorted((free, room, nodes) for room, free, nodes in fit.sets()):
            whole = min(left // room, nodes.size)
            rest = left - whole * room if whole < nodes.size else 0
            ranges = nodes.lowest(whole + bool(rest)) if whole or rest else []
            for lo, hi in ranges:
                is_last = rest and (lo, hi) == ranges[-1]
                full_hi = hi - 1 if is_last else hi
                if lo < full_hi:
                    chosen.append(Slice(index, lo, full_hi, room))
                if is_last:
                    chosen.append(Slice(index, hi - 1, hi, rest))
            left -= whole * room + rest
            if not left:
                return chosen
    raise AssertionError(f"{left} of {role.count} pods do not fit")
