"""Capacity planning: the search finds the limit and says how sure it is and what binds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from matplotlib.figure import Figure

from sim.runs.experiment import run
from sim.study import costcurve, search
from sim.study.plan import Plan
from sim.study.search import Evaluation, solve, t_interval
from sim.study.targets import Measured, Target, measure

SETTINGS = """
nodes = 24
control_plane = "ideal"
seeds = [0, 1]
warmup_days = 0.25

[workload]
name = "openai_like"
profile = "openai_like"
load = 0.5
days = 1.5
tail_scale = 0.0

[arm]
name = "gang-easy"
backfill = "easy"

[vary]
what = "nodes"
low = 12
high = 60
step = 4

[[target]]
metric = "queueing_delay_p90_s"
max_gpus = 64
at_most = 3600
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(SETTINGS)
    return path


def plan_of(path: Path, *changes: tuple[str, str]) -> Plan:
    text = SETTINGS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return Plan.load(path)


def pretend(
    plan: Plan, values: Callable[[float], tuple[float, ...]]
) -> Callable[[int, int], Evaluation]:
    """Return evaluations that a formula gives, and not a run."""

    def get(seed: int, index: int) -> Evaluation:
        value = plan.sizes()[index]
        return Evaluation(value, seed, Measured(values(value), {}, 0))

    return get


DELAY = "at_most = 3600"
ALLOCATION = 'at_most = 3600\n[[target]]\nmetric = "allocation_ratio"\nat_least = 0.5'


@pytest.mark.parametrize("limit", [12, 13, 16, 17, 40, 59, 60])
def test_search_finds_the_smallest_cluster(settings: Path, limit: float) -> None:
    plan = plan_of(settings)
    found = search.search(plan, 0, pretend(plan, lambda n: (0.0 if n >= limit else 9e9,)))
    assert found.first is not None
    assert plan.sizes()[found.first] == -(-limit // 4) * 4
    assert found.last == len(plan.sizes()) - 1


def test_search_says_so_where_even_the_largest_cluster_fails(settings: Path) -> None:
    plan = plan_of(settings)
    assert search.search(plan, 0, pretend(plan, lambda n: (9e9,))).first is None


def test_search_for_a_load_finds_the_largest(settings: Path) -> None:
    vary = 'what = "nodes"\nlow = 12\nhigh = 60\nstep = 4'
    plan = plan_of(settings, (vary, 'what = "load"\nlow = 0.1\nhigh = 1.0\nstep = 0.1'))
    found = search.search(plan, 0, pretend(plan, lambda load: (0.0 if load < 0.65 else 9e9,)))
    assert found.first is not None
    assert plan.sizes()[found.first] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("delay_needs", "allocation_allows", "expected"),
    [(20, 40, (20, 40)), (20, 20, (20, 20)), (20, 80, (20, 60)), (40, 20, (40, None))],
)
def test_targets_that_pull_both_ways_leave_a_range_or_nothing(
    settings: Path, delay_needs: float, allocation_allows: float, expected: tuple[int, int | None]
) -> None:
    plan = plan_of(settings, (DELAY, ALLOCATION))

    def values(nodes: float) -> tuple[float, float]:
        return 0.0 if nodes >= delay_needs else 9e9, 0.9 if nodes <= allocation_allows else 0.1

    found = search.search(plan, 0, pretend(plan, values))
    ends = tuple(None if i is None else plan.sizes()[i] for i in (found.first, found.last))
    assert ends == expected


def test_a_cluster_too_small_for_some_gang_does_not_meet_the_targets(settings: Path) -> None:
    plan = plan_of(settings)

    def get(seed: int, index: int) -> Evaluation:
        value = plan.sizes()[index]
        return Evaluation(value, seed, Measured((0.0,), {}, 1 if value < 30 else 0))

    found = search.search(plan, 0, get)
    assert found.first is not None
    assert plan.sizes()[found.first] == 32


