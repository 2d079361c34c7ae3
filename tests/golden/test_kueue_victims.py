"""Kueue's modes, flavors and victims, by quota and by fair share."""

from __future__ import annotations

from typing import Any

from scheduler.policies.flavors import Mode, assign
from scheduler.policies.victims import victims
from tests.golden import kueue
from tests.golden.scenarios import Scenario

KINDS = ("victims-classical", "victims-fair")


def told(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what becomes of the incoming gang."""
    of = kueue.contest(fields)
    gang = kueue.contender(of, fields["incoming"])
    found = assign(of, gang, [fields["incoming"]["request"]])
    answer = {
        "mode": kueue.MODES[found.mode],
        "borrowing": found.height,
        "flavors": {},
        "victims": [],
    }
    if found.mode <= Mode.NO_FIT:
        never = found.mode is Mode.NEVER_FITS
        return answer | {"no_fit_reason": "ExceedsMaxQuota" if never else "WaitingForQuota"}
    answer["flavors"] = kueue.flavors(of, found, modes=True)
    if found.mode is not Mode.FIT:
        evicted = victims(of, gang, found.amounts, found.short)
        answer["victims"] = sorted([one.gang.name, kueue.REASONS[one.why]] for one in evicted)
    return answer


def test_modes_flavors_and_victims_are_kueues(scenario: Scenario) -> None:
    assert told(scenario.fields) == scenario.fields["expect"]
