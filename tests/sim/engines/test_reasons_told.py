"""What `explain` says of a gang at any moment is what the tables of the run say of that moment."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scheduler import compiled
from scheduler.core.decisions import PendingReason
from scheduler.core.model import Phase
from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Quota, Victims, checked
from scheduler.core.times import to_us
from scheduler.policies.explain import explain
from sim import run
from sim.engines.gangs import GangSimulation
from sim.runs.folder import RunResult
from sim.schema.cluster import Cluster, Pool
from sim.schema.config import Faults
from sim.schema.costs import Costs, Quantity

IN_QUEUE = {
    PendingReason.QUOTA,
    PendingReason.CAPACITY,
    PendingReason.FRAGMENTATION,
    PendingReason.BEHIND_HEAD,
    PendingReason.PREEMPTING,
}
#: saving and stopping take long, so that victims and the claims on what they hold overlap
SLOW = Costs(
    save_interval_s=20.0,
    stop_s=Quantity(p50=11.0),
    final_save_s=Quantity(p50=4.0),
    measured="a test",
)
NODES = Cluster((Pool("p", 3, 8, gpu_model="h100"), Pool("q", 3, 4, gpu_model="a100")))


def queues(draw: np.random.Generator) -> Queues:
    """Return three teams of a cohort and one alone, with words as they come."""

    def quota(most: int) -> dict[str, dict[str, Quota]]:
        return {
            flavor: {"gpus": Quota(int(draw.integers(0, most)))}
            for flavor in draw.permutation(["h100", "a100"])
        }

    found = [
        Queue(
            name,
            "" if name == "x" else "c",
            quota=quota(24 if name == "x" else 14),
            discipline=Holding(draw.choice(list(Holding))),
            within=Victims(draw.choice([Victims.NEVER, Victims.LOWER_PRIORITY])),
            reclaim=Victims(draw.choice([Victims.NEVER, Victims.ANY, Victims.ANY])),
            min_runtime_s=float(draw.choice([0, 7])),
        )
        for name in "uvwx"
    ]
    flavors = tuple(Flavor(model, gpu_model=model) for model in ("h100", "a100"))
    return checked(Queues(flavors, (Cohort("c"),), tuple(found)), "queues.toml")


def workload(draw: np.random.Generator, num_jobs: int = 50) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "job": [f"j{at}" for at in range(num_jobs)],
            "queue": draw.choice(list("uvwx"), num_jobs),
            "priority": draw.integers(0, 3, num_jobs),
            "submit_s": np.sort(draw.integers(0, 250, num_jobs)).astype(float),
            "duration_s": draw.integers(5, 90, num_jobs).astype(float),
            "num_pods": draw.integers(1, 5, num_jobs),
            "gpus_per_pod": draw.choice([1, 2, 4], num_jobs),
            "gpu_model": draw.choice(["", "", "h100", "a100"], num_jobs),
        }
    )


class Told:
    """What `explain` says at some moments of a run: pending pods by queue and reason."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moments_s: list[float]) -> None:
        self.pods: dict[float, Counter[tuple[str, str]]] = {}
        simulate = GangSimulation.simulate

        def watched(simulation: GangSimulation) -> float:
            for at_s in moments_s:
                simulation.agenda.at(to_us(at_s), self.look, (simulation, at_s))
            return simulate(simulation)

        monkeypatch.setattr(GangSimulation, "simulate", watched)

    def look(self, value: Any) -> None:
        """Ask about every gang that waits."""
        simulation, at_s = value
        state = simulation.state
        found = self.pods[at_s] = Counter()
        for name, member in state.gangs.items():
            if member.missing and member.phase is not Phase.IMPOSSIBLE:
                said = explain(state, name)
                found[member.gang.queue, str(said.reason)] += said.need_pods


def in_tables(result: RunResult, at_s: float) -> Counter[tuple[str, str]]:
    """Return what the step functions of the run say of that moment."""
    table = result.pending_by_queue
    before = table[table["time_s"] <= at_s].groupby(["queue", "reason"])["pods"].last()
    return Counter({pair: pods for pair, pods in before.items() if pods and pair[1] in IN_QUEUE})


@pytest.mark.skipif(compiled.which() == "compiled", reason="compiled functions cannot be replaced")
@pytest.mark.parametrize("costs", [None, SLOW], ids=["at once", "victims take long"])
@pytest.mark.parametrize("seed", range(16))
def test_explain_and_the_ledger_say_the_same(
    seed: int, costs: Costs | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(seed)
    told = Told(monkeypatch, (draw.integers(1, 500, 120) + draw.random(120)).tolist())
    faults = Faults("calibrated", per_1000_node_days=50_000) if seed % 4 == 3 else Faults()
    result = run(
        workload(draw), cluster=NODES, queues=queues(draw), costs=costs, seed=seed, faults=faults,
        until_s=600.0, audit=True,
    )  # fmt: skip
    seen: Counter[str] = Counter()
    for at_s, pods in sorted(told.pods.items()):
        assert pods == in_tables(result, at_s), f"at {at_s} s"
        for (_, reason), num_pods in pods.items():
            seen[reason] += num_pods
    assert {"quota", "capacity", "behind_head"} & seen.keys()
    if costs is not None and (result.attempts["outcome"] == "preempted").any():
        assert seen["preempting"]