def test_the_curve_counts_gangs_that_never_fit(settings: Path) -> None:
    plan = plan_of(settings)
    ran = (Evaluation(12, 0, Measured((0.0,), {}, 3)), Evaluation(16, 0, Measured((0.0,), {}, 0)))
    table = costcurve.curve_table(plan, search.Answer((), None, None, False, {}, ran, (12, 16)))
    assert table[["nodes", "is_met", "num_never_fits"]].to_numpy().tolist() == [
        [12, False, 3],
        [16, True, 0],
    ]


@pytest.mark.parametrize("count", [2, 5, 21, 22, 60])
def test_interval_is_that_of_student(count: int) -> None:
    values = np.random.default_rng(count).normal(100.0, 10.0, count).tolist()
    mine = t_interval(values)
    low, high = scipy.stats.t.interval(
        0.95, count - 1, loc=np.mean(values), scale=scipy.stats.sem(values)
    )
    assert (mine.low, mine.high) == pytest.approx((low, high), rel=1e-4)


def test_one_replication_has_no_interval() -> None:
    assert np.isnan([t_interval([5.0]).low, t_interval([5.0]).high]).all()


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    """One 8-GPU node: a runs 100 s, b waits for it, c is small and late."""
    return pd.DataFrame(
        {
            "job": ["a", "b", "c"],
            "submit_s": [0.0, 0.0, 150.0],
            "duration_s": [100.0, 100.0, 50.0],
            "num_pods": [1, 2, 1],
            "gpus_per_pod": [8, 4, 2],
        }
    )


@pytest.mark.parametrize(
    ("metric", "choice", "expected"),
    [
        ("queueing_delay_p50_s", {}, 50.0),
        ("queueing_delay_p99_s", {}, 100.0),
        ("queueing_delay_p99_s", {"max_gpus": 7}, 50.0),
        ("jct_p99_s", {"min_gpus": 8}, 200.0),
        ("bounded_slowdown_p99", {}, 2.0),
        ("pending_pods_max", {}, 2.0),
        ("pending_pods_p50", {}, 2.0),
        ("pending_pods_mean", {}, 200 / 150),
        ("allocation_ratio", {}, 1.0),
    ],
)
def test_metrics_of_a_hand_worked_run(
    jobs: pd.DataFrame, metric: str, choice: dict[str, int], expected: float
) -> None:
    target = Target(metric=metric, at_most=1.0, **choice)
    result = run(jobs, nodes=1)
    assert measure(result, (target,), 0.0).values[0] == pytest.approx(expected)


def test_what_the_jobs_of_a_target_waited_for_is_counted_in_pod_seconds(
    jobs: pd.DataFrame,
) -> None:
    target = Target(metric="jct_p50_s", at_most=1.0, min_gpus=8)
    found = measure(run(jobs, nodes=1), (target,), 0.0).pending_pod_s
    assert found == {"capacity": pytest.approx(200.0)}


def test_warm_up_longer_than_the_jobs_is_refused(jobs: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="nothing is left to measure"):
        measure(run(jobs, nodes=1), (Target(metric="jct_p50_s", at_most=1.0),), 151.0)


