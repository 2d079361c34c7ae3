"""Every command that the report of a live journal prints runs as it is printed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from sim.commands.main import invoke
from tests.sim.journals.test_report import Live, nodes
from tests.sim.report.test_commands import printed, type_in


@pytest.mark.slow
def test_commands_of_a_journals_report_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my journals"
    folder.mkdir()
    monkeypatch.chdir(folder)
    columns = ["job", "submit_s", "duration_s", "walltime_s", "num_pods", "gpus_per_pod"]
    rows = [(f"j{i}", 10.0 * i, 600.0, 900.0, 1 + i % 3, 8) for i in range(12)]
    Live(Path("a journal.jsonl"), nodes(3)).play(pd.DataFrame(rows, columns=columns))
    assert invoke(["report", "a journal.jsonl", "--out", "runs/live"]) == 0
    lines = printed(folder / "runs" / "live" / "report.html").values()
    assert any("--journal 'a journal.jsonl'" in line for line in lines)
    for line in lines:
        assert str(folder) not in line
        type_in(line)
