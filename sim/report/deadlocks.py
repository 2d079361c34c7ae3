"""When gangs kept each other's GPUs: each holds a part of what it needs and waits for the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sim.report.wording import clock, duration, exact, percent
from sim.schema.config import RunConfig


@dataclass(frozen=True, slots=True)
class Deadlocks:
    """Times during which at least two gangs held GPUs in part, until a timeout took them back."""

    num_timeouts: int  #: attempts that gave GPUs back without ever running
    first_s: float  #: the first such time
    jobs: tuple[str, ...]  #: whose gangs held GPUs then
    gpus: int  #: asked for by these gangs
    share_ratio: float  #: of the window
    longest_s: tuple[float, float]  #: the longest such time, from and to
    gpu_h: float  #: held by attempts that timed out


def deadlocks(
    jobs: pd.DataFrame, attempts: pd.DataFrame, config: RunConfig, start_s: float, end_s: float
) -> Deadlocks | None:
    """Find deadlocks among the attempts that ended in a timeout within a window.

    Such an attempt held its first pod for the timeout before its end: it is the timeout that ends a
    deadlock, and without one it would have lasted for ever. Returns None where no two overlapped.
    """
    limits = config.timeouts
    limit_s = limits.permit_s if config.admission == "permit" else limits.rendezvous_s
    over = attempts[attempts["outcome"].isin(("rendezvous_timeout", "permit_timeout"))]
    over = over[(over["end_s"] > start_s) & (over["end_s"] <= end_s)]
    if len(over) < 2:
        return None
    from_s = np.maximum(over["end_s"].to_numpy() - limit_s, start_s)
    to_s = over["end_s"].to_numpy()
    at_s = np.concatenate([from_s, to_s])
    change = np.concatenate([np.ones(len(over), int), -np.ones(len(over), int)])
    order = np.lexsort((change, at_s))  # at one time, gangs leave before others come
    at_s, holding = at_s[order], np.cumsum(change[order])
    both = holding >= 2
    if not both.any():
        return None
    begins = at_s[both & ~np.append(False, both[:-1])]
    ends = at_s[~both & np.append(False, both[:-1])]
    lasted = ends - begins
    longest = int(np.argmax(lasted))
    first_s = float(begins[0])
    names = over["job"].to_numpy()[(from_s <= first_s) & (to_s > first_s)]
    gpus = jobs.set_index("job")["gpus"]
    return Deadlocks(
        num_timeouts=len(over),
        first_s=first_s,
        jobs=tuple(str(name) for name in names),
        gpus=int(gpus.loc[names].sum()),
        share_ratio=float(lasted.sum() / (end_s - start_s)),
        longest_s=(float(begins[longest]), float(ends[longest])),
        gpu_h=float(over["held_gpu_s"].sum() / 3600.0),
    )


def explain(found: Deadlocks, num_gpus: int) -> str:
    """Return what a report says of them."""
    begin_s, end_s = found.longest_s
    shown = " and ".join(found.jobs[:2])
    return (
        f"Deadlock: first at {clock(found.first_s)}, when {exact(len(found.jobs))} gangs "
        f"({shown}) that request {exact(found.gpus)} of {exact(num_gpus)} GPUs held part of them "
        f"and each waited for the rest. Deadlocks cover {percent(found.share_ratio)} of the "
        f"window; the longest began at {clock(begin_s)} and lasted {duration(end_s - begin_s)}. "
        f"Only timeouts ended them: {exact(found.num_timeouts)}, and {exact(found.gpu_h)} "
        "GPU-hours were wasted."
    )
