"""The calibrated generator: load, sizes, seeds, campaigns, estimates."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from traces import arrivals, estimates, profiles, runtimes, schema, synthetic
from traces.description import total_gpus
from traces.streams import Stream, generator

DAY_S = 86_400.0


def month(profile: str = "openai_like", **changes: object) -> pd.DataFrame:
    settings = {"num_gpus": 4_000, "days": 10.0, "load": 0.85, "seed": 1, **changes}
    return synthetic.generate(profile, **settings)


def work_of(jobs: pd.DataFrame) -> np.ndarray:
    return total_gpus(jobs) * jobs["duration_s"].to_numpy()


@pytest.mark.parametrize("profile", profiles.names())
def test_offered_load_is_met_and_the_table_is_complete(profile: str) -> None:
    jobs = month(profile)
    assert work_of(jobs).sum() == pytest.approx(0.85 * 4_000 * 10 * DAY_S, rel=1e-3)
    pd.testing.assert_frame_equal(schema.complete(jobs), jobs)
    assert jobs["submit_s"].between(0, 10 * DAY_S, inclusive="left").all()
    assert jobs["submit_s"].is_monotonic_increasing
    assert (jobs["walltime_s"] >= jobs["duration_s"]).all()
    assert (jobs["duration_s"] > 0).all()
    assert set(jobs["outcome"]) == {"completed", "cancelled", "failed"}


def test_all_profiles_are_there() -> None:
    expected = {"acme", "seren", "kalos", "helios", "philly", "mixed", "openai_like"}
    assert set(profiles.names()) == expected


@pytest.mark.parametrize("tail_scale", [0.0, 0.5, 1.0])
def test_openai_like_jobs_are_whole_nodes(tail_scale: float) -> None:
    jobs = month(num_gpus=20_000, tail_scale=tail_scale)
    assert (jobs["gpus_per_pod"] == 8).all()
    assert (jobs["last_pod_gpus"] == 8).all()
    assert (jobs["min_member"] == jobs["num_pods"]).all()
    assert total_gpus(jobs).max() <= 0.4 * 20_000


def test_the_tail_grows_with_the_cluster_only_where_asked() -> None:
    published = {cell.size.gpus for cell in profiles.cells("openai_like")}
    flat = total_gpus(month(num_gpus=20_000, tail_scale=0.0))
    grown = total_gpus(month(num_gpus=20_000, tail_scale=1.0))
    assert set(flat.tolist()) <= published
    assert grown.max() > 2 * max(published)
    assert set(grown[grown < 256].tolist()) <= published, "small jobs keep their size"
    at_reference = total_gpus(month(num_gpus=2_400, tail_scale=1.0))
    assert set(at_reference.tolist()) <= {min(size, 960) for size in published}


def test_small_clusters_cap_the_largest_jobs() -> None:
    assert total_gpus(month("kalos", num_gpus=100)).max() <= 40
    assert synthetic.largest_gang(100) == 40
    assert synthetic.largest_gang(19) == 7


def test_the_same_seed_gives_the_same_jobs_and_another_gives_others() -> None:
    pd.testing.assert_frame_equal(month(), month())
    assert not np.array_equal(month()["submit_s"][:50], month(seed=2)["submit_s"][:50])


def test_a_larger_load_has_the_campaigns_of_the_smaller_and_more() -> None:
    small, large = month(load=0.4), month(load=1.3)
    named = ["submit_s", "num_pods", "walltime_s", "outcome"]
    # the job that meets the target is shortened, so it differs
    kept = pd.merge(small, large, on=[*named, "duration_s"])
    assert len(large) > 2 * len(small)
    assert len(kept) >= 0.99 * len(small)


def test_streams_are_independent() -> None:
    """Each kind of draw has its own generator: same numbers whatever the others did."""
    draws = {stream: generator(7, stream).random(4).tolist() for stream in Stream}
    for stream in reversed(Stream):
        assert generator(7, stream).random(4).tolist() == draws[stream]
    values = [value for row in draws.values() for value in row]
    assert len(set(values)) == len(values)
    assert generator(7, Stream.SIZES, replica=1).random() != draws[Stream.SIZES][0]


def test_sizes_do_not_depend_on_arrivals(monkeypatch: pytest.MonkeyPatch) -> None:
    before = month()

    def flat(model: profiles.Arrivals, jobs_of: np.ndarray, *_: object) -> np.ndarray:
        return np.linspace(0.0, 1.0, int(jobs_of.sum()))

    monkeypatch.setattr(synthetic, "submissions", flat)
    after = month()
    columns = ["duration_s", "num_pods", "walltime_s", "outcome"]
    pd.testing.assert_frame_equal(
        before[columns].sort_values(columns, ignore_index=True),
        after[columns].sort_values(columns, ignore_index=True),
    )


def test_jobs_of_a_campaign_share_size_source_and_habit() -> None:
    jobs = month("helios", num_gpus=1_000)
    campaigns = jobs.groupby("user")
    assert (campaigns["num_pods"].nunique() == 1).all()
    assert (campaigns["gpus_per_pod"].nunique() == 1).all()
    many = campaigns.filter(lambda rows: len(rows) >= 3)
    log_s = np.log(many["duration_s"])
    within = log_s.groupby(many["user"]).var().mean()
    assert within < 0.3 * log_s.var(), "run times of a campaign are alike"
    gaps = many.groupby("user")["submit_s"].diff().dropna()
    assert gaps.mean() == pytest.approx(5.0, rel=0.1)


def test_campaigns_begin_where_they_were_drawn() -> None:
    model = profiles.calibration().arrivals
    jobs_of = np.array([1, 4, 2, 1, 50] * 40)
    starts = arrivals.campaign_starts(model, len(jobs_of), 2_000, 7.0, 9)
    submit_s = arrivals.submissions(model, jobs_of, 2_000, 7.0, 9)
    first = np.cumsum(jobs_of) - jobs_of
    assert submit_s[first] == pytest.approx(starts, abs=1e-6)
    inside = np.ones(len(submit_s), bool)
    inside[first] = False
    gaps = np.diff(submit_s, prepend=0.0)[inside]
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(model.gap_s, rel=0.1)


def test_campaigns_have_the_calibrated_sizes() -> None:
    model = profiles.calibration().arrivals
    jobs = month("helios", num_gpus=4_000, days=20.0)
    is_small = total_gpus(jobs) < model.small_below_gpus
    small = jobs[is_small].groupby("user").size()
    assert small.mean() == pytest.approx(model.small_campaign_jobs, rel=0.05)
    large = jobs[~is_small].groupby("user").size()
    assert large.mean() == pytest.approx(model.large_campaign_jobs, rel=0.05)


def test_submissions_follow_the_hour_and_the_weekday() -> None:
    model = profiles.calibration().arrivals
    starts = np.concatenate(
        [arrivals.campaign_starts(model, 40_000, 2_000, 70.0, seed) for seed in range(6)]
    )
    by_hour = np.bincount((starts / 3600).astype(int) % 24, minlength=24)
    by_day = np.bincount((starts / DAY_S).astype(int) % 7, minlength=7)
    for found, factor in ((by_hour, model.hour), (by_day, model.weekday)):
        share = np.array(factor) / np.mean(factor)
        assert np.corrcoef(found, share)[0, 1] > 0.9
        assert np.abs(found / found.mean() - share).mean() < 0.15


def test_the_hourly_factor_calms_down_on_larger_clusters() -> None:
    model = profiles.calibration().arrivals
    spread = [np.std(np.log(arrivals.intensity(model, gpus, 365.0, 0))) for gpus in (2_000, 80_000)]
    assert spread[1] < 0.8 * spread[0]


@pytest.mark.parametrize("name", ["seren", "kalos", "helios", "philly"])
def test_run_times_have_the_tabulated_distribution(name: str) -> None:
    """Drawn through normal scores, compared with the mixture's own distribution function."""
    trace = profiles.calibration().trace[name]
    score = np.random.default_rng(3).standard_normal(20_000)
    for size in trace.sizes[:: len(trace.sizes) - 1]:
        drawn = np.sort(runtimes.run_times(name, size.long, score))
        at = np.quantile(drawn, [0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
        at = at[at > runtimes.SHORTEST_S]
        found = np.searchsorted(drawn, at, "right") / len(drawn)
        model = [runtimes.cdf(trace, size.long, math.log(value)) for value in at.tolist()]
        assert np.abs(found - model).max() < 0.02
        assert drawn[-1] <= trace.longest_s * (1 + 1e-9)


@pytest.mark.parametrize("name", ["seren", "kalos", "helios", "philly"])
def test_shares_of_a_trace_add_up(name: str) -> None:
    trace = profiles.calibration().trace[name]
    assert sum(size.jobs for size in trace.sizes) == pytest.approx(1.0, abs=0.01)
    assert sum(size.gpu_time for size in trace.sizes) == pytest.approx(1.0, abs=0.01)
    assert all(0 <= size.long <= 1 for size in trace.sizes)
    assert sum(cell.jobs for cell in profiles.cells(name)) == pytest.approx(1.0)


@pytest.mark.slow
def test_a_mixture_gives_each_trace_its_share_of_gpu_time() -> None:
    """On average over seeds: the profile `acme` is half Seren, half Kalos."""
    shares = []
    for seed in range(8):
        jobs = month("acme", num_gpus=8_000, days=20.0, seed=seed, tail_scale=0.0)
        work = pd.Series(work_of(jobs)).groupby(jobs["queue"].to_numpy()).sum()
        shares.append(work["seren"] / work.sum())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)


def test_requests_are_from_the_menu_and_by_campaign() -> None:
    model = profiles.calibration().estimates
    duration_s = np.full(5_000, 3_600.0)
    asked_s = estimates.walltimes(model, duration_s, np.arange(5_000), seed=0)
    assert set(asked_s / 3600) <= set(model.menu_h)
    assert (asked_s >= duration_s).all()
    assert 0.10 < (asked_s == 3_600.0).mean() < 0.25, "some ask for what they run"
    same = estimates.walltimes(model, duration_s, np.zeros(5_000, np.int64), seed=0)
    assert len(set(same.tolist())) == 1
    month_s = np.array([20.5 * DAY_S])
    assert estimates.walltimes(model, month_s, np.zeros(1, np.int64), seed=0) == 21 * DAY_S


@pytest.mark.parametrize(
    ("profile", "changes", "message"),
    [
        ("seran", {}, "workload profile 'seran': not known; choose seren, kalos"),
        ("openai_like", {"num_gpus": 8}, "num_gpus 8: too few .* use 20 GPUs or more"),
        ("seren", {"num_gpus": 1}, "num_gpus 1: too few"),
        ("seren", {"days": 0}, "days 0: must be a number above 0"),
        ("seren", {"load": -0.1}, "load -0.1: must be a number above 0"),
        ("seren", {"load": math.inf}, "load inf: must be a number above 0"),
        ("seren", {"tail_scale": 2.5}, "tail_scale 2.5: must be between 0 and 2"),
        ("seren", {"seed": -1}, "seed -1: must be 0 or more"),
    ],
)
def test_impossible_wishes(profile: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        month(profile, **changes)
