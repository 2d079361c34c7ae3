"""Settings of the live scheduler as the manual gives them."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import msgspec

from scheduler.controller.settings import LiveSettings


def test_the_manual_shows_every_setting_with_its_default(repository: Path) -> None:
    manual = (repository / "docs" / "live.md").read_text(encoding="utf-8")
    _, _, rest = manual.partition("all settings with their defaults:\n")
    block, _, _ = rest.partition("\nkube-scheduler needs")
    shown = msgspec.toml.decode(dedent(block))
    assert shown == msgspec.json.decode(msgspec.json.encode(LiveSettings()))
