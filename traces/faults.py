"""Outages of nodes: drawn from a calibrated model, or a real list applied to the cluster.

Both return a table of `node` (index), `start_s`, `end_s` and `kind`, by start. Outages of one node
never overlap; those that began before the run are open at time 0.
"""

from __future__ import annotations

from importlib.resources import files
from math import inf, isfinite, log

import numpy as np
import pandas as pd

from traces.profiles import FaultModel, calibration
from traces.schema import DAY_S, HOUR_S
from traces.streams import Stream, generator

#: the list's times are in ten-thousandths of a day
LIST_STEP_S = DAY_S / 10_000.0


def calibrated(
    num_nodes: int, horizon_s: float, seed: int, per_1000_node_days: float = 4.2
) -> pd.DataFrame:
    """Draw outages of independent nodes.

    Gamma frailty per node, log-normal repairs, repeated faults soon after a repair: the parameters
    are fitted to the outages of 400 servers in stepfun_faults.csv (InfiniteHBD, SIGCOMM 2025). The
    rate counts repeated faults. It does not reproduce that real outages of several nodes start
    together: 27 % of the list's start within an hour after another.

    Raises:
        ValueError: the rate is negative or not finite.
    """
    if not (isfinite(per_1000_node_days) and per_1000_node_days >= 0):
        raise ValueError(
            f"faults: per_1000_node_days = {per_1000_node_days!r} must be 0 or more, and finite"
        )
    model = calibration().faults
    rng = generator(seed, Stream.FAULTS)
    first_per_s = per_1000_node_days * (1.0 - model.refault_ratio) / 1000.0 / DAY_S
    # Failures before the run matter where their repair is still open at time 0.
    warm_up_s = model.warm_up_d * DAY_S
    frailty = rng.gamma(model.frailty_shape, 1.0 / model.frailty_shape, num_nodes)
    counts = rng.poisson(frailty * first_per_s * (warm_up_s + horizon_s))
    firsts_s = np.split(rng.uniform(-warm_up_s, horizon_s, counts.sum()), np.cumsum(counts)[:-1])
    gap_h = np.log(model.refault_gap_h)
    rows: list[tuple[int, float, float, str]] = []
    for node in np.flatnonzero(counts).tolist():
        free_s = -inf
        for fault_s in np.sort(firsts_s[node]).tolist():
            start_s = fault_s
            if start_s <= free_s:
                continue  # already down
            while True:
                kind = "hardware" if rng.random() < model.hardware_ratio else "other"
                free_s = start_s + _repair_s(rng, model, kind)
                rows.append((node, start_s, free_s, kind))
                if rng.random() >= model.refault_ratio:
                    break
                start_s = free_s + float(np.exp(rng.uniform(*gap_h))) * HOUR_S
    return _within(rows, horizon_s)


def stepfun(num_nodes: int, horizon_s: float, seed: int) -> pd.DataFrame:
    """Apply the real list of 400 servers to the cluster.

    Each 400 nodes get their own copy, which begins on a random day (the list repeats after 349
    days) with the servers in random order; kind is `hardware` or `other`.
    """
    model = calibration().faults
    rng = generator(seed, Stream.FAULT_LIST)
    real = listed()
    columns = [real[name].tolist() for name in ("node", "start_s", "end_s", "kind")]
    period_s = model.stepfun_days * DAY_S
    rows: list[tuple[int, float, float, str]] = []
    for base in range(0, num_nodes, model.stepfun_nodes):
        shift_s = rng.uniform(0.0, period_s)
        place = rng.permutation(model.stepfun_nodes).tolist()
        for server, start_s, end_s, kind in zip(*columns, strict=True):
            node = base + place[server]
            if node >= num_nodes:
                continue
            begin_s = start_s - shift_s
            while begin_s < horizon_s:
                rows.append((node, begin_s, begin_s + (end_s - start_s), kind))
                begin_s += period_s
    return _within(rows, horizon_s)


def listed() -> pd.DataFrame:
    """Return the real list: outages of 400 servers, times from its first day.

    Those that end when they begin, in the list's resolution, last one step of it.
    """
    with files("traces").joinpath("data/stepfun_faults.csv").open("rb") as file:
        rows = pd.read_csv(file)
    start_s = rows["start_day"] * DAY_S
    hardware = rows["level"] == "Hardware Failure"
    return pd.DataFrame(
        {
            "node": rows["node"],
            "start_s": start_s,
            "end_s": np.maximum(rows["end_day"] * DAY_S, start_s + LIST_STEP_S),
            "kind": np.where(hardware, "hardware", "other"),
        }
    )


def _repair_s(rng: np.random.Generator, model: FaultModel, kind: str) -> float:
    repair = model.hardware if kind == "hardware" else model.other
    drawn_s = rng.lognormal(log(repair.median_h), repair.sigma) * HOUR_S
    return float(min(drawn_s, model.longest_d * DAY_S))


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
