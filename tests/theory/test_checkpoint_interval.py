"""The best checkpoint interval: Young's and Daly's formulas against simulated jobs.

Seeds are fixed: a test passes always or never.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sim.goodput.checkpoints import (
    Answer,
    Question,
    answer_lines,
    check,
    daly_s,
    expected_goodput,
    plot,
    write,
    young_s,
)

MTBF_S = 6 * 3600.0


def ask(save_s: float, restore_s: float, *, failures: int = 400, **fields: float) -> Answer:
    return check(Question(MTBF_S, save_s, restore_s, work_s=failures * MTBF_S, **fields))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save_ratio", "restore_ratio"),
    [(0.0005, 0.0), (0.0005, 0.3), (0.005, 0.05), (0.05, 0.0), (0.05, 0.3)],
)
def test_the_simulated_optimum_is_that_of_the_formula(
    save_ratio: float, restore_ratio: float
) -> None:
    found = ask(save_ratio * MTBF_S, restore_ratio * MTBF_S)
    assert found.best_s == pytest.approx(found.daly_s, rel=0.15)
    assert found.sweep["num_failures"].min() > 350
    # and not only the place of the optimum: the time lost is what equation 20 says
    lost = 1 / found.sweep["goodput_ratio"] - 1
    expected = 1 / found.sweep["expected_ratio"] - 1
    assert np.allclose(lost, expected, rtol=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("save_ratio", [0.0005, 0.005])
def test_while_a_save_is_short_young_is_as_good(save_ratio: float) -> None:
    found = ask(save_ratio * MTBF_S, 0.02 * MTBF_S)
    assert found.young_s == pytest.approx(found.daly_s, rel=0.05)
    assert found.best_s == pytest.approx(found.young_s, rel=0.15)


@pytest.mark.slow
def test_where_a_save_is_long_young_is_wrong_and_daly_is_not() -> None:
    found = ask(0.5 * MTBF_S, 0.0, failures=1500)
    assert found.best_s == pytest.approx(found.daly_s, rel=0.15)
    assert found.young_s > 1.3 * found.best_s
    assert any("Young's formula does not hold" in line for line in answer_lines(found))


@pytest.mark.slow
def test_where_failures_come_in_bursts_the_best_interval_is_longer() -> None:
    found = ask(0.005 * MTBF_S, 0.0, failures=3000, shape=0.2)
    assert found.best_s > 1.15 * found.daly_s
    assert any("simulation and formula disagree" in line for line in answer_lines(found))


def test_the_expected_goodput_is_highest_at_daly() -> None:
    save_s, restore_s = 60.0, 300.0
    grid = daly_s(save_s, MTBF_S) * np.linspace(0.5, 2.0, 3001)
    goodput = [expected_goodput(at, save_s, restore_s, MTBF_S) for at in grid.tolist()]
    assert grid[int(np.argmax(goodput))] == pytest.approx(daly_s(save_s, MTBF_S), rel=0.003)
    assert daly_s(3 * MTBF_S, MTBF_S) == MTBF_S
    assert young_s(30.0, MTBF_S) == pytest.approx((2 * 30.0 * MTBF_S) ** 0.5)


def test_the_picture_marks_every_optimum(tmp_path: Path) -> None:
    found = ask(30.0, 300.0, failures=50)
    ax = Figure().add_subplot()
    plot(found, ax)
    assert ax.get_title(loc="left").startswith("Saving every 18.6 min")
    labels = " ".join(text.get_text() for text in ax.texts)
    assert all(word in labels for word in ("Young 19.0 min", "Daly 18.6 min", "simulated"))
    assert write(found, tmp_path).is_file()
    assert (tmp_path / "checkpoint.csv").read_text().count("\n") == 18


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mtbf_s": 0.0}, "mtbf_s is 0"),
        ({"save_s": float("nan")}, "save_s is nan"),
        ({"restore_s": 4e5}, "hardly any work"),
        ({"work_s": 1e5}, "or the result is mostly chance"),
        ({"seed": -1}, "seed is -1"),
        ({"shape": 0.0}, "shape is 0"),
    ],
)
def test_questions_without_an_answer_are_refused(fields: dict[str, float], says: str) -> None:
    asked = {"mtbf_s": MTBF_S, "save_s": 30.0, "restore_s": 60.0, "work_s": 1e7} | fields
    with pytest.raises(ValueError, match=says):
        Question(**asked).check()
