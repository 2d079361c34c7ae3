"""Find the worst pending episodes of a run and say in words what they waited for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from scheduler.core.decisions import PendingReason
from scheduler.core.model import Gang, PodShape, Role
from scheduler.core.reasons import TABLE
from scheduler.core.sentences import noun, quantity
from scheduler.core.times import to_us
from scheduler.policies import catalog
from sim.report.wording import clock, counted, duration, exact, percent, span
from sim.runs.steps import Counts, Steps
from sim.schema.cluster import GIB, Cluster
from sim.schema.tables import REASONS, RESOURCES

MERGE_GAP_S = 1800.0  #: dips shorter than this do not end an episode
PICTURE_BINS = 60  #: an episode's picture has so many places for a highest and a lowest state
LEAD_UP_S = 3600.0  #: submissions so long before the peak are counted


#: for a resource beside GPUs: a pod's column, what a pool says of a node, the core's units in one
#: of its own, and what that is called
LIMITS = {
    "cpu": ("cpu_per_pod", "cpu_per_node", 1000, ""),
    "memory": ("mem_gib_per_pod", "mem_gib_per_node", GIB, " GiB"),
    "pods": ("", "pods_per_node", 1, ""),
}


@dataclass(frozen=True, slots=True)
class Lack:
    """What a gang asks for of a resource, and what there is of it in the cluster."""

    need: float  #: by all of its pods, in CPUs, GiB or places
    free: float
    total: float


@dataclass(frozen=True, slots=True)
class WaitingGang:
    """A gang that had no place at the peak of an episode."""

    job: str
    num_pods: int
    gpus_per_pod: int
    gpus: int
    short: str  #: the resource that it waited for longest, of those that it found too little of
    lack: Lack | None  #: its numbers, where they are known and it is not GPUs
    waited_s: float  #: from submission to the peak
    admitted_s: float  #: NaN if not before the run ended


@dataclass(frozen=True, slots=True)
class Episode:
    """A time in which at least half of a peak of pending pods was pending."""

    start_s: float
    end_s: float
    peak_s: float
    peak_pods: int
    shares: tuple[tuple[PendingReason, float], ...]  #: of the pods at the peak, largest first
    num_waiting: int  #: gangs without a place at the peak
    head: WaitingGang | None  #: first in order of those that lack GPUs
    free_gpus: int
    idle_held_gpus: int  #: held at the peak by gangs that were not whole
    unavailable_gpus: int
    submitted_pods: int  #: in the hour before the peak
    curve: Steps  #: pending pods by reason from somewhat before to somewhat after it, thinned


def find_spans(time_s: np.ndarray, total: Counts, end_s: float, top: int) -> list[tuple[int, ...]]:
    """Return (peak row, first row, row after the last) of the `top` highest separate episodes.

    An episode reaches from its peak as far as the curve stays at or above half of the peak; dips
    shorter than `MERGE_GAP_S` belong to it. Peaks on the shoulder of a higher one do not count.
    """
    spans: list[tuple[int, ...]] = []
    taken = np.zeros(len(total), dtype=bool)
    until_s = np.append(time_s[1:], end_s)
    while len(spans) < top and not taken.all():
        peak = int(np.argmax(np.where(taken, -1, total)))
        if total[peak] <= 0:
            break
        high = np.flatnonzero(total >= total[peak] / 2)
        gap_s = time_s[high[1:]] - until_s[high[:-1]]
        group_starts = np.concatenate(([0], np.flatnonzero(gap_s >= MERGE_GAP_S) + 1, [len(high)]))
        mine = int(np.searchsorted(group_starts, np.searchsorted(high, peak), side="right"))
        first, after = int(high[group_starts[mine - 1]]), int(high[group_starts[mine] - 1]) + 1
        if not taken[first:after].any():
            spans.append((peak, first, after))
        taken[first:after] = True
    return spans


def find_episodes(
    pending: Steps,
    allocation: Steps,
    jobs: pd.DataFrame,
    attempts: pd.DataFrame,
    *,
    num_gpus: int,
    order: str = "fifo",
    top: int = 3,
    cluster: Cluster | None = None,
) -> list[Episode]:
    """Return the episodes with the highest peaks of pending pods, highest first.

    `pending` and `allocation` are the curves of the part of the run to look at; `order` is the
    queue order of the run. The head gang is derived from the tables: of the gangs that are
    submitted and not placed at the peak, and that at some time lacked GPUs (capacity,
    fragmentation, partial holds of others), it is the first in that order. With `cluster` its
    lack of CPU, memory or places for pods gets numbers, of all nodes together.
    """
    total = pending.total()
    placed = attempts.loc[attempts["admitted_s"].notna(), ["job", "admitted_s", "end_s"]]
    episodes = []
    for peak, first, after in find_spans(pending.time_s, total, pending.end_s, top):
        peak_s = float(pending.time_s[peak])
        end_s = float(pending.time_s[after]) if after < len(total) else pending.end_s
        row = pending.values[peak]
        shares = [(reason, float(row[k]) / total[peak]) for k, reason in enumerate(REASONS)]
        shares = sorted((share for share in shares if share[1] > 0), key=lambda share: -share[1])
        allocated, useful, unavailable = (int(value) for value in allocation.at(peak_s))
        waiting = _waiting(jobs, placed, peak_s)
        head = _head(waiting, placed, peak_s, order)
        if head is not None and cluster is not None and not unavailable:
            head = replace(head, lack=_lack(head, jobs, placed, peak_s, cluster))
        submitted = jobs["submit_s"].between(peak_s - LEAD_UP_S, peak_s)
        episodes.append(
            Episode(
                start_s=float(pending.time_s[first]),
                end_s=end_s,
                peak_s=peak_s,
                peak_pods=int(total[peak]),
                shares=tuple(shares),
                num_waiting=len(waiting),
                head=head,
                free_gpus=num_gpus - allocated - unavailable,
                idle_held_gpus=allocated - useful,
                unavailable_gpus=unavailable,
                submitted_pods=int(jobs.loc[submitted, "num_pods"].sum()),
                curve=_around(pending, float(pending.time_s[first]), end_s),
            )
        )
    return episodes


def _around(pending: Steps, start_s: float, end_s: float) -> Steps:
    """Return the curve of an episode with a margin of a fifth of it at both ends."""
    margin_s = (end_s - start_s) / 5
    begin_s = max(start_s - margin_s, float(pending.time_s[0]))
    return pending.clip(begin_s, min(end_s + margin_s, pending.end_s)).thin(PICTURE_BINS)


def _waiting(jobs: pd.DataFrame, placed: pd.DataFrame, at_s: float) -> pd.DataFrame:
    """Return the jobs that are submitted, not over, and hold no complete placement at `at_s`."""
    alive = (jobs["submit_s"] <= at_s) & ~(jobs["end_s"] <= at_s)
    alive &= jobs["outcome"] != "never_fits"
    running = placed.loc[(placed["admitted_s"] <= at_s) & ~(placed["end_s"] <= at_s), "job"]
    candidates = jobs[alive]
    return candidates[~candidates["job"].isin(running)]


def _gang(
    name: str, submit_s: float, walltime_s: float, priority: int, num_pods: int, gpus: int
) -> Gang:
    """Return a job as a queue's order sees it; orders see sums, so one pod has all its GPUs."""
    roles = (Role(1, PodShape(gpus)), Role(num_pods - 1, PodShape(0)))
    return Gang(name, roles, to_us(submit_s), to_us(walltime_s), priority)


