"""What peers do differently from the textbook, rebuilt over the core's own parts.

Nothing here is a policy of muster. `drive` feeds events to `apply` and `decide` like the
simulator does, without control plane or records, and can do what the simulator must not: run a
pass after every single event, and expect running gangs to end at another time than they said
while they waited.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import pandas as pd

from scheduler.core import placement
from scheduler.core.capacity import Capacity
from scheduler.core.decisions import Admit
from scheduler.core.events import (
    Admitted,
    ForeignPodBound,
    ForeignPodGone,
    GangFinished,
    GangSubmitted,
)
from scheduler.core.model import Gang, Node, PodShape, Role, Slice
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US, ends_us, to_s, to_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.policy import Policy
from scheduler.policies.spec import PolicySpec
from scheduler.policies.strict import strict


class Job(NamedTuple):
    """One row of a peer's trace; jobs are submitted in the order in which they are given."""

    name: str
    submit_s: float
    duration_s: float
    roles: tuple[Role, ...]
    walltime_s: float  #: what backfill believes while the job waits
    estimate_s: float  #: what backfill believes while it runs


class Start(NamedTuple):
    """When and where a job began."""

    start_s: float
    gpus_on_node: dict[int, int]


def drive(
    jobs: Sequence[Job],
    nodes: Iterable[Node],
    policy: Policy,
    *,
    pass_per_event: bool = False,
    forget: bool = False,
) -> dict[str, Start]:
    """Return the start of every job.

    Events come in order of time, then completions before submissions, then as they were made.
    One pass follows the last event of an instant, or, with `pass_per_event`, every event.
    With `forget` each pass looks at the whole queue again.
    """
    state = ClusterState(nodes, policy.order)
    starts: dict[str, Start] = {}
    completions: list[tuple[int, int, str]] = []
    by_name = {job.name: job for job in jobs}
    submit_us = [to_us(job.submit_s) for job in jobs]
    following = 0
    while completions or following < len(jobs):
        next_submit_us = submit_us[following] if following < len(jobs) else FOREVER_US
        if completions and completions[0][0] <= next_submit_us:
            now_us, _, name = heappop(completions)
            apply(state, GangFinished(name))
        else:
            job = jobs[following]
            now_us = submit_us[following]
            walltime_us = to_us(job.walltime_s)
            gang = Gang(job.name, job.roles, now_us, walltime_us, ordinal=following)
            apply(state, GangSubmitted(gang))
            following += 1
        more = (completions and completions[0][0] == now_us) or (
            following < len(jobs) and submit_us[following] == now_us
        )
        if pass_per_event or not more:
            if forget:
                _forget(state)
            for admit in _pass(state, policy, now_us):
                job = by_name[admit.gang]
                end_us = ends_us(now_us, to_us(job.estimate_s))
                starts[admit.gang] = Start(to_s(now_us), _gpus_on_node(job.roles, admit.placement))
                apply(state, Admitted(admit.gang, admit.placement, now_us, end_us))
                heappush(completions, (now_us + to_us(job.duration_s), len(starts), job.name))
    return starts


def _forget(state: ClusterState) -> None:
    """Make the next pass plan from scratch: a pod of no size comes and goes.

    The core remembers that what could not be backfilled cannot become possible while nothing ends.
    That holds while gangs are expected to end as they said when they waited, and not otherwise.
    """
    apply(state, ForeignPodBound("none", state.capacity.nodes[0].name, PodShape(0)))
    apply(state, ForeignPodGone("none"))


def _pass(state: ClusterState, policy: Policy, now_us: int) -> Iterable[Admit]:
    """Yield what one pass admits; the caller carries each out before it takes the next."""
    complete = False
    while not complete:
        for decision in decide(state, policy, now_us):
            if isinstance(decision, Admit):
                yield decision
                complete = False
            else:
                apply(state, decision)
                complete = True


def _gpus_on_node(roles: tuple[Role, ...], slices: Iterable[Slice]) -> dict[int, int]:
    gpus: dict[int, int] = {}
    for role, lo, hi, pods_per_node in slices:
        for node in range(lo, hi):
            gpus[node] = gpus.get(node, 0) + pods_per_node * roles[role].pod.gpus
    return gpus


def pool(num_gpus: int) -> list[Node]:
    """Return a pool of GPUs that jobs share without fragmentation: one node."""
    return [Node("pool", PodShape(num_gpus))]


def whole_nodes(num_nodes: int) -> list[Node]:
    """Return nodes of 8 GPUs in index order."""
    return [Node(f"node-{i:06}", PodShape(8)) for i in range(num_nodes)]


def consolidated(gpus: int) -> tuple[Role, ...]:
    """Return a job of Helios as roles: whole nodes, and the remainder on one more."""
    num_whole, remainder = divmod(gpus, 8)
    roles = (Role(num_whole, PodShape(8)),) if num_whole else ()
    return (*roles, Role(1, PodShape(remainder), name="last")) if remainder else roles


def helios_consolidate(capacity: Capacity, role: Role, index: int) -> list[Slice] | None:
    """Place like the `consolidate` placer of HeliosArtifact.

    It is `pack`, but for the remainder of a job of more than one node, which goes to the emptiest
    node left and not to the one that it fills best. That node is where `spread` puts a single pod.
    """
    chosen = placement.spread if index else placement.pack
    return chosen(capacity, role, index)


def helios(order: str) -> Policy:
    """Return Helios's queue: by `order`, blocked by its head, consolidated."""
    return Policy(
        name=f"helios-{order}",
        order=catalog.ORDERS[order],
        placer=helios_consolidate,
        discipline=strict,
    )


def cqsim_easy(
    jobs: pd.DataFrame, num_gpus: int, *, true_run_times: bool = True
) -> dict[str, Start]:
    """Return the starts of CQSim's EASY on a pool.

    It runs a pass after every event, and, with `true_run_times`, backfills by the true run time of
    the waiting job while it expects running jobs to end at their estimates.
    """
    rows = zip(
        jobs["job"],
        jobs["submit_s"],
        jobs["duration_s"],
        jobs["gpus"],
        jobs["walltime_s"],
        strict=True,
    )
    peer_jobs = [
        Job(
            name,
            submit_s,
            duration_s,
            (Role(gpus, PodShape(1)),),
            walltime_s=duration_s if true_run_times else estimate_s,
            estimate_s=estimate_s,
        )
        for name, submit_s, duration_s, gpus, estimate_s in rows
    ]
    inexact = bool((jobs["walltime_s"] != jobs["duration_s"]).any())
    return drive(
        peer_jobs,
        pool(num_gpus),
        catalog.policy(PolicySpec(discipline="easy")),
        pass_per_event=True,
        forget=true_run_times and inexact,
    )
