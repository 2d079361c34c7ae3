"""Outages of nodes: drawn from a calibrated model, or a real list laid over the cluster.

Both return a table of `node` (index), `start_s`, `end_s` and `kind`, by start. Outages of one node
never overlap; those that began before the run are open at time 0.
"""

from __future__ import annotations

from importlib.resources import files
from math import inf, log, sqrt

import numpy as np
import pandas as pd

from traces.streams import Stream, generator

HOUR_S = 3600.0
DAY_S = 86_400.0

# Fitted to the outages of 400 servers in stepfun_faults.csv (InfiniteHBD, SIGCOMM 2025).
FRAILTY_SHAPE = 0.94  #: nodes differ: their rates are gamma distributed with this shape, mean 1
HARDWARE_SHARE = 0.51
REPAIR_MEDIAN_H = {"hardware": 32.6, "other": 14.5}
REPAIR_MEAN_H = {"hardware": 189.0, "other": 77.0}
LONGEST_REPAIR_S = 90 * DAY_S
REFAULT_PROBABILITY = 0.37  #: that a repaired node fails again within REFAULT_WITHIN_S
REFAULT_WITHIN_S = DAY_S
#: failures are drawn from this long before the run, so that long repairs are open at time 0
WARMUP_S = 90 * DAY_S

STEPFUN_SERVERS = 400
STEPFUN_DAYS = 349.0


def calibrated(
    num_nodes: int, horizon_s: float, seed: int, per_1000_node_days: float = 4.2
) -> pd.DataFrame:
    """Draw outages of independent nodes.

    Gamma frailty per node, lognormal repairs, repeated faults soon after a repair. The rate counts
    repeated faults. It does not reproduce that real outages of several nodes start together: 27 %
    of the list's start within an hour of another.
    """
    if per_1000_node_days < 0 or not per_1000_node_days < inf:
        raise ValueError(
            f"faults: per_1000_node_days = {per_1000_node_days!r} must be 0 or more, and finite"
        )
    rng = generator(seed, Stream.FAULTS)
    first_per_s = per_1000_node_days * (1.0 - REFAULT_PROBABILITY) / 1000.0 / DAY_S
    span_s = WARMUP_S + horizon_s
    frailty = rng.gamma(FRAILTY_SHAPE, 1.0 / FRAILTY_SHAPE, num_nodes)
    counts = rng.poisson(frailty * first_per_s * span_s)
    firsts_s = np.split(rng.uniform(-WARMUP_S, horizon_s, counts.sum()), np.cumsum(counts)[:-1])
    rows: list[tuple[int, float, float, str]] = []
    for node in np.flatnonzero(counts).tolist():
        free_s = -inf
        for fault_s in np.sort(firsts_s[node]).tolist():
            start_s = fault_s
            if start_s <= free_s:
                continue  # already down
            while True:
                kind = "hardware" if rng.random() < HARDWARE_SHARE else "other"
                free_s = start_s + _repair_s(rng, kind)
                rows.append((node, start_s, free_s, kind))
                if rng.random() >= REFAULT_PROBABILITY:
                    break
                start_s = free_s + rng.uniform(0.0, REFAULT_WITHIN_S)
    return _within(rows, horizon_s)


def stepfun(num_nodes: int, horizon_s: float, seed: int) -> pd.DataFrame:
    """Lay the real list of 400 servers over the cluster.

    Each 400 nodes get their own copy, which begins on a random day (the list repeats after 349
    days) with the servers in random order; kind is `hardware` or `other`.
    """
    rng = generator(seed, Stream.FAULT_LIST)
    with files("traces").joinpath("data/stepfun_faults.csv").open("rb") as file:
        listed = pd.read_csv(file)
    kinds = np.where(listed["level"] == "Hardware Failure", "hardware", "other").tolist()
    servers = listed["node"].tolist()
    starts_s = (listed["start_day"] * DAY_S).tolist()
    ends_s = (listed["end_day"] * DAY_S).tolist()
    period_s = STEPFUN_DAYS * DAY_S
    rows: list[tuple[int, float, float, str]] = []
    for base in range(0, num_nodes, STEPFUN_SERVERS):
        shift_s = rng.uniform(0.0, period_s)
        place = rng.permutation(STEPFUN_SERVERS).tolist()
        for server, start_s, end_s, kind in zip(servers, starts_s, ends_s, kinds, strict=True):
            node = base + place[server]
            if node >= num_nodes:
                continue
            begin_s = start_s - shift_s
            while begin_s < horizon_s:
                rows.append((node, begin_s, begin_s + (end_s - start_s), kind))
                begin_s += period_s
    return _within(rows, horizon_s)


def _repair_s(rng: np.random.Generator, kind: str) -> float:
    median_h, mean_h = REPAIR_MEDIAN_H[kind], REPAIR_MEAN_H[kind]
    sigma = sqrt(2.0 * log(mean_h / median_h))
    hours = rng.lognormal(log(median_h), sigma)
    return min(hours * HOUR_S, LONGEST_REPAIR_S)


def _within(rows: list[tuple[int, float, float, str]], horizon_s: float) -> pd.DataFrame:
    """Return the outages that touch the run; a node that is down cannot fail."""
    kept: list[tuple[int, float, float, str]] = []
    down_until_s: dict[int, float] = {}
    for node, start_s, end_s, kind in sorted(rows):
        free_s = down_until_s.get(node, -inf)
        if end_s <= 0.0 or start_s >= horizon_s or end_s <= free_s:
            continue
        begin_s = max(start_s, free_s, 0.0)
        down_until_s[node] = end_s
        if begin_s > 0.0 and begin_s == free_s:
            # It failed while down: the outage before lasts longer.
            before = kept.pop()
            kept.append((node, before[1], end_s, before[3]))
        else:
            kept.append((node, begin_s, end_s, kind))
    table = pd.DataFrame(kept, columns=["node", "start_s", "end_s", "kind"])
    table = table.astype({"node": "int64", "start_s": "float64", "end_s": "float64", "kind": "str"})
    return table.sort_values(["start_s", "node"], ignore_index=True)
