"""Queues with quota, simulated too simply to be wrong, and slow: docs/queues.md without evictions.

Usage is summed up from the jobs that run whenever it is asked for, and nothing is remembered from
one instant to the next. It shares no code with muster but the words of a queues file. Queues are
strict or skip; quota is for GPUs, and a flavor is the nodes of one GPU model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.core.queues import Holding, Queue, Queues, Quota, Search


@dataclass(eq=False)
class NaiveNode:
    """One machine."""

    name: str
    flavor: str
    gpus: int


@dataclass(eq=False)
class NaiveJob:
    """A gang of equal pods; an empty flavor allows any."""

    name: str
    queue: str
    submit_s: int
    duration_s: int
    num_pods: int
    gpus: int
    priority: int = 0
    flavor: str = ""
    start_s: int = -1  #: -1: it never started
    end_s: int = -1
    nodes: list[NaiveNode] = field(default_factory=list)  #: one for each pod

    @property
    def asks(self) -> int:
        """Return the GPUs of all pods."""
        return self.num_pods * self.gpus


class NaiveQueues:
    """One run."""

    def __init__(self, jobs: list[NaiveJob], nodes: list[NaiveNode], file: Queues) -> None:
        self.jobs = jobs
        self.nodes = nodes
        self.queues = {queue.name: queue for queue in file.queues}
        self.flavors = [flavor.name for flavor in file.flavors]
        self.parent = {queue.name: queue.cohort for queue in file.queues}
        self.parent |= {cohort.name: cohort.parent for cohort in file.cohorts}
        self.words = {one.name: one.quota for one in (*file.queues, *file.cohorts)}
        self.waiting: list[NaiveJob] = []
        self.running: list[NaiveJob] = []
        self.kept: list[tuple[str, str, int]] = []  #: by heads of this pass: queue, flavor, GPUs
        self.held: set[str] = set()  #: flavors whose nodes heads of this pass hold

    def run(self) -> None:
        """Fill in `start_s` and `nodes` of every job that can ever run."""
        to_come = list(self.jobs)
        while to_come or self.running:
            now_s = min([job.end_s for job in self.running] + [j.submit_s for j in to_come[:1]])
            self.running = [job for job in self.running if job.end_s > now_s]
            while to_come and to_come[0].submit_s <= now_s:
                job = to_come.pop(0)
                if self.could_ever_start(job):
                    self.waiting.append(job)
            while self.serve(now_s):
                pass

    # -- quota -------------------------------------------------------------------------------

    def children(self, node: str) -> list[str]:
        return [name for name, above in self.parent.items() if above == node]

    def quota(self, node: str, flavor: str) -> Quota:
        return self.words[node].get(flavor, {}).get("gpus", Quota(0))

    def subtree(self, node: str, flavor: str) -> int:
        lent = [self.subtree(c, flavor) - self.local(c, flavor) for c in self.children(node)]
        return self.quota(node, flavor).nominal + sum(lent)

    def local(self, node: str, flavor: str) -> int:
        lend = self.quota(node, flavor).lend
        return 0 if lend is None else max(0, self.subtree(node, flavor) - lend)

    def usage(self, node: str, flavor: str) -> int:
        if node in self.queues:
            used = [j.asks for j in self.running if (j.queue, j.nodes[0].flavor) == (node, flavor)]
            return sum(used) + sum(n for q, f, n in self.kept if (q, f) == (node, flavor))
        return sum(
            max(0, self.usage(c, flavor) - self.local(c, flavor)) for c in self.children(node)
        )

    def available(self, node: str, flavor: str, *, empty: bool = False) -> int:
        usage = 0 if empty else self.usage(node, flavor)
        subtree, local = self.subtree(node, flavor), self.local(node, flavor)
        if not self.parent[node]:
            return subtree - usage
        beyond = self.available(self.parent[node], flavor, empty=empty)
        borrow = self.quota(node, flavor).borrow
        if borrow is not None:
            beyond = min(beyond, subtree - local - max(0, usage - local) + borrow)
        return max(0, local - usage) + beyond

    def height(self, job: NaiveJob, flavor: str, *, empty: bool = False) -> int:
        """Return the height of the smallest subtree with room for the job in its own quota."""
        node, amount = job.queue, job.asks
        while True:
            used = 0 if empty else self.usage(node, flavor)
            if used + amount <= self.subtree(node, flavor) or not self.parent[node]:
                return self.depth(node)
            amount -= max(0, self.local(node, flavor) - used)
            node = self.parent[node]

    def depth(self, node: str) -> int:
        return max([1 + self.depth(child) for child in self.children(node)], default=0)

    def own(self, job: NaiveJob, flavor: str) -> int | None:
        """Return what is free of the quota that others can only have borrowed from the job."""
        node, rest, found = job.queue, job.asks, 0
        while rest > self.subtree(node, flavor):
            rest -= self.local(node, flavor)
            found += max(0, self.local(node, flavor) - self.usage(node, flavor))
            node = self.parent[node]
            if not node:
                return None
        if node != job.queue and not self.parent[node]:
            return None
        return found + min(rest, max(0, self.subtree(node, flavor) - self.usage(node, flavor)))

    def has_quota(self, job: NaiveJob, flavor: str) -> bool:
        if not self.parent[job.queue]:
            total = sum(node.gpus for node in self.nodes if node.flavor == flavor)
            if self.quota(job.queue, flavor).nominal >= total:
                return True  # nodes limit it before its quota can
        return job.asks <= self.available(job.queue, flavor)

    # -- flavors -----------------------------------------------------------------------------

    def allowed(self, job: NaiveJob) -> list[str]:
        """Return the flavors in which the job fits the empty nodes, in its queue's order."""
        queue = self.queues[job.queue]
        names = queue.flavors or [name for name in self.flavors if name in queue.quota]
        names = [name for name in names if job.flavor in ("", name)]
        return [name for name in names if self.choose(job, name, empty=True)]

    def could_ever_start(self, job: NaiveJob) -> bool:
        return any(
            job.asks <= self.available(job.queue, flavor, empty=True)
            for flavor in self.allowed(job)
        )

    def with_quota(self, job: NaiveJob) -> list[str]:
        found = [f for f in self.allowed(job) if self.has_quota(job, f)]
        if self.queues[job.queue].when_can_borrow is Search.TRY_NEXT:
            found.sort(key=lambda flavor: self.height(job, flavor))
        return found

    # -- a pass ------------------------------------------------------------------------------

    def serve(self, now_s: int) -> bool:
        """Start the first head that can start, and then others; False if no head can."""
        self.kept, self.held = [], set()
        heads = []
        for queue in self.queues.values():
            line = [job for job in self.waiting if job.queue == queue.name]
            fitting = self.with_quota(line[0]) if line else []
            kept = self.keeps(queue, line[0]) if line else []
            if fitting:
                heads.append((self.height(line[0], fitting[0]), line[0]))
            elif kept:
                heads.append((self.height(line[0], kept[0], empty=True), line[0]))
        heads.sort(key=lambda head: (head[0], -head[1].priority, self.jobs.index(head[1])))
        for _, job in heads:
            if self.start(job, now_s):
                self.kept = []
                return True
            if self.queues[job.queue].discipline is Holding.STRICT:
                self.hold(job)
        for job in list(self.waiting):
            if self.queues[job.queue].discipline is Holding.SKIP:
                self.start(job, now_s)
        self.kept = []
        return False

    def keeps(self, queue: Queue, job: NaiveJob) -> list[str]:
        """Return the flavors of which a head keeps its own quota, if it lacks quota in all."""
        if queue.discipline is not Holding.STRICT:
            return []
        return [flavor for flavor in self.allowed(job) if self.own(job, flavor)]

    def hold(self, job: NaiveJob) -> None:
        found = self.with_quota(job)
        if found:
            self.held |= set(found)
            self.kept.append((job.queue, found[0], job.asks))
            return
        for flavor in self.keeps(self.queues[job.queue], job)[:1]:
            self.kept.append((job.queue, flavor, self.own(job, flavor) or 0))

    def start(self, job: NaiveJob, now_s: int) -> bool:
        """Start a job in the first flavor with quota and nodes that nobody holds."""
        for flavor in self.with_quota(job):
            nodes = [] if flavor in self.held else self.choose(job, flavor)
            if nodes:
                self.waiting.remove(job)
                self.running.append(job)
                job.start_s, job.end_s, job.nodes = now_s, now_s + job.duration_s, nodes
                return True
        return False

    def choose(self, job: NaiveJob, flavor: str, *, empty: bool = False) -> list[NaiveNode]:
        """Return a node for each pod, as few as there can be, and then the fullest; or none."""
        nodes = [node for node in self.nodes if node.flavor == flavor]
        free = [node.gpus - (0 if empty else self.used(node)) for node in nodes]
        chosen: list[NaiveNode] = []
        while len(chosen) < job.num_pods:
            left = job.num_pods - len(chosen)
            rooms = [(n // job.gpus, n, at) for at, n in enumerate(free) if n >= job.gpus]
            if not rooms:
                return []
            enough = [room for room in rooms if room[0] >= left]
            if enough:
                _, _, at = min(enough)
            else:
                most = max(room for room, _, _ in rooms)
                _, at = min((n, at) for room, n, at in rooms if room == most)
            pods = min(left, free[at] // job.gpus)
            free[at] -= pods * job.gpus
            chosen += [nodes[at]] * pods
        return chosen

    def used(self, node: NaiveNode) -> int:
        return sum([job.gpus * job.nodes.count(node) for job in self.running])
