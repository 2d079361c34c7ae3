"""Kueue's scheduling cycle around the product's functions, for tests only.

Rules that only this driver has: when a refused gang is tried again (parked by its shape, woken by
its tree, sticky while it preempts), the flavor at which its search goes on, what a head keeps that
finds no victims, starts with fewer pods, and that several heads of one cycle are decided against
one picture of what runs, so that victims of two of them may overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scheduler.core.queues import Holding, Victims
from scheduler.core.quota import NO_LIMIT, Amounts, QuotaTree
from scheduler.core.times import to_us
from scheduler.policies.contest import Attempt, Contest, Victim
from scheduler.policies.flavors import Assignment, Mode, assign, flavors_of
from scheduler.policies.heads import Head, Tournament, by_borrowing
from scheduler.policies.victims import victims
from tests.golden import kueue
from tests.golden.kueue_words import Fields


class Job:
    """A gang over its life."""

    def __init__(self, of: Contest, one: Fields) -> None:
        self.name = one["name"]
        self.words = one
        self.gang = kueue.contender(of, one)
        self.pods = one.get("pods", 1)
        self.min_pods = one.get("min_pods", self.pods)
        self.each = {name: amount // self.pods for name, amount in one["request"].items()}
        each = tuple(sorted(self.each.items()))
        #: gangs of one shape are parked together
        self.shape = (self.gang.priority, each, self.pods, self.min_pods)
        #: the flavor tried last, if others are left, in which cycle, and departures until then
        self.tried: tuple[int, int, int] | None = None

    def request(self, pods: int) -> dict[str, int]:
        return {name: amount * pods for name, amount in self.each.items()}

    @property
    def order(self) -> tuple[int, int, str]:
        return (-self.gang.priority, self.gang.submit_us, self.name)


class Line:
    """A queue: who is active, who is parked, and who sticks to the head."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.active: list[Job] = []
        self.parked: list[Job] = []
        self.parked_shapes: set[tuple[Any, ...]] = set()
        self.sticky: Job | None = None
        self.departures = 0  #: gangs that left its running set

    def arrive(self, job: Job) -> None:
        (self.parked if job.shape in self.parked_shapes else self.active).append(job)

    def pop(self) -> Job:
        first = min(self.active, key=lambda job: (job is not self.sticky, job.order))
        self.active.remove(first)
        return first

    def park(self, job: Job) -> None:
        """Park a gang with all of its shape, and those that will arrive."""
        self.parked_shapes.add(job.shape)
        alike = [other for other in self.active if other.shape == job.shape]
        self.parked += [job, *alike]
        self.active = [other for other in self.active if other not in alike]

    def wake(self) -> None:
        self.active += self.parked
        self.parked = []
        self.parked_shapes = set()


class Entry:
    """A head in a cycle: what it was nominated with, and what became of it."""

    def __init__(self, job: Job, pods: int, found: Assignment, evicts: list[Victim]) -> None:
        self.job = job
        self.pods = pods
        self.found = found
        self.nominated = found
        self.evicts = evicts
        gang = job.gang
        self.head = Head(
            gang.name, gang.queue, gang.priority, gang.submit_us, found.amounts, found.height
        )
        self.status = self.reason = self.requeue = ""
        self.deferred = False


