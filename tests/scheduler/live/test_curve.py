"""The curve of a service that runs: a step for each change, at its time, also after a restart."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.scheduler.live.small_api import GPU
from tests.scheduler.live.test_hostile import GPUS, PODS, Life

SLACK_S = 0.01  #: times of the curve are rounded


def waiting(number: int) -> dict[str, Any]:
    """Return a pod that no node can hold."""
    return {
        "metadata": {"name": f"p{number}", "namespace": "team", "uid": f"p{number}"},
        "spec": {
            "schedulingGates": [{"name": "muster.dev/queued"}],
            "containers": [{"name": "main", "resources": {"limits": {GPU: str(GPUS + 1)}}}],
        },
        "status": {"phase": "Pending"},
    }


def totals(life: Life) -> list[tuple[float, float]]:
    """Return the steps of the curve: since when, and how many pods."""
    points = json.loads(life.get("/curve")[1])
    return [
        (p.pop("unix_s"), sum(n for why, n in p.items() if "unix_s" not in why)) for p in points
    ]


def test_pods_that_waited_for_a_moment_are_in_the_curve_for_that_moment(tmp_path: Path) -> None:
    with Life(tmp_path) as life:
        came_s = time.time()
        for number in range(3):
            life.api.create(PODS, waiting(number))
        life.until("they wait", lambda: totals(life)[-1][1] == 3)
        left_s = time.time()
        for number in range(3):
            life.api.delete(PODS, "team", f"p{number}")
        life.until("none waits", lambda: totals(life)[-1][1] == 0)
        gone_s = time.time()
        steps = totals(life)
        assert max(count for _, count in steps) == 3
        begins_s = next(at_s for at_s, count in steps if count)
        full = [at for at, (_, count) in enumerate(steps) if count == 3]
        ends_s = next(at_s for at_s, count in steps[full[-1] :] if count == 0)
        assert came_s - SLACK_S <= begins_s <= left_s
        assert left_s - SLACK_S <= steps[full[-1] + 1][0] <= ends_s <= gone_s
        now = json.loads(life.get("/now")[1])
        assert sum(now["pods"].values()) == 0 and now["curve"][-1] == [
            0,
            None,
            *[0] * len(now["reasons"]),
        ]
    seen = [step for step in steps[:-1] if step[0] <= ends_s]
    with Life(tmp_path, life.ports) as anew:
        assert totals(anew)[: len(seen)] == seen, "the journal gave it back"
