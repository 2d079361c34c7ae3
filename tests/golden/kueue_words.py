"""Kueue's words as the product's: the only thing that scenarios need to become a quota tree."""

from __future__ import annotations

from typing import Any

from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Preference,
    Queue,
    Queues,
    Quota,
    Quotas,
    Search,
    Victims,
)
from scheduler.core.quota import Amounts, QuotaTree

Fields = dict[str, Any]

VICTIMS = {
    "Never": Victims.NEVER,
    "LowerPriority": Victims.LOWER_PRIORITY,
    "LowerOrNewerEqualPriority": Victims.LOWER_OR_NEWER_EQUAL_PRIORITY,
    "Any": Victims.ANY,
}
SEARCH = {"MayStopSearch": Search.STOP, "TryNextFlavor": Search.TRY_NEXT}
PREFERENCE = {
    "BorrowingOverPreemption": Preference.BORROWING_OVER_PREEMPTION,
    "PreemptionOverBorrowing": Preference.PREEMPTION_OVER_BORROWING,
}
DISCIPLINE = {"StrictFIFO": Holding.STRICT, "BestEffortFIFO": Holding.SKIP}


def tree(fields: Fields) -> QuotaTree:
    """Return the unused tree of a scenario, even with words that a queues file may not combine."""
    return QuotaTree(_queues(fields))


def amounts(of: QuotaTree, by_key: dict[str, int]) -> Amounts:
    """Return amounts given by `flavor/resource`."""
    cells = ((of.cells[_split(key)], amount) for key, amount in by_key.items())
    return tuple(sorted((cell, amount) for cell, amount in cells if amount))


def _queues(fields: Fields) -> Queues:
    return Queues(
        tuple(map(Flavor, fields["flavors"])),
        tuple(
            Cohort(
                one["name"],
                one.get("parent", ""),
                float(one.get("weight", 1)),
                _quotas(fields, one.get("quota", {})),
            )
            for one in fields["cohorts"]
        ),
        tuple(_queue(fields, one) for one in fields["queues"]),
    )


def _queue(fields: Fields, one: Fields) -> Queue:
    borrow_within = one.get("borrow_within", {})
    return Queue(
        name=one["name"],
        cohort=one.get("cohort", ""),
        weight=float(one.get("weight", 1)),
        quota=_quotas(fields, one["quota"]),
        flavors=tuple(one.get("flavors", ())),
        discipline=DISCIPLINE[one.get("strategy", "BestEffortFIFO")],
        within=VICTIMS[one.get("within", "Never")],
        reclaim=VICTIMS[one.get("reclaim", "Never")],
        borrow_within=VICTIMS[borrow_within.get("policy", "Never")],
        max_priority=borrow_within.get("max_priority"),
        when_can_borrow=SEARCH[one.get("when_can_borrow", "MayStopSearch")],
        when_can_preempt=SEARCH[one.get("when_can_preempt", "TryNextFlavor")],
        preference=PREFERENCE[one.get("preference", "BorrowingOverPreemption")],
    )


def _quotas(fields: Fields, by_key: dict[str, dict[str, int]]) -> Quotas:
    found: Quotas = {}
    for key, quota in by_key.items():
        flavor, resource = _split(key)
        found.setdefault(flavor, {})[resource] = Quota(
            quota["nominal"], quota.get("borrow"), quota.get("lend")
        )
    return found


def _split(key: str) -> tuple[str, str]:
    flavor, _, resource = key.partition("/")
    return flavor, resource
