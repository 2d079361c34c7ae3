"""What a page shows of names, growth, gang sizes and GPU time that is held for nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from math import isnan
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sim import run
from sim.report import comparison
from sim.report.episodes import explain, find_episodes
from sim.report.pictures import DARK, PAPER, drawing, render
from sim.report.report import as_it_is, build_report
from sim.report.wording import MINUS, plural
from sim.runs import metrics
from sim.runs.metrics import Quantile, Use
from sim.runs.steps import allocation_steps, pending_steps
from sim.schema.costs import Costs, Quantity

ODD = "a|b $x$ `c` <i> _d_"
ESCAPED = r"a\|b \$x\$ \`c\` \<i> \_d\_"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms with costs on two sizes; all gangs have up to 64 GPUs."""
    root = tmp_path_factory.mktemp("page")
    costs = Costs(save_interval_s=600.0, save_stall_s=Quantity(p50=30.0), measured="a test")
    folders = []
    for nodes in (4, 6):
        jobs = pd.DataFrame(
            [(f"job-{i}", 60.0 * i, 900.0, 2 + i % 2) for i in range(3 * nodes)],
            columns=["job", "submit_s", "duration_s", "num_pods"],
        ).assign(gpus_per_pod=8)
        for arm, admission in ((ODD, "gang"), ("pod", "pod")):
            result = run(
                jobs,
                nodes=nodes,
                admission=admission,
                costs=None if arm == "pod" else costs,
                control_plane="kubernetes",
            )
            folders.append(
                result.save(root / f"{arm[:3]}-{nodes}".replace("|", ""),
                            point={"workload": "w|1", "arm": arm})
            )  # fmt: skip
    return build_report(folders, root / "report")


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return (page.parent / "report.md").read_text("utf-8")


def test_names_show_as_they_are_in_markdown(text: str) -> None:
    assert as_it_is(ODD) == ESCAPED
    assert as_it_is("gang_fifo 5 % of a-b") == "gang_fifo 5 % of a-b"
    assert as_it_is("a\n| b &lt;") == r"a \| b \&lt;"
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert any(f"| {ESCAPED} |" in line for line in tables)
    assert all(ODD not in line for line in text.splitlines() if not line.startswith("    "))
    for head, rule, row in zip(tables, tables[1:], tables[2:], strict=False):
        if re.fullmatch(r"[|:-]+", rule):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, row)}) == 1


def test_growth_has_a_row_for_each_arm_and_no_interval_from_two_sizes(
    page: Path, text: str
) -> None:
    row = rf"^\| {re.escape(ESCAPED)} \| [{MINUS}\d.]+ \| not known \| from two cluster sizes its"
    assert re.search(row, text, re.M)
    assert re.search(rf"^\| pod \| [{MINUS}\d.]+ \| not known \|", text, re.M)
    table = pd.read_csv(page.parent / "tables" / "growth.csv")
    assert table["exponent"].notna().all() and table["exponent_low"].isna().all()
    assert table["why_unknown"].str.startswith("from two cluster sizes").all()


def test_a_third_size_gives_an_interval() -> None:
    pieces = pd.DataFrame(
        [(nodes, 0, piece, nodes * (piece + 1)) for nodes in (4, 8, 16) for piece in range(4)],
        columns=["nodes", "run", "piece", "peak_pods"],
    )
    three, two = (metrics.fit_growth(pieces[pieces["nodes"] < most]) for most in (99, 9))
    assert three.low < three.exponent < three.high
    assert two.exponent == pytest.approx(three.exponent)
    assert isnan(two.low) and isnan(two.high) and np.isnan(two.fitted_low).all()


def test_only_gang_sizes_that_occur_are_shown(page: Path, text: str) -> None:
    assert "| nodes | arm | 9-64 |\n" in text
    assert set(pd.read_csv(page.parent / "tables" / "delay_by_size.csv")["size_class"]) == {"9-64"}
    svg = next((page.parent / "pictures").glob("delay-*.svg")).read_text("utf-8")
    assert "9-64" in svg and "65-512" not in svg


