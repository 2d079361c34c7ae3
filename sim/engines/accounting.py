"""The accounts of a run must balance, or the run fails."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.engines.waits import integral
from sim.schema.tables import REASONS

#: relative to the larger side, for sums over millions of floats
TOLERANCE = 1e-7


def check_accounting(
    end_s: float,
    pending_pod_s: NDArray[np.float64],
    attempts: pd.DataFrame,
    pending: pd.DataFrame,
    allocation: pd.DataFrame,
    nodes: pd.DataFrame,
    num_gpus: int,
) -> dict[str, dict[str, float]]:
    """Return both sides of every identity; `pending_pod_s` is [num_jobs, num_reasons].

    Per reason: pod-seconds pending, summed over jobs, equal the integral of the pending curve.
    GPU-seconds held, summed over attempts, equal those summed over nodes and the integral of the
    allocation curve; allocated, free and unavailable GPUs add up to the cluster at all times.

    Raises:
        AssertionError: an identity does not hold.
    """
    books: dict[str, dict[str, float]] = {}
    by_reason = dict(iter(pending.groupby("reason", sort=False)))
    for code, reason in enumerate(REASONS):
        part = by_reason.get(str(reason))
        curve = 0.0
        if part is not None:
            curve = integral(part["time_s"].to_numpy(), part["pods"].to_numpy(), end_s)
            assert int(part["pods"].min()) >= 0, f"pending {reason}: a negative number of pods"
        books[f"pending_{reason}_pod_s"] = _equal(
            f"pending {reason}", jobs=float(pending_pod_s[:, code].sum()), curve=curve
        )
    time_s = allocation["time_s"].to_numpy()
    allocated = integral(time_s, allocation["allocated_gpus"].to_numpy(), end_s)
    books["allocated_gpu_s"] = _equal(
        "allocated GPU-seconds",
        attempts=float(attempts["held_gpu_s"].sum()),
        nodes=float(nodes["allocated_gpu_s"].sum()),
        curve=allocated,
    )
    unavailable = integral(time_s, allocation["unavailable_gpus"].to_numpy(), end_s)
    books["unavailable_gpu_s"] = _equal(
        "unavailable GPU-seconds",
        nodes=float(nodes["unavailable_gpu_s"].sum()),
        curve=unavailable,
    )
    free = num_gpus - (allocation["allocated_gpus"] + allocation["unavailable_gpus"]).to_numpy()
    assert free.min() >= 0, f"{-free.min()} more GPUs are allocated or lost than exist"
    books["capacity_gpu_s"] = _equal(
        "capacity",
        parts=allocated + unavailable + integral(time_s, free, end_s),
        whole=num_gpus * end_s,
    )
    return books


def _equal(what: str, **sides: float) -> dict[str, float]:
    values = np.array(list(sides.values()))
    scale = max(1.0, float(np.abs(values).max()))
    assert float(np.ptp(values)) <= TOLERANCE * scale, f"the accounts differ on {what}: {sides}"
    return sides
