"""No test falls between the tiers, and what is run once more is told."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import run
from tests.outcomes import Outcomes
from tests.tiers import COLLECTED, Tier, folder_of, misplaced, shares_a_cluster, tier_of


def test_every_test_is_in_one_tier_and_in_its_place(pytestconfig: pytest.Config) -> None:
    """Those that were collected: with `make test`, all."""
    wrong = []
    for item in pytestconfig.stash[COLLECTED]:
        marks = [item.get_closest_marker(name) is not None for name in ("k8s", "torch")]
        why = misplaced(folder_of(item.nodeid), *marks)
        if why:
            wrong.append(f"{item.nodeid} {why}")
        assert tier_of(item) in Tier
    assert not wrong, "\n".join(wrong)


def test_no_other_cluster_is_started_beside_the_shared_one(pytestconfig: pytest.Config) -> None:
    shares = [shares_a_cluster(item) for item in pytestconfig.stash[COLLECTED]]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("folder", "k8s", "torch", "says"),
    [
        ("cluster", True, False, ""),
        ("e2e", True, False, ""),
        ("trainer", False, True, ""),
        ("trainer", False, False, ""),
        ("scheduler", False, False, ""),
        ("cluster", False, False, "not marked k8s"),
        ("scheduler", True, False, "marked k8s: its place"),
        ("sim", False, True, "marked torch: its place"),
        ("e2e", True, True, "k8s and torch"),
    ],
)
def test_marks_and_folders_belong_together(folder: str, k8s: bool, torch: bool, says: str) -> None:
    said = misplaced(folder, k8s, torch)
    assert says in said and bool(says) == bool(said)


def test_no_file_is_skipped_as_a_whole_for_want_of_a_component(repository: Path) -> None:
    """What is not collected is in no tier, and nobody would see it."""
    skipped = []
    for path in (repository / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            text = ast.unparse(node)
            if "importorskip(" in text and isinstance(node, ast.Assign | ast.Expr):
                skipped += [f"{path.name}: {text}" for name in ("torch", "yaml") if name in text]
    assert not skipped


def test_what_needs_no_cluster_takes_nothing_from_tests_that_do(repository: Path) -> None:
    tests, folder = repository / "tests", "tests cluster"
    for path in tests.rglob("*.py"):
        if path.relative_to(tests).parts[0] not in ("cluster", "e2e", "chaos"):
            assert f"from {folder} " not in path.read_text().replace(".", " "), path.name


SUITE = """
import pathlib
import pytest

def later(name):
    mark = pathlib.Path(name)
    if not mark.exists():
        mark.touch()
        return False
    return True

@pytest.fixture(scope="session", autouse=True)
def promises():
    yield
    assert {promise}

@pytest.fixture
def ready():
    assert later("ready")
    yield
    assert later("cleared")

def test_well(): pass
def test_slow(): assert later("slow")
def test_other(): assert later("other")
def test_wrong(): assert {wrong}
@pytest.mark.parametrize("how", ["a::b [c]"])
def test_fixture(ready, how): pass
@pytest.mark.skip(reason="no go")
def test_left_out(): pass
"""


@pytest.fixture(autouse=True)
def without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pytest in pytest start faster."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def tried(folder: Path, *, wrong: str = "True", promise: str = "True", more: str = "") -> Outcomes:
    """Run the suite as a live tier is run."""
    (folder / "test_it.py").write_text(SUITE.format(wrong=wrong, promise=promise) + more)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    found = run.execute(["-q"], folder / "outcomes", folder)
    run.once_more(found, folder / "outcomes", folder)
    return found


@pytest.mark.slow
def test_two_that_pass_alone_are_forgiven_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ready").touch()
    (tmp_path / "cleared").touch()
    found = tried(tmp_path)
    assert found.passed_alone == ["test_it.py::test_slow", "test_it.py::test_other"]
    assert run.report({"live": found}) == 0
    *_, one, two, last = capsys.readouterr().out.splitlines()
    assert one == "failed under load, passed alone: test_it.py::test_slow"
    assert two == "failed under load, passed alone: test_it.py::test_other"
    assert last.startswith("5 passed, 1 skipped in ")


@pytest.mark.slow
def test_three_that_pass_alone_fail_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cleared").touch()
    found = tried(tmp_path)
    assert len(found.passed_alone) == 3
    assert run.report({"live": found}) == 1
    shown = capsys.readouterr().out
    assert "3 failed under load and passed alone; at most 2 may" in shown
    assert "skipped in live: 1 x no go" in shown
    assert shown.splitlines()[-1].startswith("2 failed, 2 passed, 1 skipped, 1 error in ")


@pytest.mark.slow
def test_what_fails_again_and_what_the_session_promised_is_not_forgiven(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mark in ("slow", "other", "ready"):
        (tmp_path / mark).touch()
    last = "def test_last(): pass\n"
    promise = 'bool(__import__("sys").argv[-1:] == ["-q"]) is False'
    found = tried(tmp_path, wrong="1 == 2", promise=promise, more=last)
    assert found.passed_alone == ["test_it.py::test_fixture[a::b [c]]"]
    assert found.failed["test_it.py::test_wrong"] == ["call"]
    assert found.failed["test_it.py::test_last"] == ["end"], "it would pass alone"
    assert run.report({"live": found}) == 1
    assert "failed: test_it.py::test_last" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_does_not_come_to_its_end_is_an_error(tmp_path: Path) -> None:
    broken = tried(tmp_path, more="import os\ndef test_gone(): os._exit(0)\n")
    assert broken.counts == {"error": 1}
    assert not broken.passed_alone
    typo = tried(tmp_path, more="def test_typo(: pass\n")
    assert typo.counts == {"error": 1}
    assert run.report({"live": typo}) == 1


def test_tiers_are_summed_in_the_form_of_pytest() -> None:
    one = Outcomes(30.5, {"passed": 10, "skipped": 1})
    two = Outcomes(3600.0, {"passed": 5, "failed": 1, "error": 2})
    counts = run.settled([one, two])
    assert run.closing_line(counts, one.seconds + two.seconds) == (
        "1 failed, 15 passed, 1 skipped, 2 errors in 3630.50s (1:00:30)"
    )
    assert run.closing_line(run.settled([one]), 30.5) == "10 passed, 1 skipped in 30.50s"


def test_a_tier_that_left_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    assert run.main(["sum"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "4 errors in 0.00s"
    assert run.main(["lvie"]) == 2
    assert "'lvie' is no tier; give one of: test, live, train, e2e, all, sum" in (
        capsys.readouterr().err
    )


def test_a_second_run_on_the_source_is_summed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "execute", lambda *_: Outcomes(1.0, {"passed": 3}))
    monkeypatch.delenv("MUSTER_INTERPRETED", raising=False)
    run.run(run.Tier.TEST)
    monkeypatch.setenv("MUSTER_INTERPRETED", "1")
    run.run(run.Tier.TEST)
    found = run.results_of([run.Tier.TEST])
    assert list(found) == ["test", "test-interpreted"]
    assert run.settled(found.values()) == {"passed": 6}
