"""Tests wait for conditions, never for times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(what: str, condition: Callable[[], Any], within_s: float = 60.0) -> None:
    """Wait until a condition is true; fails with what was awaited."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.05)
