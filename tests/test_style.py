"""The code is in its standard form, and its types agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "tool", [["ruff", "check"], ["ruff", "format", "--check", "--diff"], ["mypy"]], ids=" ".join
)
def test_what_the_tools_say(tool: list[str], repository: Path) -> None:
    command = [sys.executable, "-m", *tool]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
