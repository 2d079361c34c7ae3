"""KAI: fair shares by quota, priority, weight and use; capacity and reclaim by them."""

from __future__ import annotations

from typing import Any

from tests.golden import kai
from tests.golden.scenarios import Scenario

KINDS = ("kai-division", "kai-time", "kai-reclaim", "kai-capacity")


def told(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what the product, and the driver's rules, say to a scenario, in the file's manner."""
    queues = kai.divided(fields)
    found: dict[str, Any] = {"fair_share": kai.shares(queues)}
    if "reclaim" in fields:
        found["reclaim"] = [
            {"may_try": kai.may_try(queues, ask), "allowed": kai.allowed(queues, ask)}
            for ask in fields["reclaim"]
        ]
    if "capacity" in fields:
        found["capacity"] = [kai.refusal(queues, ask) for ask in fields["capacity"]]
    return found


def test_shares_capacity_and_reclaim_are_kais(scenario: Scenario) -> None:
    assert told(scenario.fields) == scenario.fields["expect"]
