"""Kueue's cycles: the order of heads, starts, evictions, and who waits where afterwards."""

from __future__ import annotations

from typing import Any

from tests.golden.kueue_cycles import Cycles
from tests.golden.scenarios import Scenario

KINDS = ("heads-classical", "heads-fair", "cycles-classical", "cycles-fair")


def told(fields: dict[str, Any]) -> list[Any]:
    """Return what each step of a scenario does."""
    cycles = Cycles(fields)
    return [cycles.step(step) for step in fields["steps"]]


def test_every_step_is_kueues(scenario: Scenario) -> None:
    assert told(scenario.fields) == scenario.fields["expect"]
