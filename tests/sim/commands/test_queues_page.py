"""The worked example of docs/queues.md does what the page says."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from sim.commands.main import invoke
from sim.queues.importing import read
from sim.runs.folder import RunResult

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "queues.md").read_text(encoding="utf-8")


def part(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)^## ", PAGE, re.M | re.S)
    assert found
    return found[1]


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.slow
def test_the_example_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    text = part("A new quota on last month's jobs")
    printed = ""
    for line in blocks(text, "sh")[0].splitlines():
        words = shlex.split(line)
        if words[0] != "muster":
            subprocess.run(line, shell=True, check=True)
            continue
        if words[1] == "run":
            words.append("--no-report")
        capsys.readouterr()
        assert invoke(words[1:]) == 0, line
        if words[1] == "diff":
            printed = capsys.readouterr().out
    (shown,) = blocks(text, "text")
    found = printed[printed.index("By queue:") : printed.index("\nPending pod-hours by reason:")]
    assert shown == found, f"docs/queues.md shows another result; put this in its place:\n{found}"
    assert Path("runs/both/report.html").is_file()
    # and the words around it
    now, new = (RunResult.load(f"runs/{name}").summary["queues"] for name in ("now", "new"))
    evicted_for = now["ads"]["evicted_for"]
    most = max(evicted_for, key=lambda one: evicted_for[one]["preemptions"])
    assert most == "search"
    for figure in ("preempted_lost_gpu_s", "wait_p95_s"):
        assert new["ads"][figure] < now["ads"][figure]
    assert new["vision"]["wait_p95_s"] > now["vision"]["wait_p95_s"]


def test_the_example_file_is_imported_without_a_note() -> None:
    found = read([ROOT / "docs" / "examples" / "kueue.yaml"], {})
    assert found.notes == []
    assert {queue.name for queue in found.queues.queues} == {"vision", "speech", "search", "ads"}


@pytest.mark.parametrize("heading", ["If you come from Kueue", "If you come from Slurm"])
def test_words_of_the_tables_are_words_of_the_file(heading: str) -> None:
    reference = PAGE[PAGE.index("## The file") :]
    column = [line.split("|")[2] for line in part(heading).splitlines() if line.startswith("| ")]
    words = {word for cell in column for word in re.findall(r"`([a-z_]+)`", cell)}
    assert len(words) >= 5
    known = {*re.findall(r"`([a-z_]+)`", reference), *re.findall(r"\b(\w+) =", reference)}
    assert words <= known | {"priority", "preempted", "namespace"}