def _head(
    waiting: pd.DataFrame, placed: pd.DataFrame, at_s: float, order: str
) -> WaitingGang | None:
    lacked_s = (
        waiting["pending_capacity_s"]
        + waiting["pending_fragmentation_s"]
        + waiting["pending_held_by_others_s"]
    )
    blocked = waiting[lacked_s > 0]
    if blocked.empty:
        return None
    gangs = map(
        _gang,
        blocked["job"],
        blocked["submit_s"],
        blocked["walltime_s"].fillna(blocked["duration_s"]),
        blocked["priority"],
        blocked["num_pods"],
        blocked["gpus"],
    )
    keys = list(map(catalog.ORDERS[order], gangs))
    head = blocked.iloc[min(range(len(keys)), key=keys.__getitem__)]
    later = placed.loc[(placed["job"] == head["job"]) & (placed["admitted_s"] > at_s), "admitted_s"]
    return WaitingGang(
        job=str(head["job"]),
        num_pods=int(head["num_pods"]),
        gpus_per_pod=int(head["gpus_per_pod"]),
        gpus=int(head["gpus"]),
        short=max(RESOURCES, key=lambda name: float(head.get(f"short_{name}_s", 0.0))),
        lack=None,
        waited_s=at_s - float(head["submit_s"]),
        admitted_s=float(later.min()) if len(later) else float("nan"),
    )


def _lack(
    head: WaitingGang, jobs: pd.DataFrame, placed: pd.DataFrame, at_s: float, cluster: Cluster
) -> Lack | None:
    """Return the numbers of what a gang lacks; None for GPUs and for what has no limit."""
    if head.short not in LIMITS:
        return None
    column, of_node, *_ = LIMITS[head.short]
    limits = [getattr(pool, of_node) for pool in cluster.pool]
    if None in limits or (column and column not in jobs):
        return None
    pods = jobs.set_index("job")["num_pods"].astype("float64")
    asked = pods * jobs.set_index("job")[column] if column else pods
    runs = placed.loc[(placed["admitted_s"] <= at_s) & ~(placed["end_s"] <= at_s), "job"]
    total = float(sum(pool.nodes * limit for pool, limit in zip(cluster.pool, limits, strict=True)))
    return Lack(float(asked[head.job]), max(total - float(asked[runs].sum()), 0.0), total)


