"""Control planes: those that come with muster, and files of one's own."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from sim.schema import planes
from sim.schema.config import ControlPlane

#: fields that the live benchmark measures; the others are those of `kubernetes`
MEASURED = {
    "name",
    "schedule_per_s",
    "bind_qps",
    "bind_burst",
    "create_per_s",
    "creating_ratio",
    "bind_lag_s",
}


def test_ideal_takes_no_time() -> None:
    assert planes.load("ideal") == ControlPlane()


def test_kubernetes_keeps_its_published_values() -> None:
    assert planes.load("kubernetes") == ControlPlane(
        name="kubernetes",
        schedule_per_s=300.0,
        bind_qps=50.0,
        bind_burst=100,
        unschedulable_attempt_s=1 / 600,
        backoff_initial_s=1.0,
        backoff_max_s=10.0,
        start_warm_s=3.0,
        pull_cold_s=300.0,
        warm_at_start=True,
        start_jitter_ratio=0.5,
    )


def test_every_named_control_plane_makes_sense_and_bears_its_name() -> None:
    assert {"ideal", "kubernetes"} <= set(planes.names())
    for name in planes.names():
        plane = planes.load(name)
        planes.check(plane)
        assert plane.name == name


def test_a_name_comes_before_a_file_and_a_path_names_a_file(tmp_path: Path) -> None:
    path = tmp_path / "kubernetes"
    path.write_text('name = "mine"\ncreate_per_s = 250\n', "utf-8")
    assert planes.load(path) == ControlPlane(name="mine", create_per_s=250.0)
    assert planes.load("kubernetes").name == "kubernetes"


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'fast' is neither a readable file nor one of") as caught:
        planes.load("fast")
    assert all(name in str(caught.value) for name in planes.names())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bind_qsp = 3", "plane.toml': .*unknown field `bind_qsp`; fields: name, schedule_per_s"),
        ("bind_qps = ", "plane.toml'"),
        ("create_per_s = 0", "'own': create_per_s is 0.0; give more than 0"),
        ("create_per_s = nan", "'own': create_per_s is nan; give more than 0"),
        ("creating_ratio = 0", "'own': creating_ratio is 0.0; give more than 0 and at most 1"),
        ("creating_ratio = 1.5", "'own': creating_ratio is 1.5; give more than 0 and at most 1"),
        ("creating_ratio = nan", "'own': creating_ratio is nan; give more than 0 and at most 1"),
        ("start_warm_s = -1", "'own': start_warm_s is -1.0; give 0 or more"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plane.toml"
    path.write_text(f'name = "own"\n{text}\n', "utf-8")
    with pytest.raises(ValueError, match=message):
        planes.load(path)


def test_a_run_writes_down_a_control_plane_that_reads_back() -> None:
    for name in planes.names():
        plane = planes.load(name)
        text = msgspec.toml.encode(plane)
        assert msgspec.toml.decode(text, type=ControlPlane) == plane
    assert math.isinf(planes.load("ideal").create_per_s)
