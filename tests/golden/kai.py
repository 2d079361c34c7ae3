"""KAI's scenarios, asked of the product; the rules that are KAI's alone, and not the product's.

The product divides the shares. Rules that only this driver has, by their names in the scenarios:

* K5, admission: never above a limit, and jobs that cannot be preempted within quota only, at every
  queue up to the root.
* K6, reclaim: the test before any victim, and that of a set of victims.
* Quantities of -1 mean no limit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from scheduler.policies import division

Amounts = Mapping[str, float]


def _unlimited(value: float) -> float:
    return inf if value == -1 else float(value)


@dataclass
class Queue:
    """A queue: per resource its claim, what it holds, and what of that cannot be preempted."""

    name: str
    parent: Queue | None
    claims: dict[str, division.Claim]
    allocated: Amounts
    non_preemptible: Amounts

    def path(self) -> Iterator[Queue]:
        """Yield the queue and all above it."""
        queue: Queue | None = self
        while queue is not None:
            yield queue
            queue = queue.parent

    def may_keep(self, request: Amounts) -> bool:
        """True if it has quota for this beside all that cannot be preempted."""
        return _within(_plus(self.non_preemptible, request), self.quotas)

    @property
    def quotas(self) -> Amounts:
        return {name: claim.quota for name, claim in self.claims.items()}

    @property
    def shares(self) -> Amounts:
        return {name: claim.share for name, claim in self.claims.items()}

    @property
    def allocatable(self) -> Amounts:
        return {name: claim.allocatable for name, claim in self.claims.items()}


def _plus(one: Amounts, other: Amounts, sign: int = 1) -> dict[str, float]:
    return {name: one.get(name, 0) + sign * other.get(name, 0) for name in {**one, **other}}


def _within(amounts: Amounts, bounds: Amounts) -> bool:
    return all(amount <= bounds.get(name, 0) for name, amount in amounts.items())


def _named(amounts: Amounts) -> set[str]:
    return {name for name, amount in amounts.items() if amount > 0}


def divided(fields: dict[str, Any]) -> dict[str, Queue]:
    """Return all queues of a scenario with the shares that the product gives them."""
    told = {one["name"]: one for one in fields["queues"]}
    queues: dict[str, Queue] = {}

    def queue(name: str) -> Queue:
        if name not in queues:
            one = told[name]
            parent = queue(one["parent"]) if one.get("parent") else None
            claims = {}
            for resource, share in one["shares"].items():
                claims[resource] = claim = division.Claim(
                    name,
                    _unlimited(share["quota"]),
                    float(share["request"]),
                    _unlimited(share["limit"]),
                    float(share["weight"]),
                    one["priority"],
                    float(one["created"]),
                    float(share["usage"]),
                )
                if parent is not None:
                    parent.claims[resource].below.append(claim)
            held = {
                what: {resource: share.get(what, 0) for resource, share in one["shares"].items()}
                for what in ("allocated", "non_preemptible")
            }
            queues[name] = Queue(name, parent, claims, held["allocated"], held["non_preemptible"])
        return queues[name]

    roots = [one for one in map(queue, told) if one.parent is None]
    for resource, total in fields["total"].items():
        claims = [root.claims[resource] for root in roots]
        division.divide(float(total), claims, float(fields["k"]))
    return queues


def shares(queues: Mapping[str, Queue]) -> dict[str, dict[str, list[float]]]:
    """Return [fair share, allocatable share] by queue and resource."""
    return {
        name: {
            resource: [claim.share, -1.0 if claim.allocatable == inf else claim.allocatable]
            for resource, claim in queue.claims.items()
        }
        for name, queue in queues.items()
    }


def refusal(queues: Mapping[str, Queue], ask: dict[str, Any]) -> str:
    """K5: return why a job may not start, or nothing."""
    request = {name: amount for name, amount in ask["request"].items() if amount > 0}
    for queue in queues[ask["queue"]].path():
        for name, amount in request.items():
            if queue.allocated[name] + amount > queue.claims[name].limit:
                return "OverLimit"
    for queue in queues[ask["queue"]].path():
        for name, amount in request.items():
            over = queue.non_preemptible[name] + amount > queue.claims[name].quota
            if over and not ask["preemptible"]:
                return "NonPreemptibleOverQuota"
    return ""


def may_try(queues: Mapping[str, Queue], ask: dict[str, Any]) -> bool:
    """K6, before any victim: a job may reclaim up to the fair share of its queue."""
    queue, request = queues[ask["queue"]], ask["request"]
    fair = _within(_plus(queue.allocated, request), queue.shares)
    return fair and (ask["preemptible"] or queue.may_keep(request))


def allowed(queues: Mapping[str, Queue], ask: dict[str, Any]) -> bool:
    """K6: true if a job may have these victims, in this order."""
    reclaimer, request = queues[ask["queue"]], ask["request"]
    left: dict[str, Amounts] = {}  #: what queues hold without the victims so far
    touched: dict[str, set[str]] = defaultdict(set)
    for victims in ask["victims"]:
        victim = queues[victims["queue"]]
        mine, theirs = _below_common(reclaimer, victim)
        starved = _within(_plus(mine.allocated, request), mine.quotas)
        resources = set().union(*map(_named, victims["jobs"]))
        for job in victims["jobs"]:
            holds = left.get(theirs.name, theirs.allocated)
            over_share = not _within(holds, theirs.allocatable)
            if not over_share and not (starved and not _within(holds, theirs.quotas)):
                return False
            for queue in victim.path():
                left[queue.name] = _plus(left.get(queue.name, queue.allocated), job, -1)
                touched[queue.name] |= resources
    for queue in reclaimer.path():
        holds = _plus(left.get(queue.name, queue.allocated), request)
        for name in left:
            other = queues[name]
            if other.parent is queue.parent and other is not queue:
                for resource in touched[name] | _named(request):
                    mine_of = _saturation(holds[resource], queue.shares[resource])
                    theirs_of = _saturation(left[name][resource], other.shares[resource])
                    close = mine_of * ask["multiplier"] >= theirs_of
                    if mine_of > 1 and other.shares[resource] > 0 and close:
                        return False
        if not ask["preemptible"] and not queue.may_keep(request):
            return False
    return True


def _below_common(reclaimer: Queue, victim: Queue) -> tuple[Queue, Queue]:
    """Return the queues of each side just below the lowest one above both."""
    pairs = list(zip(reversed([*reclaimer.path()]), reversed([*victim.path()]), strict=False))
    return next((pair for pair in pairs if pair[0] is not pair[1]), pairs[-1])


def _saturation(holds: float, share: float) -> float:
    if share == 0:
        return inf if holds > 0 else 0.0
    return holds / share
