"""The steps that are timed without a cluster can be taken; nothing here takes a time."""

from __future__ import annotations

import asyncio

import pytest

from bench import live, live_steps


def test_plans_events_and_filter_calls_are_made() -> None:
    assert live_steps.plan_ms(nodes=50, waiting=5, size=10) > 0
    assert live_steps.event_us(nodes=50, size=10) > 0
    assert live_steps.filter_ms(50, full=True, calls=1, nodes=50) > 0


@pytest.mark.parametrize("beyond", [0, 5])
def test_a_gang_is_planned_told_and_bound(beyond: int) -> None:
    assert len(asyncio.run(live_steps.controller_ms(beyond, 1))) == 3


def test_the_live_bench_has_these_rows() -> None:
    assert [one["unit"] for one in live.decision_rows(200)] == ["ms", "us"]