def explain(
    episode: Episode, *, num_gpus: int, has_queue_head: bool = True, is_live: bool = False
) -> str:
    """Return the episode in a few sentences with its numbers.

    `has_queue_head` is False for pod and permit admission, where no gang holds back the others
    and the first incomplete gang is only named. On a live cluster GPUs are unavailable for more
    reasons than that their node is down.
    """
    when = span(episode.start_s, episode.end_s)
    reasons = [
        f"{TABLE[reason].label} {percent(share)}"
        for reason, share in episode.shares
        if share >= 0.005
    ]
    text = [
        f"{when[0].upper()}{when[1:]} ({duration(episode.end_s - episode.start_s)}),"
        f" peak {counted(episode.peak_pods, 'pod')} at {clock(episode.peak_s)}:"
        f" {', '.join(reasons)}."
    ]
    if episode.head is not None:
        text += _head_sentences(episode, episode.head, num_gpus, has_queue_head)
    else:
        free = episode.free_gpus
        text.append(f"No gang lacks GPUs; {exact(free)} {'is' if free == 1 else 'are'} free.")
    if episode.idle_held_gpus > 0:
        held = counted(episode.idle_held_gpus, "GPU")
        text.append(f"Gangs that are not yet whole hold {held}.")
    if episode.unavailable_gpus > 0:
        where = "of no use to gangs" if is_live else "on nodes that are down"
        is_one = episode.unavailable_gpus == 1
        text.append(
            f"{counted(episode.unavailable_gpus, 'GPU')} {'is' if is_one else 'are'} {where}."
        )
    was = "was" if episode.submitted_pods == 1 else "were"
    text.append(
        f"In the hour before the peak, {counted(episode.submitted_pods, 'pod')} {was} submitted."
    )
    return " ".join(text)


def _head_sentences(
    episode: Episode, head: WaitingGang, num_gpus: int, has_queue_head: bool
) -> list[str]:
    role = "First in the queue" if has_queue_head else "The first gang that lacks GPUs"
    gangs = "gang has" if episode.num_waiting == 1 else "gangs have"
    pods = counted(head.num_pods, "pod")
    need = f"it needs {counted(head.gpus, 'GPU')} ({pods})"
    are = "is" if episode.free_gpus == 1 else "are"
    free = f"{exact(episode.free_gpus)} of {exact(num_gpus)} {are} free"
    if head.lack is not None:
        *_, scale, unit = LIMITS[head.short]
        need = f"it needs {quantity(head.short, round(head.lack.need * scale))} ({pods})"
        free = f"{head.lack.free:,.6g} of {head.lack.total:,.6g}{unit} are free"
        if head.lack.free >= head.lack.need:
            free += ", enough in number"
    elif head.short != "gpus":
        what = "another resource" if head.short == "other" else noun(head.short)
        lack = "lacks" if head.num_pods == 1 else "lack"
        need = f"its {pods} of {quantity('gpus', head.gpus_per_pod)} {lack} {what}"
        free = f"{exact(episode.free_gpus)} of {counted(num_gpus, 'GPU')} {are} free"
    elif episode.free_gpus >= head.gpus:
        free += ", enough in number"
    fate = (
        "it is not placed before the run ends"
        if np.isnan(head.admitted_s)
        else f"it is placed at {clock(head.admitted_s)}"
    )
    return [
        f"{exact(episode.num_waiting)} {gangs} no place.",
        f"{role} is gang {head.job}: {need} and {free};"
        f" it has waited {duration(head.waited_s)} and {fate}.",
    ]


def episode_table(episodes: list[Episode]) -> pd.DataFrame:
    """Return the episodes as a tidy table, one row each."""
    rows = []
    for rank, episode in enumerate(episodes, start=1):
        head = episode.head
        row: dict[str, object] = {
            "rank": rank,
            "start_s": episode.start_s,
            "end_s": episode.end_s,
            "peak_s": episode.peak_s,
            "peak_pods": episode.peak_pods,
            "num_waiting": episode.num_waiting,
            "head_job": head.job if head else None,
            "head_gpus": head.gpus if head else 0,
            "head_waited_s": head.waited_s if head else float("nan"),
            "head_admitted_s": head.admitted_s if head else float("nan"),
            "free_gpus": episode.free_gpus,
            "idle_held_gpus": episode.idle_held_gpus,
            "unavailable_gpus": episode.unavailable_gpus,
            "submitted_pods": episode.submitted_pods,
        }
        shares = dict(episode.shares)
        row |= {f"{reason}_ratio": shares.get(reason, 0.0) for reason in REASONS}
        rows.append(row)
    return pd.DataFrame(rows)
