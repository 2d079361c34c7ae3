"""The report: its figures equal those worked out by hand from the tables; its page stands alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim import RunResult, run
from sim.report.digest import digest, read_heads, shared_window
from sim.report.report import build_report
from sim.runs import metrics
from sim.runs.steps import pending_steps
from traces.synthetic import generate

NODES = 12


def workload() -> pd.DataFrame:
    jobs = generate("openai_like", num_gpus=NODES * 8, days=1, load=1.2, seed=3)
    return jobs.iloc[:220]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three arms of the same jobs; the first covers only the beginning."""
    root = tmp_path_factory.mktemp("runs")
    jobs = workload()
    middle_s = float(jobs["submit_s"].iloc[len(jobs) // 2])
    made = []
    for name, part, settings in (
        ("pod", jobs[jobs["submit_s"] <= middle_s], {"admission": "pod", "until_s": middle_s}),
        ("gang-fifo", jobs, {}),
        ("gang-easy", jobs, {"backfill": "easy"}),
    ):
        plane = {"control_plane": "kubernetes", "from_first": False}
        result = run(part, nodes=NODES, label=name, **plane, **settings)
        made.append(result.save(root / name, point={"workload": "tiny", "arm": name}))
    return made


@pytest.fixture(scope="module")
def page(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(folders, tmp_path_factory.mktemp("report"), title="A <title> & more")


def by_hand(run_: RunResult, end_s: float) -> tuple[list[float], list[int]]:
    """Return widths and pending pods of every step before `end_s`, with plain loops."""
    events: dict[float, dict[str, int]] = {}
    for row in run_.pending.itertuples():
        events.setdefault(float(row.time_s), {})[str(row.reason)] = int(row.pods)
    level: dict[str, int] = {}
    times, totals = [0.0], [0]
    for time_s in sorted(events):
        level |= events[time_s]
        times.append(time_s)
        totals.append(sum(level.values()))
    widths, pods = [], []
    for at, total in enumerate(totals):
        upto = times[at + 1] if at + 1 < len(times) else float(run_.manifest["end_s"])
        widths.append(max(0.0, min(upto, end_s) - min(times[at], end_s)))
        pods.append(total)
    return widths, pods


def weighted_quantile(widths: list[float], values: list[int], q: float) -> int:
    total, reached = sum(widths), 0.0
    for value, width in sorted(zip(values, widths, strict=True)):
        reached += width
        if reached >= q * total * (1 - 1e-12):
            return value
    raise AssertionError


def test_headline_figures_equal_those_worked_out_by_hand(folders: list[Path], page: Path) -> None:
    headline = pd.read_csv(page.parent / "tables" / "headline.csv")
    whole = headline[~headline["is_shared_window"] | (headline["arm"] == "pod")]
    assert sorted(whole["arm"]) == ["gang-easy", "gang-fifo", "pod"]
    for folder in folders:
        result = RunResult.load(folder)
        row = whole[whole["arm"] == folder.name].iloc[0]
        end_s = row["window_days"] * 86400.0
        widths, pods = by_hand(result, end_s)
        for q in (0.5, 0.99):
            assert row[f"pending_pods_p{q * 100:.0f}"] == weighted_quantile(widths, pods, q)
        seen = [p for p, w in zip(pods, widths, strict=True) if w > 0]
        assert row["pending_pods_max"] == max(seen)
        mean = float(np.dot(widths, pods)) / sum(widths)
        assert row["pending_pods_mean"] == pytest.approx(mean)
        submitted = result.jobs[result.jobs["submit_s"] < end_s]
        horizon_s = float(result.manifest["end_s"])
        waits = sorted(
            (job.start_s if job.start_s <= horizon_s else horizon_s) - job.submit_s
            for job in submitted.itertuples()
        )
        at = int(np.ceil(0.95 * len(waits))) - 1
        assert row["queueing_delay_p95_s"] == pytest.approx(waits[at])


def test_arms_are_compared_over_the_window_they_share(folders: list[Path], page: Path) -> None:
    headline = pd.read_csv(page.parent / "tables" / "headline.csv")
    shared = headline[headline["is_shared_window"]]
    assert len(shared) == 3
    assert shared["window_days"].nunique() == 1
    assert shared["num_jobs"].nunique() == 1
    longer = headline[~headline["is_shared_window"]]
    assert set(longer["arm"]) == {"gang-fifo", "gang-easy"}
    assert (longer["window_days"] > shared["window_days"].iloc[0]).all()


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "A &lt;title&gt; &amp; more" in text
    assert "<script src" not in text
    text = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    sources = re.findall(r'src="([^"]{0,40})', text)
    assert sources
    assert all(source.startswith("data:image/svg+xml,") for source in sources)
    assert not re.search(r"https?://|<link|@import|url\(", re.sub(r'src="[^"]*"', "", text))
    assert all(re.findall(r'<img [^>]*alt="([^"]*)"', text))
    assert text.count("<img ") == len(re.findall(r'<img [^>]*alt="[^"]+"', text))


def test_the_text_shows_the_same_pictures_and_rows(page: Path) -> None:
    text = (page.parent / "report.md").read_text("utf-8")
    named = re.findall(r"\]\((pictures/[^)]+)\)", text)
    assert len(named) == text.count("![") >= 3
    for name in named:
        assert (page.parent / name).is_file()
        assert (page.parent / name).with_suffix(".svg").is_file()
    html = page.read_text("utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| 12 \| \S+ \| \d", line)]
    assert len(rows) == 5  # three side by side, two over their own window
    for cell in {cell.strip() for row in rows for cell in row.strip("|").split("|")}:
        value, _, change = cell.removesuffix(")").partition(" (")
        assert f">{value.removesuffix(' ✓')}" in html
        assert not change or f"<small>{change}</small>" in html
    assert not re.search(r"\n\n\n\n", text)


def test_every_table_is_written_twice(page: Path) -> None:
    for path in (page.parent / "tables").glob("*.parquet"):
        table = pd.read_parquet(path)
        assert len(pd.read_csv(path.with_suffix(".csv"))) == len(table) or table.empty
    episodes = pd.read_csv(page.parent / "tables" / "episodes.csv")
    assert (episodes["peak_pods"] > 0).all()


@pytest.mark.parametrize(
    ("jobs", "says"),
    [
        ([(0.0, 10.0, 1)], "peak"),
        ([(0.0, 10.0, 1), (1.0, 10.0, 9)], "peak"),
        ([(0.0, 0.0, 1)], "peak"),
    ],
)
def test_odd_runs_make_a_report(
    tmp_path: Path, jobs: list[tuple[float, float, int]], says: str
) -> None:
    """One job; one that never fits; one without run time."""
    table = pd.DataFrame(jobs, columns=["submit_s", "duration_s", "num_pods"])
    table = table.assign(job=[f"j{i}" for i in range(len(table))], gpus_per_pod=8)
    folder = run(table, nodes=2, control_plane="kubernetes").save(tmp_path / "one")
    text = build_report([folder], tmp_path / "report").read_text("utf-8")
    assert says in text
    said = re.sub(r"<script.*?</script>|data:[^\"]+", "", text, flags=re.DOTALL)
    assert "nan" not in said.lower()


def test_a_run_in_which_nothing_is_pending_says_so(tmp_path: Path) -> None:
    jobs = pd.DataFrame(
        {"job": ["a"], "submit_s": 0.0, "duration_s": 9.0, "num_pods": 1, "gpus_per_pod": 8}
    )
    folder = run(jobs, nodes=1).save(tmp_path / "one")
    assert "No pod was ever pending." in build_report([folder], tmp_path / "r").read_text("utf-8")


def test_faults_show_as_gpus_out_of_service(tmp_path: Path) -> None:
    jobs = workload()
    result = run(
        jobs, nodes=NODES, faults={"source": "calibrated", "per_1000_node_days": 2000.0}, seed=1
    )
    folder = result.save(tmp_path / "faults")
    build_report([folder], tmp_path / "r")
    headline = pd.read_csv(tmp_path / "r" / "tables" / "headline.csv").iloc[0]
    window_s = headline["window_days"] * 86400.0
    down = result.allocation[["time_s", "unavailable_gpus"]].to_numpy()
    area = 0.0
    for at, (time_s, gpus) in enumerate(down):
        upto = down[at + 1][0] if at + 1 < len(down) else float(result.manifest["end_s"])
        area += gpus * max(0.0, min(upto, window_s) - min(time_s, window_s))
    assert area > 0
    assert headline["unavailable_ratio"] == pytest.approx(area / (NODES * 8 * window_s))


def test_a_folder_that_is_no_run_is_named(tmp_path: Path, folders: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*not a finished run"):
        build_report([folders[0], tmp_path / "nowhere"], tmp_path / "r")
    with pytest.raises(ValueError, match="at least one run"):
        build_report([], tmp_path / "r")


def test_equal_names_are_told_apart(folders: list[Path]) -> None:
    heads = read_heads([folders[1], folders[1]])
    assert [head.arm for head in heads] == ["gang-fifo", "gang-fifo (2)"]


def test_thinning_keeps_peaks(folders: list[Path]) -> None:
    heads = read_heads(folders)
    one = digest(heads[1], shared_window(heads[1], heads))
    result = RunResult.load(folders[1])
    curve = pending_steps(result.pending, float(result.manifest["end_s"]))
    inside = curve.clip(0.0, one.whole.window.end_s)
    for num_bins in (5, 40):
        assert inside.thin(num_bins).total().max() == inside.total().max()


def test_growth_finds_a_power_law() -> None:
    rng = np.random.default_rng(5)
    rows = [
        (nodes, 0, piece, 3.0 * nodes**1.4 * float(np.exp(rng.normal(0, 0.2))))
        for nodes in (100, 200, 400, 800)
        for piece in range(40)
    ]
    fit = metrics.fit_growth(pd.DataFrame(rows, columns=["nodes", "run", "piece", "peak_pods"]))
    assert fit.low < 1.4 < fit.high
    assert fit.high - fit.low < 0.2
    assert fit.exponent == pytest.approx(1.4, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_does_not_scroll_sideways(page: Path, tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium on this machine, so the page is not opened in a browser")
    probe = (
        "<script>addEventListener('load', () => {"
        "document.title = 'widths ' + document.documentElement.scrollWidth + ' ' + innerWidth;"
        "})</script></body>"
    )
    copy = tmp_path / "probe.html"
    copy.write_text(page.read_text("utf-8").replace("</body>", probe), "utf-8")
    seen = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    found = re.search(r"<title>widths (\d+) (\d+)</title>", seen)
    assert found, seen[:300]
    content, window = map(int, found.groups())
    assert content <= max(window, width)
