"""Kueue's admission fair sharing: usage that decays, penalties of starts, and the order key."""

from __future__ import annotations

from math import inf
from typing import Any

from scheduler.core import usage
from scheduler.core.times import to_us
from tests.golden.scenarios import Scenario

KINDS = ("usage",)


def decimal(amount: int) -> str:
    """Write an amount as Kubernetes does: without zeros at the end."""
    whole, rest = divmod(amount, usage.NANO)
    return f"{whole}.{rest:09}".rstrip("0").rstrip(".")


def told(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the product says after each event, in the file's manner: keys of nine digits."""
    queue = usage.Smoothed(to_us(fields["half_life_s"]))
    found = []
    for event in fields["events"]:
        if event["op"] == "sample":
            queue.sample(to_us(event["dt"]), event["amount"])
        else:
            queue.start(to_us(fields["interval_s"]), event["amount"])
        key = queue.key(fields["resource_weights"], fields["queue_weight"])
        found.append(
            {
                "consumed": {name: decimal(amount) for name, amount in queue.consumed.items()},
                "penalty": {name: decimal(amount) for name, amount in queue.penalty.items()},
                "key": "inf" if key == inf else float(f"{key:.9g}"),
            }
        )
    return found


def test_usage_is_kueues_after_every_event(scenario: Scenario) -> None:
    assert told(scenario.fields) == scenario.fields["expect"]