@pytest.mark.slow
def test_plan_from_settings_to_files(settings: Path, tmp_path: Path) -> None:
    plan = Plan.load(settings)
    answer = solve(plan, tmp_path / "out", processes=2, progress=False)
    assert answer.limit is not None
    assert answer.safe is not None
    assert answer.limit.low <= answer.limit.mean <= answer.limit.high
    for one in answer.found:
        assert one.first is not None
        at = {e.value: e for e in answer.evaluations if e.seed == one.seed}
        size = plan.sizes()[one.first]
        assert plan.target[0].is_met(at[size].measured.values[0])
        if one.first:
            smaller = at[plan.sizes()[one.first - 1]].measured
            assert smaller.num_never_fits or not plan.target[0].is_met(smaller.values[0])
    assert sum(answer.binds.values()) == pytest.approx(1.0)
    paths = costcurve.write(plan, answer, tmp_path / "out")
    assert all(path.stat().st_size > 100 for path in paths.values())
    table = pd.read_csv(paths["cost_curve.csv"])
    assert set(table.loc[table["in_curve"], "nodes"]) == set(answer.curve)
    written = json.loads(paths["plan.json"].read_text())
    assert written["headline"].startswith("Smallest cluster that meets the target: ")
    before = {path: path.read_bytes() for path in paths.values()}
    evaluations = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/evaluations").iterdir()}
    again = solve(plan, tmp_path / "out", processes=1, progress=False)
    assert again == answer
    costcurve.write(plan, again, tmp_path / "out")
    assert {path: path.read_bytes() for path in paths.values()} == before
    assert {
        p: p.stat().st_mtime_ns for p in (tmp_path / "out/evaluations").iterdir()
    } == evaluations


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([(DELAY, "at_most = 0.0"), ("high = 60", "high = 20")], "raise vary.high"),
        ([(DELAY, "at_most = 9e9"), ("low = 12", "low = 40")], "lower vary.low"),
        (
            [(DELAY, ALLOCATION.replace("0.5", "0.99"))],
            "No answer: the targets contradict each other",
        ),
    ],
    ids=["infeasible", "edge", "contradiction"],
)
def test_headline_says_what_to_do(
    settings: Path, tmp_path: Path, changes: list[tuple[str, str]], says: str
) -> None:
    plan = plan_of(settings, *changes)
    answer = solve(plan, tmp_path / "out", processes=2, progress=False)
    assert says in costcurve.headline(plan, answer)
    costcurve.write(plan, answer, tmp_path / "out")


def test_headline_gives_advice_that_can_be_followed(settings: Path) -> None:
    one_seed = ("seeds = [0, 1]", "seeds = [0]")
    plan = plan_of(settings, one_seed, ("low = 12", "low = 8"))
    least = plan_of(settings, one_seed, ("low = 12", "low = 1"))

    def answer(wait_s: float) -> search.Answer:
        get = pretend(plan, lambda _: (wait_s,))
        found = search.search(plan, 0, get)
        limit = None if found.first is None else t_interval([plan.sizes()[found.first]])
        ran = tuple(get(0, index) for index in range(len(plan.sizes())))
        return search.Answer((found,), limit, None, limit is not None, {}, ran, ())

    edge, none = answer(0.0), answer(9e9)
    assert plan.value_name(1.0) == "1 node"
    assert "meet it at vary.low = 8: lower vary.low" in costcurve.headline(plan, edge)
    by_flag = costcurve.headline(plan, edge, "--nodes")
    assert "meet it at 8 nodes: give --nodes LOW-HIGH with a smaller LOW" in by_flag
    assert "vary" not in by_flag
    for text in (costcurve.headline(plan, edge, "jobs"), costcurve.headline(least, edge)):
        assert text.endswith("(one replication, so no interval).")
    assert "raise vary.high" in costcurve.headline(plan, none)
    for text in (
        costcurve.headline(plan, none, "--nodes"),
        costcurve.headline(plan, none, "jobs"),
    ):
        assert "give --nodes LOW-HIGH with a larger HIGH, or relax" in text
        assert "vary" not in text


def test_headline_says_which_jobs_to_leave_out(settings: Path) -> None:
    plan = plan_of(settings, ("seeds = [0, 1]", "seeds = [0]"))
    why = "1 ('a'): asks for GPU model 'A100'; no node states its model"
    measured = Measured((0.0,), {}, 1, why)

    def get(seed: int, index: int) -> Evaluation:
        return Evaluation(plan.sizes()[index], seed, measured)

    found = search.search(plan, 0, get)
    ran = tuple(get(0, index) for index in range(len(plan.sizes())))
    answer = search.Answer((found,), None, None, False, {}, ran, ())
    assert costcurve.headline(plan, answer, "--nodes") == (
        f"No answer: even 60 nodes miss the target in 1 of 1 replications (seed 0: 1 job can never "
        f"run: {why}); give --nodes LOW-HIGH with a larger HIGH, or leave these jobs out if no "
        "number of such nodes could run them."
    )


