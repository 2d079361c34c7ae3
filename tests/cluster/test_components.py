"""The programs of the local control plane are built by one at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.controlplane import components

PAUSE = next(c for c in components.NODE_COMPONENTS if c.name == "pause")
PROVIDE = (
    "from scheduler.controlplane import components as c;"
    "print(c.provide(next(x for x in c.NODE_COMPONENTS if x.name == 'pause')))"
)


@pytest.mark.k8s
@pytest.mark.slow
def test_two_that_want_one_program_build_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    try:
        components.go()
    except ValueError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = [sys.executable, "-c", PROVIDE]
    both = [
        subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = {one.communicate(timeout=300)[0].strip() for one in both}
    assert found == {str(components.cached(PAUSE))}
    assert {p.name for p in components.cached(PAUSE).parent.iterdir()} == {"pause", ".lock"}
