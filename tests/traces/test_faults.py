"""Node outages: the fitted model and the real list."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from traces import faults
from traces.profiles import calibration

DAY_S = 86_400.0


def unavailability(table: pd.DataFrame, nodes: int, horizon_s: float) -> float:
    down_s = table["end_s"].clip(upper=horizon_s) - table["start_s"]
    return float(down_s.sum() / (nodes * horizon_s))


@pytest.mark.parametrize("source", ["calibrated", "stepfun"])
def test_outages_are_ordered_apart_and_touch_the_run(source: str) -> None:
    horizon_s = 90 * DAY_S
    for seed in range(3):
        table = getattr(faults, source)(1_000, horizon_s, seed)
        assert list(table.columns) == ["node", "start_s", "end_s", "kind"]
        assert table["start_s"].is_monotonic_increasing
        assert table["start_s"].between(0, horizon_s, inclusive="left").all()
        assert (table["end_s"] > table["start_s"]).all()
        assert table["node"].between(0, 999).all()
        assert set(table["kind"]) == {"hardware", "other"}
        by_node = table.sort_values(["node", "start_s"])
        up_s = by_node["start_s"] - by_node.groupby("node")["end_s"].shift()
        assert (up_s.dropna() > 0).all(), "a node that is down cannot fail"


@pytest.mark.parametrize("rate", [2.3, 4.2, 6.5])
def test_rate_is_the_one_asked_for(rate: float) -> None:
    """Faults of nodes that are down do not count, so a little less comes out."""
    nodes, days = 4_000, 60.0
    found = []
    for seed in range(4):
        table = faults.calibrated(nodes, days * DAY_S, seed, rate)
        found.append((table["start_s"] > 0).sum() / (nodes * days) * 1_000)
    assert np.mean(found) == pytest.approx(rate, rel=0.08)
    assert np.mean(found) < 1.02 * rate


def test_unavailability_is_near_that_of_the_list() -> None:
    found = []
    for seed in range(6):
        table = faults.calibrated(2_500, 30 * DAY_S, seed)
        found.append(unavailability(table, 2_500, 30 * DAY_S))
        assert (table["start_s"] == 0).any(), "some are open when the run begins"
    assert 0.015 < np.mean(found) < 0.025
    model = calibration().faults
    real = faults.listed()
    days = (model.stepfun_days * DAY_S, model.stepfun_nodes)
    assert unavailability(real, days[1], days[0]) == pytest.approx(0.023, abs=0.001)


def test_outages_of_one_node_that_overlap_become_one() -> None:
    rows = [
        (0, -90.0, -10.0, "other"),  # over before the run
        (0, -50.0, 40.0, "hardware"),  # open at its begin
        (0, 10.0, 20.0, "other"),  # within the one before
        (0, 30.0, 60.0, "other"),  # makes it longer
        (0, 70.0, 500.0, "other"),  # ends after the run
        (1, 100.0, 110.0, "other"),  # begins when the run is over
        (2, 5.0, 6.0, "other"),
    ]
    found = faults._within(rows, 100.0).to_numpy().tolist()
    assert found == [
        [0, 0.0, 60.0, "hardware"],
        [2, 5.0, 6.0, "other"],
        [0, 70.0, 500.0, "other"],
    ]


def test_no_rate_no_outages() -> None:
    table = faults.calibrated(100, 30 * DAY_S, 0, 0.0)
    assert table.empty
    assert list(table.columns) == ["node", "start_s", "end_s", "kind"]


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf])
def test_impossible_rates(rate: float) -> None:
    with pytest.raises(ValueError, match=r"per_1000_node_days = .* must be 0 or more, and finite"):
        faults.calibrated(100, DAY_S, 0, rate)


@pytest.mark.parametrize("source", [faults.calibrated, faults.stepfun])
def test_the_same_seed_gives_the_same_outages(source: object) -> None:
    first, again, other = (source(800, 30 * DAY_S, seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert first["start_s"].tolist() != other["start_s"].tolist()


def test_nodes_differ_and_fail_again_soon() -> None:
    """Gamma frailty and repeated faults make some nodes far worse than chance would."""
    table = faults.calibrated(4_000, 349 * DAY_S, 0)
    counts = np.bincount(table["node"], minlength=4_000)
    poisson = math.exp(-counts.mean())
    assert (counts == 0).mean() > 1.7 * poisson
    assert counts.var() > 2.5 * counts.mean()
    by_node = table.sort_values(["node", "start_s"])
    up_s = by_node["start_s"] - by_node.groupby("node")["end_s"].shift()
    assert 0.18 < (up_s < DAY_S).mean() < 0.26


def test_repairs_have_the_calibrated_medians() -> None:
    table = faults.calibrated(4_000, 349 * DAY_S, 1)
    whole = table[table["start_s"] > 0]
    hours = (whole["end_s"] - whole["start_s"]) / 3_600
    median = hours.groupby(whole["kind"]).median()
    model = calibration().faults
    assert median["hardware"] == pytest.approx(model.hardware.median_h, rel=0.15)
    assert median["other"] == pytest.approx(model.other.median_h, rel=0.15)
    # a fault inside an outage makes it longer, so the cap binds single repairs only
    assert hours.max() <= 2 * model.longest_d * 24


def test_the_list() -> None:
    real = faults.listed()
    assert len(real) == 584
    assert real["node"].between(0, 399).all()
    assert real["node"].nunique() == 231
    assert (real["kind"] == "hardware").mean() == pytest.approx(0.51, abs=0.005)
    assert real["end_s"].max() < calibration().faults.stepfun_days * DAY_S


def test_the_list_is_laid_over_every_400_nodes() -> None:
    """A whole period of one copy has every outage of the list, shifted and on other servers."""
    model = calibration().faults
    horizon_s = model.stepfun_days * DAY_S
    table = faults.stepfun(800, horizon_s, 0)
    real = faults.listed()
    for low in (0, 400):
        copy = table[table["node"].between(low, low + 399)]
        assert copy["node"].nunique() == real["node"].nunique()
        assert abs(len(copy) - len(real)) <= 20, "those across the ends are cut or joined"
        lengths = set((copy["end_s"] - copy["start_s"]).round(3))
        assert len(lengths & set((real["end_s"] - real["start_s"]).round(3))) > 0.9 * len(lengths)
    assert len(faults.stepfun(100, horizon_s, 0)) < 0.5 * len(real)