def test_the_part_of_the_gpu_time_held_for_nothing_stands_beside_all_of_it(text: str) -> None:
    used = Use(allocation_ratio=0.8, useful_ratio=0.6, idle_hold_gpu_h=1.0, unavailable_ratio=0.0)
    assert used.idle_hold_ratio == pytest.approx(0.25)
    assert replace(used, allocation_ratio=0.0, useful_ratio=0.0).idle_hold_ratio == 0.0
    assert "| GPU time allocated | GPU time of it for nothing |" in text
    assert re.search(r"hold a part of the allocated GPU time for nothing: [\d.]+ % under", text)


def test_below_the_held_gpu_time_a_command_says_how_often_to_save(page: Path) -> None:
    found = re.search(
        r"How often should a job on all 6 nodes save.*?<pre><code>(.*?)</code>",
        page.read_text("utf-8"),
        re.S,
    )
    assert found
    assert unescape(found[1]).startswith(
        "muster plan-checkpoint --mtbf 238.1d --nodes 6 --save 30s --restore 0s --out "
    )


def test_open_markers_have_the_colour_of_the_page(page: Path) -> None:
    assert DARK[PAPER] != PAPER
    rule = f'[style*="fill: {PAPER}"]{{fill:{DARK[PAPER]}'
    assert rule in unquote(page.read_text("utf-8"))


def test_a_pattern_of_dots_does_not_fill_the_page() -> None:
    with drawing():
        figure = Figure(figsize=(2, 2))
        figure.add_subplot().add_patch(Rectangle((0, 0), 1, 1, hatch="..."))
        plain = render(figure, "dots", "")
    svg = plain.svg.decode()
    pattern = svg[svg.index("<pattern") : svg.index("</pattern>")]
    assert "C" not in pattern and pattern.count("a0.") > 100
    assert len(pattern) < 30_000


def test_where_no_gang_waits_for_gpus_the_head_says_so(tmp_path: Path) -> None:
    jobs = pd.DataFrame({"job": ["a"], "submit_s": [0.0], "duration_s": [60.0], "num_pods": [1]})
    result = run(jobs.assign(gpus_per_pod=8), nodes=2, control_plane="kubernetes")
    page = build_report([result.save(tmp_path / "run")], tmp_path / "report")
    head = (page.parent / "report.md").read_text("utf-8").split("\n## ")[0]
    assert "nothing waits for GPUs: pods are pending only until they are bound and started" in head
    assert "1 pods" not in page.read_text("utf-8")


def test_one_of_a_thing_is_not_several() -> None:
    assert [plural(n, "pod") for n in (0, 1, 2, 4312)] == [
        "0 pods",
        "1 pod",
        "2 pods",
        "4,310 pods",
    ]
    points = comparison.Column("", "x", lambda _: Quantile(0, False), str, in_points=True)
    pods = comparison.Column("", "x", lambda _: Quantile(0, False), "{:.0f}".format, unit="pods")
    for column, value, base, said in (
        (points, 0.51, 0.5, "+1 point"),
        (points, 0.5, 0.52, f"{MINUS}2 points"),
        (pods, 1.0, 0.0, "+1 pod"),
        (pods, 2.0, 0.0, "+2 pods"),
    ):
        assert comparison.change(column, Quantile(value, False), Quantile(base, False)) == said


def test_an_episode_of_one_pod_is_told_in_the_singular() -> None:
    jobs = pd.DataFrame(
        [("a", 0.0, 600.0), ("b", 10.0, 60.0)], columns=["job", "submit_s", "duration_s"]
    ).assign(num_pods=1, gpus_per_pod=1)
    result = run(jobs, nodes=1, gpus_per_node=1)
    end_s = float(result.manifest["end_s"])
    (episode, *_) = find_episodes(
        pending_steps(result.pending, end_s),
        allocation_steps(result.allocation, end_s),
        result.jobs,
        result.attempts,
        num_gpus=1,
    )
    said = explain(episode, num_gpus=1)
    assert "peak 1 pod at" in said and "it needs 1 GPU (1 pod)" in said and "1 gang has" in said
    assert not re.search(r"\b1 (pods|GPUs|gangs|jobs)\b", said)


def test_settings_are_given_in_few_digits(text: str) -> None:
    assert "unschedulable_attempt_s 0.00166667," in text
    assert not re.search(r"\d\.\d{9}", text[text.index("## Settings") :])
