"""A cluster ten times as large, in a short form: memory, and nothing that takes long at once."""

from __future__ import annotations

import asyncio
import gc

import pytest

from bench.live_scale import GANGS, measured


@pytest.mark.slow
def test_ten_times_the_pods_fit_and_no_turn_takes_long() -> None:
    """CPU time, as machines are busy; the bound of the full size is in docs/benchmarks.md."""
    pods, nodes = 22_500, 750
    for _ in range(3):
        figures = asyncio.run(measured(pods, nodes))
        gc.unfreeze()
        anew_s = figures[f"state rebuilt, {GANGS} gangs waiting, CPU s"]
        turn_ms = figures["longest turn of the rebuild, ms"]
        if turn_ms < 50 and anew_s < 0.5:
            break
    assert figures["the same per pod, bytes"] < 6000  # nodes and the first pages are among them
    assert anew_s < 0.5
    assert turn_ms < 50
