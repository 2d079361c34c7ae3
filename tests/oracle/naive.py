"""A simulator of gang admission that is too simple to be wrong, and slow.

One object per pod and per node, plain lists, everything recomputed at every event. It shares no
code with muster: it follows docs/simulator.md from the jobs table to start and end of each job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf


def exact(seconds: float) -> float:
    """Return whole microseconds, in which the simulator counts; half of one goes to the even."""
    return round(seconds * 1e6) / 1e6 if seconds < inf else inf


@dataclass(eq=False)
class NaiveNode:
    """One machine and the pods on it."""

    index: int
    gpus: int
    pods: list[NaivePod] = field(default_factory=list)

    def free(self) -> int:
        """Return the GPUs that no pod holds."""
        return self.gpus - sum([pod.gpus for pod in self.pods])


@dataclass(eq=False)
class NaivePod:
    """One rank."""

    job: NaiveJob
    gpus: int
    bound_s: float = inf


@dataclass(eq=False)
class NaiveJob:
    """One gang; `pods` lists its ranks' GPUs, larger ones first."""

    name: str
    submit_s: float
    duration_s: float
    walltime_s: float
    pods: list[int]
    starting_s: float = 0.0  #: from the last bind to running
    start_s: float = inf
    end_s: float = inf


@dataclass
class NaiveBinder:
    """Binds pods one after the other: at most `rate` per second, and one token each."""

    rate: float = inf
    qps: float = inf
    burst: float = 1.0

    def __post_init__(self) -> None:
        self.free_s = 0.0
        self.tokens = self.burst

    def bind(self, pods: list[NaivePod], now_s: float) -> float:
        """Bind all pods; return the time of the last bind."""
        begin_s = max(now_s, self.free_s)
        if self.qps == inf:
            for k, pod in enumerate(pods, 1):
                pod.bound_s = begin_s + k / self.rate
            self.free_s = pods[-1].bound_s
            return self.free_s
        tokens = min(self.burst, self.tokens + (begin_s - self.free_s) * self.qps)
        for k, pod in enumerate(pods, 1):
            pod.bound_s = begin_s + max(k / self.rate, (k - tokens) / self.qps, 0.0)
        self.free_s = pods[-1].bound_s
        refilled = tokens + (self.free_s - begin_s) * self.qps
        self.tokens = min(self.burst, max(0.0, refilled - len(pods)))
        return self.free_s


class NaiveGangs:
    """One run in gang mode, first come first served."""

    def __init__(
        self,
        jobs: list[NaiveJob],
        node_gpus: list[int],
        discipline: str,
        binder: NaiveBinder | None = None,
    ) -> None:
        self.jobs = jobs
        self.nodes = [NaiveNode(i, gpus) for i, gpus in enumerate(node_gpus)]
        self.discipline = discipline
        self.binder = binder or NaiveBinder()
        self.queue: list[NaiveJob] = []
        self.running: list[NaiveJob] = []
        self.nodes_of: dict[NaiveJob, list[NaiveNode]] = {}

    def run(self) -> None:
        """Fill in `start_s` and `end_s` of every job that can run."""
        to_come = list(self.jobs)
        while to_come or self.running:
            now_s = min([job.end_s for job in self.running] + [j.submit_s for j in to_come[:1]])
            for job in [job for job in self.running if job.end_s <= now_s]:
                self.leave(job)
            while to_come and to_come[0].submit_s <= now_s:
                self.queue.append(to_come.pop(0))
            self.decide(now_s)

    def decide(self, now_s: float) -> None:
        while self.queue and self.start(self.queue[0], now_s):
            pass
        if not self.queue or self.discipline == "strict":
            return
        head, others = self.queue[0], self.queue[1:]
        shadow_s = self.shadow(head, now_s) if self.discipline == "easy" else inf
        num_free = sum(node.free() for node in self.nodes)
        for job in others:
            if sum(job.pods) > num_free:
                continue
            chosen = self.choose(job)
            if chosen is not None and (
                self.discipline == "skip" or self.is_harmless(job, chosen, head, shadow_s, now_s)
            ):
                self.start(job, now_s)
                num_free -= sum(job.pods)

    # -- placement ---------------------------------------------------------------------------

    def choose(self, job: NaiveJob) -> list[NaiveNode] | None:
        """Return a node for each pod: as few nodes as there can be, and then the fullest."""
        free = [node.free() for node in self.nodes]
        chosen: list[NaiveNode] = []
        for gpus in dict.fromkeys(job.pods):
            left = job.pods.count(gpus)
            while left:
                rooms = [
                    (amount // gpus, amount, i) for i, amount in enumerate(free) if amount >= gpus
                ]
                if not rooms:
                    return None
                enough = [room for room in rooms if room[0] >= left]
                if enough:
                    _, _, at = min(enough)
                else:
                    most = max(room for room, _, _ in rooms)
                    _, at = min((amount, i) for room, amount, i in rooms if room == most)
                pods = min(left, free[at] // gpus)
                free[at] -= pods * gpus
                left -= pods
                chosen += [self.nodes[at]] * pods
        return chosen

    def start(self, job: NaiveJob, now_s: float) -> bool:
        """Start `job` if it fits."""
        chosen = self.choose(job)
        if chosen is None:
            return False
        pods = [NaivePod(job, gpus) for gpus in job.pods]
        for node, pod in zip(chosen, pods, strict=True):
            node.pods.append(pod)
        self.queue.remove(job)
        self.running.append(job)
        self.nodes_of[job] = list(dict.fromkeys(chosen))
        bound_s = now_s if self.binder.rate == inf else self.binder.bind(pods, now_s)
        job.start_s = exact(exact(bound_s) + exact(job.starting_s))
        job.end_s = exact(job.start_s + job.duration_s)
        return True

    def leave(self, job: NaiveJob) -> None:
        self.running.remove(job)
        for node in self.nodes_of.pop(job):
            node.pods = [pod for pod in node.pods if pod.job is not job]

    # -- EASY --------------------------------------------------------------------------------

    def shadow(self, head: NaiveJob, now_s: float) -> float:
        """Return the first time at which `head`, of equal pods, fits if jobs keep to walltimes."""
        free = [node.free() for node in self.nodes]
        found_s = inf
        for end_s, job in self.ends(now_s):
            if found_s < inf:
                break
            for node in self.nodes_of[job]:
                free[node.index] += sum([pod.gpus for pod in node.pods if pod.job is job])
            if sum([amount // head.pods[0] for amount in free]) >= len(head.pods):
                found_s = end_s
        return found_s

    def ends(self, now_s: float) -> list[tuple[float, NaiveJob]]:
        """Return when running jobs are expected to end, the first one first."""
        ends = [(max(exact(job.start_s + job.walltime_s), now_s), job) for job in self.running]
        return sorted(ends, key=lambda end: end[0])

    def is_harmless(
        self,
        job: NaiveJob,
        chosen: list[NaiveNode],
        head: NaiveJob,
        shadow_s: float,
        now_s: float,
    ) -> bool:
        """True if `head` can start at its shadow time although `job` starts now on `chosen`."""
        if job.walltime_s <= exact(shadow_s - now_s):
            return True
        if shadow_s == inf:
            return False
        over = {job for end_s, job in self.ends(now_s) if end_s <= shadow_s}
        then = [
            node.gpus - sum([pod.gpus for pod in node.pods if pod.job not in over])
            for node in self.nodes
        ]
        for node, gpus in zip(chosen, job.pods, strict=True):
            then[node.index] -= gpus
        return sum([amount // head.pods[0] for amount in then]) >= len(head.pods)