@pytest.mark.slow
def test_jobs_file_is_planned_with_one_replication(tmp_path: Path, jobs: pd.DataFrame) -> None:
    many = pd.concat(
        [
            jobs.assign(job=jobs["job"] + str(i), submit_s=jobs["submit_s"] + 60.0 * i)
            for i in range(40)
        ]
    )
    many.to_csv(tmp_path / "jobs.csv", index=False)
    plan = plan_of(
        tmp_path / "plan.toml",
        ('profile = "openai_like"\nload = 0.5\ndays = 1.5\ntail_scale = 0.0', 'jobs = "jobs.csv"'),
        ("low = 12\nhigh = 60\nstep = 4", "low = 1\nhigh = 9"),
        ("warmup_days = 0.25", ""),
        ("at_most = 3600", "at_most = 60"),
    )
    answer = solve(plan, tmp_path / "out", processes=1, progress=False)
    assert len(answer.found) == 1
    assert answer.limit is not None
    assert 1 < answer.limit.mean < 9
    assert "one replication, so no interval" in costcurve.headline(plan, answer)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("high = 60", "high = 6", "give 0 < low < high"),
        ("step = 4", "step = 0", "step is 0"),
        ("step = 4", "step = 2.5", "nodes are whole numbers"),
        ("nodes = 24", "", "nodes is 0; give the size of the cluster"),
        ("warmup_days = 0.25", "warmup_days = 2.0", "less than the workload's days"),
        ("queueing_delay_p90_s", "queueing_delay_s", "no such metric"),
        ("at_most = 3600", "", "give one of at_most and at_least"),
        ("at_most = 3600", "at_least = 3600", "more of it is never better"),
        ('metric = "queueing_delay_p90_s"', 'metric = "pending_pods_max"', "choose jobs"),
        ("max_gpus = 64", "max_gpus = 64\nmin_gpus = 65", "is above max_gpus"),
        (DELAY, ALLOCATION.replace("0.5", "80"), "give 0 to 1, such as 0.8 for 80 %"),
        (DELAY, ALLOCATION.replace("0.5", "-0.1"), "limit is -0.1; it is a ratio: give 0 to 1"),
        (DELAY, ALLOCATION.replace("allocation", "useful").replace("0.5", "1.5"), "0.015 for 1.5"),
        ("seeds = [0, 1]", "seeds = []", "seeds is empty"),
        ('what = "nodes"', 'what = "colour"', "Invalid enum value 'colour'"),
        ("max_gpus = 64", "max_gpu = 64", "unknown field `max_gpu`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(settings, (old, new))


def test_metrics_show_their_unit() -> None:
    assert Target(metric="jct_p95_s", at_most=1800, max_gpus=512).sentence() == (
        "p95 JCT of gangs up to 512 GPUs at most 30.0 min"
    )
    assert Target(metric="allocation_ratio", at_least=0.8).sentence() == "allocation at least 80 %"
    assert Target(metric="pending_pods_p99", at_most=2000).sentence() == (
        "p99 pending pods at most 2,000"
    )


def test_plan_of_the_repository_can_be_read(repository: Path) -> None:
    plan = Plan.load(repository / "plan.toml")
    assert msgspec.to_builtins(plan.vary)["what"] == "nodes"


@pytest.mark.parametrize(("low", "high"), [(6, 9), (7, 7), (120, 480)])
def test_an_axis_of_nodes_has_whole_nodes_only(settings: Path, low: int, high: int) -> None:
    plan = plan_of(settings)
    values = sorted({low, high})
    table = pd.DataFrame(
        {"nodes": values, "target": 0, "in_curve": True, "value": 1.0, "num_never_fits": 0}
    )
    answer = search.Answer((), None, None, False, {}, (), tuple(values))
    axes = Figure(figsize=(7.2, 2.8)).add_subplot()
    costcurve.draw_curve(table, 0, plan, answer, axes)
    left, right = axes.get_xlim()
    shown = [place for place in axes.get_xticks() if left <= place <= right]
    assert len(shown) >= 2 and all(place == round(place) for place in shown)