class Cycles:
    """The steps of a scenario."""

    def __init__(self, fields: Fields) -> None:
        self.of = kueue.contest(fields)
        self.tree = self.of.tree
        self.lines = [Line(words.discipline is Holding.STRICT) for words in self.tree.queues]
        self.jobs = {one["name"]: Job(self.of, one) for one in fields["running"]}
        for running in self.of.running:
            for gang in running:
                self.jobs[gang.name].gang = gang
        self.number = 0  #: of cycles
        self.woken: set[int] = set()  #: roots of trees where something left

    def step(self, step: Fields) -> Any:
        """Carry one step out and return what there is to say about it."""
        if step["op"] == "submit":
            for one in step["submit"]:
                job = self.jobs[one["name"]] = Job(self.of, one)
                self.lines[job.gang.queue].arrive(job)
            return None
        if step["op"] == "finish":
            for name in step["workloads"]:
                job = self.jobs.get(name)
                if job is not None and self.runs(job) and not job.gang.leaving:
                    self.leave(job)
            return None
        if step["op"] == "release":
            return {"released": self.release()}
        return self.cycle(to_us(step["at"]))

    def runs(self, job: Job) -> bool:
        return job.gang in self.of.running[job.gang.queue]

    def leave(self, job: Job) -> None:
        gang = job.gang
        self.of.running[gang.queue].remove(gang)
        self.tree.give_back(gang.queue, gang.amounts)
        self.lines[gang.queue].departures += 1
        self.woken.add(self.tree.root(gang.queue))

    def release(self) -> list[str]:
        gone = sorted(g.name for running in self.of.running for g in running if g.leaving)
        for name in gone:
            job = self.jobs[name]
            self.leave(job)
            job.gang = kueue.contender(self.of, job.words)
            self.lines[job.gang.queue].arrive(job)
        return gone

    # -- a cycle -----------------------------------------------------------------------------

    def cycle(self, at_us: int) -> Fields:
        for queue, line in enumerate(self.lines):
            if self.tree.root(queue) in self.woken:
                line.wake()
        self.woken.clear()
        heads = [line.pop() for line in self.lines if line.active]
        if not heads:
            return {"idle": True, "parked": self.names("parked")}
        self.number += 1
        waiting = [self.nominate(job) for job in heads]
        done: list[Entry] = []
        taken = self.tree.begin_trial()  # what heads take or hold in this cycle
        evicted: dict[str, Victim] = {}
        order = sorted((entry.head for entry in waiting), key=by_borrowing)
        by_share = Tournament(self.tree, order) if self.of.rules else None
        for first in order:
            head = first if by_share is None else by_share.next()
            entry = next(entry for entry in waiting if entry.head is head)
            waiting.remove(entry)
            self.serve(entry, evicted)
            done.append(entry)
        self.tree.undo_trial(taken)
        told = self.carried_out(done, evicted, at_us)
        for entry in done:
            self.put_back(entry)
        return {
            **told,
            "active": self.names("active"),
            "parked": self.names("parked"),
        }

    def nominate(self, job: Job) -> Entry:
        """Decide a head against what runs at the start of the cycle."""
        full = self.decided(job, job.pods)
        if full.found.mode is Mode.FIT or full.evicts or job.min_pods == job.pods:
            self.remember(job, full.found)
            return full
        # binary search for the most pods that fit or have victims
        low, high, best = 0, job.pods - job.min_pods + 1, None
        while low < high:
            middle = (low + high) // 2
            tried = self.decided(job, job.pods - middle)
            if tried.found.mode is Mode.FIT or tried.evicts:
                high, best = middle, tried
            else:
                low = middle + 1
        found = best or full
        self.remember(job, found.found)
        return found

    def decided(self, job: Job, pods: int, only: list[str] | None = None) -> Entry:
        first = 0 if only is not None else self.first_flavor(job)
        found = assign(self.of, job.gang, [job.request(pods)], [first], only)
        evicts = []
        if Mode.NO_FIT < found.mode < Mode.FIT:
            evicts = victims(self.of, job.gang, found.amounts, found.short)
        return Entry(job, pods, found, evicts)

    def first_flavor(self, job: Job) -> int:
        if job.tried is None:
            return 0
        last, number, departures = job.tried
        fresh = number == self.number - 1
        same = departures == self.lines[job.gang.queue].departures
        return last + 1 if fresh or same else 0

    def remember(self, job: Job, found: Assignment) -> None:
        last = found.roles[0].tried
        left = last + 1 < len(flavors_of(self.tree, job.gang.queue))
        usable = found.mode > Mode.NO_FIT
        departures = self.lines[job.gang.queue].departures
        job.tried = (last, self.number, departures) if left and usable else None

    def serve(self, entry: Entry, evicted: dict[str, Victim]) -> None:
        """Decide a head at its turn, and count what it takes or holds."""
        tree, queue = self.tree, entry.job.gang.queue
        if any(victim.gang.name in evicted for victim in entry.evicts):
            self.nominate_again(entry, evicted)
            if entry.deferred:
                tree.take(queue, entry.found.amounts)
                return
        if entry.found.mode <= Mode.NO_FIT:
            never = entry.found.mode is Mode.NEVER_FITS
            entry.reason = "ExceedsMaxQuota" if never else "WaitingForQuota"
            entry.requeue = "NoFit"
            return
        if entry.found.mode is not Mode.FIT and not entry.evicts:
            entry.reason, entry.requeue = "WaitingForQuota", "PreemptionNoCandidates"
            tree.take(queue, kept(tree, entry.head))
            return
        gone = [*evicted.values(), *entry.evicts]
        with without(self.of, entry, gone) as attempt:
            fits = attempt.fits()
        if not fits:
            entry.status, entry.reason = "skipped", "WaitingForQuota"
            return
        tree.take(queue, entry.found.amounts)
        if entry.found.mode is Mode.FIT:
            entry.status = "assumed"
        else:
            entry.reason, entry.requeue = "WaitingForPreemptedWorkloads", "PendingPreemption"
            for victim in entry.evicts:
                evicted[victim.gang.name] = victim

    def nominate_again(self, entry: Entry, evicted: dict[str, Victim]) -> None:
        """Decide a head anew with the victims of earlier heads gone."""
        gone = {victim.gang for victim in evicted.values()}
        running = self.of.running
        with without(self.of, entry, list(evicted.values())):
            self.of.running = [[g for g in gangs if g not in gone] for gangs in running]
            only = [role.flavor for role in entry.found.roles]
            again = self.decided(entry.job, entry.pods, only)
        self.of.running = running
        entry.found, entry.evicts, entry.head = again.found, again.evicts, again.head
        if again.found.mode is Mode.FIT:
            entry.deferred = True
            entry.reason, entry.requeue = "WaitingForPreemptedWorkloads", "PendingPreemption"

    def carried_out(self, done: list[Entry], evicted: dict[str, Victim], at_us: int) -> Fields:
        admitted = {}
        told = {}
        for entry in done:
            gang = entry.job.gang
            if entry.status == "assumed":
                gang.amounts, gang.admitted_us = entry.found.amounts, at_us
                self.tree.take(gang.queue, gang.amounts)
                self.of.running[gang.queue].append(gang)
                flavors = kueue.flavors(self.of, entry.found, modes=False)
                admitted[gang.name] = {"flavors": flavors, "pods": entry.pods}
        for name, victim in evicted.items():
            if not victim.gang.leaving:
                victim.gang.leaving = True
                told[name] = kueue.REASONS[victim.why]
        order = [self.line_of(entry) for entry in done]
        return {"order": order, "admitted": admitted, "evicted": told}

    def line_of(self, entry: Entry) -> Fields:
        mode = "DeferredFit" if entry.deferred else kueue.MODES[entry.found.mode]
        line = {
            "workload": entry.job.name,
            "nominated": kueue.MODES[entry.nominated.mode],
            "mode": mode,
            "borrowing": entry.found.height,
            "status": entry.status,
        }
        if entry.reason:
            line["reason"] = entry.reason
        if entry.requeue:
            line["requeue"] = entry.requeue
        if entry.found.mode > Mode.NO_FIT:
            line["flavors"] = kueue.flavors(self.of, entry.found, modes=False)
        if entry.evicts:
            line["victims"] = sorted([v.gang.name, kueue.REASONS[v.why]] for v in entry.evicts)
        return line

    def put_back(self, entry: Entry) -> None:
        """Return a head that did not start to its queue, to be tried again or to be parked."""
        job, line = entry.job, self.lines[entry.job.gang.queue]
        if entry.status == "assumed":
            job.tried = None
            if line.sticky is job:
                line.sticky = None
            return
        if entry.requeue == "PendingPreemption":
            job.tried = None
            if not line.strict:
                line.sticky = job
        again = entry.status == "skipped" or entry.requeue == "PendingPreemption"
        if line.strict or again or job.tried is not None:
            line.active.append(job)
        else:
            line.park(job)

    def names(self, which: str) -> dict[str, list[str]]:
        """Return who is active, or parked, by queue."""
        found = {
            self.tree.names[queue]: sorted(job.name for job in getattr(line, which))
            for queue, line in enumerate(self.lines)
        }
        return {queue: names for queue, names in found.items() if names}


def kept(tree: QuotaTree, head: Head) -> Amounts:
    """Return what a head that finds no victims keeps from later heads of its cycle.

    That is up to its queue's own quota, or up to its limit if it borrows; nothing if its queue may
    reclaim from anybody, as it can have that back at any time.
    """
    queue = head.queue
    if tree.queues[queue].reclaim is Victims.ANY:
        return ()
    found = []
    for cell, amount in head.amounts:
        most = tree.nominal[queue][cell]
        if head.height > 0:
            limit = tree.borrow[queue][cell]
            most = most + limit if limit != NO_LIMIT else amount + tree.usage[queue][cell]
        left = min(amount, most - tree.usage[queue][cell])
        if left > 0:
            found.append((cell, left))
    return tuple(found)


@contextmanager
def without(of: Contest, entry: Entry, gone: list[Victim]) -> Iterator[Attempt]:
    """Try a head with these victims gone."""
    with Attempt(of, entry.job.gang, entry.found.amounts, ()) as attempt:
        for victim in gone:
            attempt.evict(victim.gang, victim.why)
        yield attempt
