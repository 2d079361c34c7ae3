"""The comparison with published figures, and the page that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from sim.commands import modelcheck
from traces import runtimes, validation
from traces.profiles import calibration


@pytest.fixture(scope="module")
def checks() -> pd.DataFrame:
    return validation.checks(seeds=(11, 12))


@pytest.mark.slow
def test_the_generator_is_near_the_published_figures(checks: pd.DataFrame) -> None:
    rows = checks.set_index(["topic", "profile", "what"])

    def off(topic: str) -> pd.Series:
        one = rows.loc[topic]
        return (one["generated"] - one["published"]).abs()

    assert off("jobs by size").max() < 0.015
    assert off("GPU time by size").max() < 0.12
    assert off("GPU time by size").mean() < 0.015
    assert off("end").max() < 0.06
    distance = rows.xs("largest distance of the distributions", level="what")["generated"]
    assert distance.max() < 0.04
    times = rows.loc["run time"].drop("largest distance of the distributions", level="what")
    ratio = times["generated"] / times["published"]
    assert ratio.drop(("kalos", "p99")).between(0.7, 1.4).all()


@pytest.mark.slow
def test_what_is_known_to_miss_is_called_a_miss(checks: pd.DataFrame) -> None:
    """If one of these is mended, the page's explanation of it must go."""
    misses = set(checks.loc[checks["is_miss"], "what"])
    assert {
        "GPUs submitted per hour, CV",
        "jobs within a minute of another of the same owner and size",
        "median run time / request, by user",
        "outages within an hour after another node's",
    } <= misses
    assert checks["is_miss"].mean() < 0.2
    assert not checks.isna().any(axis=None)


@pytest.mark.slow
def test_the_page_names_every_miss_and_every_topic(checks: pd.DataFrame) -> None:
    months = pd.DataFrame(
        [
            {
                "nodes": 2_500,
                "load": 0.85,
                "seed": 0,
                "jobs": 1,
                "pods": 2,
                "pods_per_minute_p99": 3.0,
                "pods_per_minute_max": 4.0,
                "largest_gpus": 8,
            }
        ]
    )
    text = modelcheck.page(checks, months)
    first = text.split("## Sizes")[0]
    for row in checks[checks["is_miss"]].to_dict("records"):
        assert f"{row['profile']} {row['what']}" in first
    assert text.count(" * |") == checks["is_miss"].sum()
    assert set(checks["topic"]) == set(modelcheck.REASONS)
    assert not re.search(r"[{}]|nan|<NA>", text)


def test_size_shares_read_the_steps_where_they_are() -> None:
    seren = validation.size_shares("seren").set_index("gpus")
    kalos = validation.size_shares("kalos").set_index("gpus")
    assert seren["jobs"].sum() == pytest.approx(1.0)
    assert seren.loc[1, "jobs"] == pytest.approx(0.54038)
    assert seren.loc[512, "gpu_time"] == pytest.approx(0.13388)
    assert kalos.loc[512, "jobs"] == pytest.approx(0.02045), "512 GPUs: most of Kalos' pretraining"
    assert kalos.loc[1, "gpu_time"] == 0.0
    assert kalos.loc[1024, "gpu_time"] == pytest.approx(0.35748)


@pytest.mark.parametrize("name", validation.SERIES)
def test_calibrated_sizes_are_the_published_classes(name: str) -> None:
    """profiles.toml restates the curves: a size stands for its class, or two for one of them."""
    shares = validation.size_shares(name)
    ends = shares["gpus"].tolist()
    found = [0.0] * len(ends)
    for size in calibration().trace[name].sizes:
        found[next(at for at, end in enumerate(ends) if size.gpus <= end)] += size.jobs
    assert found == pytest.approx(shares["jobs"].tolist(), abs=6e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", validation.SERIES)
def test_calibrated_run_times_give_each_size_its_gpu_time(name: str) -> None:
    """`long` is solved from the mean run time of a size; where it is 1 or tiny it cannot be met."""
    import numpy as np
    from scipy.stats import norm

    trace = calibration().trace[name]
    score = norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    for size in trace.sizes:
        if size.gpu_time == 0 or size.long in (1.0, trace.sizes[0].long):
            continue
        mean_s = runtimes.run_times(name, size.long, score).mean()
        wanted_s = size.gpu_time * trace.gpu_s_per_job / (size.jobs * size.gpus)
        assert mean_s == pytest.approx(wanted_s, rel=0.06), size


@pytest.mark.slow
def test_the_committed_page_is_of_this_generator(repository: Path) -> None:
    """Its table of months is cheap to make again."""
    page = (repository / "docs" / f"{modelcheck.NAME}.md").read_text(encoding="utf-8")
    months = validation.months()
    assert modelcheck._of_months(months).strip() in page
    assert (repository / "docs" / f"{modelcheck.NAME}.png").is_file()
