"""Pending curves in pictures: true to the tables, on one scale; labels; names as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sim import RunResult, run
from sim.report import curves, explorer, groups, lettering, pictures, ticks
from sim.report.digest import digest, read_heads, shared_window
from sim.report.report import build_report
from sim.report.waiting import NONE, PendingCurve, find_waits, largest_gangs, pending_curve
from sim.report.wording import clock
from sim.runs.steps import Steps, pending_steps
from traces.synthetic import generate

NODES = 12


@pytest.fixture(scope="module")
def result() -> RunResult:
    jobs = generate("openai_like", num_gpus=NODES * 8, days=1, load=1.2, seed=3).iloc[:220]
    return run(jobs, nodes=NODES, control_plane="kubernetes", admission="pod")


@pytest.fixture(scope="module")
def curve(result: RunResult) -> PendingCurve:
    return make_curve(result, "pod")


def make_curve(result: RunResult, name: str, num_bins: int = 4000) -> PendingCurve:
    end_s = float(result.manifest["end_s"])
    pending = pending_steps(result.pending, end_s).clip(0.0, end_s)
    return pending_curve(name, pending, result.jobs, result.attempts, num_bins)


def steps(rows: list[tuple[float, int]], end_s: float) -> Steps:
    time_s, pods = zip(*rows, strict=True)
    return Steps(np.array(time_s, float), np.array(pods, int)[:, None], ("capacity",), end_s)


def test_a_thinned_curve_holds_what_held_where_nothing_changes() -> None:
    """A burst ends at 5 pods, and 5 pods wait for the rest of the time."""
    burst = [(t / 10, pods) for t, pods in enumerate((0, 9, 3, 0, 2, 4, 1, 5))]
    thin = steps(burst, end_s=100.0).thin(2)
    assert len(thin.time_s) < len(burst)
    assert thin.at(50.0).tolist() == [5]
    assert thin.total().max() == 9
    assert thin.total().min() == 0


def test_waits_add_up_to_the_curve_and_the_largest_gangs_are_those_found_by_hand(
    result: RunResult, curve: PendingCurve
) -> None:
    jobs, waits = result.jobs, find_waits(result.jobs, result.attempts)
    pods, gpus = jobs["num_pods"].to_numpy(), jobs["gpus"].to_numpy()
    seen = 0
    for row, at_s in enumerate(curve.steps.time_s):
        here = [
            (-gpus[job], -pods[job], since_s, job)
            for job, since_s, until_s in zip(waits.row, waits.since_s, waits.until_s, strict=True)
            if since_s <= at_s < until_s
        ]
        assert sum(-negative for _, negative, _, _ in here) == curve.steps.values[row].sum()
        wanted = [jobs["job"].iloc[job] for *_, job in sorted(here)[:3]]
        shown = curve.gangs.at[row]
        assert [curve.gangs.gangs["job"][k] for k in shown if k != NONE] == wanted
        seen += len(wanted) == 3
    assert seen > 10


def test_no_gang_waits_where_none_does() -> None:
    jobs = pd.DataFrame({"job": ["a"], "submit_s": 5.0, "end_s": 9.0, "num_pods": 1, "gpus": 0})
    attempts = pd.DataFrame({"job": ["a"], "start_s": [5.0], "end_s": [9.0]})
    found = largest_gangs(jobs, find_waits(jobs, attempts), np.array([0.0, 5.0, 6.0]))
    assert (found.at == NONE).all()
    assert found.gangs.empty


def test_panels_share_one_time_axis_and_one_scale(result: RunResult, curve: PendingCurve) -> None:
    other = steps([(0.0, 1)], end_s=curve.steps.end_s / 2)
    values = np.zeros((1, len(curve.steps.columns)), int)
    short = PendingCurve(
        "short",
        Steps(other.time_s, values, curve.steps.columns, other.end_s),
        largest_gangs(result.jobs, find_waits(result.jobs, result.attempts), other.time_s),
        0.0,
    )
    figure = curves.draw([curve, short])
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim() == (0.0, curve.steps.end_s)
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[1] > curve.steps.total().max()
    assert len(second.patches) > len(curves.columns_of([short]))  # what is not simulated is marked


@pytest.mark.parametrize("span_s", [0.004, 0.7, 3.0, 50.0, 400.0, 9e3, 9e4, 2.5e5, 8e5, 3e6, 2e8])
def test_a_time_axis_has_two_labels_or_more(span_s: float) -> None:
    axes = Figure().add_subplot()
    ticks.time_axis(axes, 0.0, span_s)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert 2 <= len(labels) <= ticks.MOST + 2
    assert len(set(labels)) >= 2


@pytest.mark.parametrize(
    ("low", "high"), [(1, 1), (6, 7), (61, 64), (1, 90), (4e4, 5e4), (2.7e5, 2.8e5), (1, 3e7)]
)
@pytest.mark.parametrize("label", [ticks.log_durations, ticks.log_counts])
def test_a_logarithmic_axis_has_two_labels_or_more(low: float, high: float, label: object) -> None:
    axes = Figure().add_subplot()
    axes.plot([0, 1], [low, high])
    axes.set_yscale("log")
    label(axes)
    bottom, top = axes.get_ylim()
    seen = [tick for tick in axes.get_yticks() if bottom <= tick <= top]
    assert len(seen) >= 2
    assert bottom <= low <= high <= top
    assert len({text.get_text() for text in axes.get_yticklabels()}) == len(axes.get_yticks())


def test_labels_of_a_logarithmic_axis_below_one() -> None:
    axes = Figure().add_subplot()
    axes.plot([0, 1], [0.02, 1.3])
    axes.set_yscale("log")
    ticks.log_counts(axes, least=1e-6)
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert {"0.05", "0.1", "1"} <= set(labels)


def test_labels_say_the_same_as_texts() -> None:
    assert ticks.time_label(12 * 86400.0, 86400.0) == "12"
    assert ticks.time_label(12 * 86400.0, 21600.0) == "day 12"
    assert ticks.time_label(86400.0 + 14 * 3600 + 180, 60.0) == "14:03"
    at_s = 12 * 86400.0 + 14 * 3600 + 180
    assert ticks.time_label(at_s, 60.0, names_day=True) == clock(at_s) == "day 12 14:03"


NAMES = [
    "$x_1$",
    r"$\frac{a}$",
    "中文任务",
    "عربي",
    "_hidden",
    "a/b c",
    "</script><b>'\"&",
    "𓀀",
    "x" * 300,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_stand_in_pictures_as_they_are(
    result: RunResult, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings are errors in tests, and matplotlib logs fonts that it does not find."""
    shown = [make_curve(result, name)]
    with caplog.at_level(logging.WARNING):
        drawn = pictures.render(curves.draw(shown), f"pending-{name}", "")
    assert not caplog.records
    texts = [
        text.text for text in ET.fromstring(drawn.svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    wanted = name if len(name) < 48 else name[:47] + "…"
    assert wanted in texts
    assert "/" not in drawn.name
    assert len(drawn.name) < 120


@pytest.mark.parametrize("name", [r"$\frac{a}$", "中/文", "</script><b>'\"&", "x" * 300])
def test_a_report_takes_any_name(tmp_path: Path, result: RunResult, name: str) -> None:
    folder = result.save(tmp_path / "run", point={"workload": name, "arm": name})
    page = build_report([folder], tmp_path / "out")
    text = page.read_text("utf-8")
    assert text.count("</script>") == text.count("<script")
    for file in (page.parent / "pictures").iterdir():
        assert file.stat().st_size
    named = (page.parent / "report.md").read_text("utf-8")
    for picture in (page.parent / "pictures").glob("*.png"):
        assert f"(pictures/{picture.name})" in named


def test_a_letter_that_one_font_lacks_is_looked_for_in_others() -> None:
    assert lettering.families(["gang-fifo"]) == [lettering.FONT]
    assert len(lettering.families(["gang-fifo", "中文"])) > 1


def test_a_letter_that_no_font_has_is_not_told_on_the_terminal(
    result: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors in tests."""
    monkeypatch.setattr(pictures, "families", lambda _: [lettering.FONT])
    shown = make_curve(result, "中文")
    assert "中文" in pictures.render(curves.draw([shown]), "pending", "").svg.decode()


def test_a_picture_is_shown_at_its_own_size(curve: PendingCurve) -> None:
    figure = curves.draw([curve])
    drawn = pictures.render(figure, "pending", "")
    width_in, height_in = figure.get_size_inches()
    assert (drawn.width_px, drawn.height_px) == (round(96 * width_in), round(96 * height_in))
    for said in (f'width="{drawn.width_px}"', f'height="{drawn.height_px}"'):
        assert said in drawn.img()
    assert f'style="--own: {drawn.width_px}px"' in drawn.img()


def test_different_names_have_different_files() -> None:
    assert pictures.file_name("delay-a b") != pictures.file_name("delay-a/b")
    assert pictures.file_name("delay-a.b") == "delay-a.b"


def test_long_paths_of_an_svg_keep_their_places() -> None:
    path = "M 0 0 \n" + "".join(f"L {x / 3} 5.04 \nL {x / 3} {x % 7} \n" for x in range(90)) + "z"
    wanted = [(float(x), float(y)) for x, y in (p.split()[1:3] for p in path.split("\n")[:-1])]
    x = y = 0.0
    places: set[tuple[float, float]] = {(0.0, 0.0)}
    for step in _commands("".join(pictures._steps(path))):
        kind, numbers = step
        across, down = {"h": (numbers[0], 0), "v": (0, numbers[0])}.get(kind) or numbers
        x, y = (across, down) if kind == "M" else (x + across, y + down)
        places.add((round(x, 1), round(y, 1)))
    corners = {(round(x, 1), round(y, 1)) for x, y in wanted}
    # points on the way along a line are left out, corners are not
    assert {at for at in corners if at[1] != 5.0} <= places


def _commands(path: str) -> Iterator[tuple[str, tuple[float, ...]]]:
    import re

    for kind, numbers in re.findall(r"([Mlhv])([-\d. ]+)", path):
        values = tuple(map(float, numbers.split()))
        yield kind, values if len(values) == 2 else (*values, 0.0)[: 1 if kind in "hv" else 2]


def test_bokeh_itself_takes_the_document(
    curve: PendingCurve, caplog: pytest.LogCaptureFixture
) -> None:
    """It warns of models and properties that it does not know."""
    with caplog.at_level(logging.WARNING):
        layout = explorer.layout([curve, curve])
    assert not caplog.records
    from bokeh.models import ColumnDataSource

    (first, _) = layout.select({"type": ColumnDataSource})
    top = first.data["level_" + str(len(curves.columns_of([curve])) - 1)]
    assert list(top)[:-1] == curve.steps.total().tolist()
    assert list(first.data["time_s"]) == [*curve.steps.time_s, curve.steps.end_s]


def test_a_page_of_many_runs_has_still_pictures_of_less_detail(
    tmp_path: Path, result: RunResult
) -> None:
    assert groups.room_of(24, 0) == groups.Room(48, curves.DRAWN_BINS)
    assert groups.room_of(240, 48) == groups.Room(0, groups.LEAST_DRAWN_BINS)
    assert groups.bins_each(10_000) >= groups.LEAST_BINS
    heads = read_heads([result.save(tmp_path / "run")])
    digests = [digest(heads[0], shared_window(heads[0], heads))]
    (full,) = groups.make_groups(digests, "w1", groups.room_of(1, 0))
    (still,) = groups.make_groups(digests, "w1", groups.Room(0, 20))
    assert full.explorer and full.num_explored == 1
    assert not still.explorer and still.num_explored == 0
    assert "fewer runs" in still.caption
    assert len(still.picture.svg) < len(full.picture.svg)
