"""Bursts, measured and simulated: fitting, comparing and bookkeeping. Nothing here takes a time."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench import live_curves
from sim.schema import planes
from sim.schema.config import ControlPlane

TRUE = ControlPlane(
    name="true",
    schedule_per_s=220.0,
    create_per_s=300.0,
    creating_ratio=0.6,
    bind_lag_s=0.5,
)
SIZE = 20


class World:
    """A burst as the model has it, on a machine that is `slower` for those of kind `check`."""

    nodes = 500

    def __init__(self, slower: float = 1.0, others: tuple[float, ...] = ()) -> None:
        self.slower = slower
        self.others = (0.0, *others)
        self.num_bursts = 0

    async def burst(
        self, cluster: Any, lane: str, gangs: int, size: int, *, held: bool = False
    ) -> tuple[dict[str, float], live_curves.Trace]:
        assert cluster is self
        total = gangs * size
        if held:
            bound_s = np.arange(1, total + 1) / TRUE.schedule_per_s + TRUE.bind_lag_s
        else:
            curve = live_curves.simulated(TRUE, lane, gangs, size, total)
            bound_s = np.repeat(curve.time_s, np.diff(curve.pods, prepend=0.0).astype(int))
        if self.num_bursts and self.num_bursts % len(live_curves.KINDS) == 0:
            bound_s = bound_s * self.slower
        names = [f"pod-{number}" for number in range(total)]
        created_s = np.arange(1, total + 1) / TRUE.create_per_s
        at = [dict(zip(names, times.tolist(), strict=True)) for times in (created_s, bound_s)]
        self.others = self.others[1:] or (0.0,)
        self.num_bursts += 1
        figures = {"pods_per_s": total / bound_s[-1], "others_ratio": self.others[0]}
        return figures, live_curves.Trace(at[0], at[0], at[1])


def measured(world: World, lane: str) -> pd.DataFrame:
    return asyncio.run(live_curves.bursts(world.burst, {lane: world}, 15, SIZE))[0]


def test_bursts_say_what_each_is_for() -> None:
    world = World()
    times, figures = asyncio.run(live_curves.bursts(world.burst, {"pinned": world}, 15, SIZE))
    pods = times.groupby(["kind", "repeat"]).size()
    assert pods.tolist() == [15 * SIZE] * len(live_curves.KINDS) * live_curves.REPEATS
    assert set(times["nodes"]) == {World.nodes}
    assert figures["kind"].tolist() == [*live_curves.KINDS] * live_curves.REPEATS
    ends_s = times.groupby(["repeat", "kind"], sort=False)["bound_s"].max()
    assert figures["pods_per_s"].tolist() == pytest.approx(15 * SIZE / ends_s)


def test_lanes_take_turns() -> None:
    world = World()
    lanes = {"stock": world, "direct": world}
    _, figures = asyncio.run(live_curves.bursts(world.burst, lanes, 15, SIZE))
    assert figures["lane"].tolist() == [*lanes] * len(live_curves.KINDS) * live_curves.REPEATS


@pytest.mark.parametrize(
    ("others", "again", "last"),
    [
        ((0.0,), 0, 0.0),
        ((0.0, 0.05, 0.2, 0.5, 0.1, 0.0), 2, 0.0),
        ((0.9,) * 100, 4, 0.9),
        ((0.0, *(0.3, 0.4, 0.5, 0.6, 0.7), *(0.8,) * 100), 4, 0.8),
    ],
)
def test_a_disturbed_burst_is_measured_again_so_many_times(
    others: tuple[float, ...], again: int, last: float
) -> None:
    world = World(others=others)
    table = measured(world, "pinned")
    assert live_curves.SPARE_TRIES == 4
    assert world.num_bursts == 1 + 3 * live_curves.REPEATS + again
    assert table["others_ratio"].iloc[-1] == last


@pytest.mark.slow
@pytest.mark.parametrize("lane", live_curves.LANES)
def test_a_fit_finds_the_rates_that_made_the_bursts(lane: str) -> None:
    found = live_curves.fitted("measured-x", measured(World(), lane))
    assert found.name == "measured-x"
    assert found.create_per_s == pytest.approx(TRUE.create_per_s, rel=0.01)
    assert found.schedule_per_s == pytest.approx(TRUE.schedule_per_s, rel=0.03)
    assert found.creating_ratio == pytest.approx(TRUE.creating_ratio, abs=0.05)
    assert found.bind_lag_s == pytest.approx(TRUE.bind_lag_s, abs=0.1)
    assert found.start_warm_s == planes.load("kubernetes").start_warm_s


@pytest.mark.slow
@pytest.mark.parametrize(("slower", "met"), [(1.0, True), (1.3, False)])
def test_rows_compare_with_bursts_that_were_not_fitted(
    slower: float, met: bool, tmp_path: Path
) -> None:
    live_curves.keep(measured(World(slower), "pinned"), tmp_path)
    rows = live_curves.rows(tmp_path, "make bench-live")
    assert [one["what"] for one in rows] == [
        f"simulated / measured time to {percent} % of pods bound, pinned" for percent in (50, 100)
    ]
    assert [one["value"] for one in rows] == pytest.approx([1 / slower] * 2, rel=0.03)
    assert [one["met"] for one in rows] == [met, met]
    path = tmp_path / "measured-pinned.toml"
    assert planes.load(path).name == "measured-pinned"
    head = path.read_text("utf-8")
    assert "Command: make bench-live" in head
    assert "Kubernetes 1." in head
    assert (tmp_path / live_curves.PICTURE).stat().st_size > 10_000


def test_lanes_measured_before_stay_and_those_of_another_size_go(tmp_path: Path) -> None:
    stock, pinned = measured(World(), "stock"), measured(World(), "pinned")
    live_curves.keep(stock, tmp_path)
    live_curves.keep(pinned, tmp_path)
    live_curves.keep(pinned.assign(bound_s=1.0), tmp_path)
    kept = pd.read_parquet(tmp_path / "bursts.parquet")
    assert set(kept["lane"]) == {"stock", "pinned"}
    assert len(kept) == len(stock) + len(pinned)
    assert (kept.loc[kept["lane"] == "pinned", "bound_s"] == 1.0).all()
    live_curves.keep(pinned.assign(nodes=7), tmp_path)
    assert set(pd.read_parquet(tmp_path / "bursts.parquet")["lane"]) == {"pinned"}


def test_rows_replace_those_about_the_same(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    live_curves.replace_rows(path, [{"what": "a", "value": 1}, {"what": "b", "value": 2}])
    live_curves.replace_rows(path, [{"what": "a", "value": 3}])
    assert {one["what"]: one["value"] for one in json.loads(path.read_text())} == {"a": 3, "b": 2}


def test_a_curve_says_when_a_part_is_bound() -> None:
    curve = live_curves.steps(pd.Series([4.0, 1.0, 2.0, 8.0]))
    assert [curve.until_s(part) for part in (0.25, 0.5, 0.51, 1.0)] == [1.0, 2.0, 4.0, 8.0]
