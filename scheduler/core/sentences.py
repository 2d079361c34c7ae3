"""A waiting gang's reason in one sentence with its numbers, the same wherever people read it."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.core.decisions import (
    Explanation,
    Lack,
    Offer,
    PendingReason,
    QuotaShortage,
    Shortage,
    Unmet,
)
from scheduler.core.model import PodShape
from scheduler.core.times import duration, to_s

#: what people call a pool of the core
PoolName = Callable[[str], str]

#: said of pods whose constraints no node meets, where it is not known which
UNMATCHED = "no node matches its node selector, its affinity and its tolerations"
#: said of gangs that no node could take as the cluster stands
ASIDE = (
    "even if other gangs end, the cluster in its present state has no room for it; others may "
    "pass it"
)
_NOUNS = {"gpus": "GPUs", "cpu": "CPUs", "memory": "memory", "pods": "pod slots"}
_BINARY = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def noun(resource: str) -> str:
    """Return what a resource is called in running text."""
    return _NOUNS.get(resource, resource)


def quantity(resource: str, amount: int) -> str:
    """Return an amount with its unit: 8 GPUs, 7.5 CPUs, 512 GiB of memory."""
    if _in_bytes(resource):
        return f"{_bytes(amount)} of {noun(resource)}"
    is_one = amount == (1000 if resource == "cpu" else 1)
    return f"{_bare(resource, amount)} {_one(resource) if is_one else noun(resource)}"


def _one(resource: str) -> str:
    return {"gpus": "GPU", "cpu": "CPU", "pods": "pod slot"}.get(resource, noun(resource))


def _bare(resource: str, amount: int) -> str:
    """Return an amount whose noun is known from before: 8, 7.5, 512 GiB."""
    if _in_bytes(resource):
        return _bytes(amount)
    if resource == "cpu":
        return f"{amount / 1000:,.10g}"
    return f"{amount:,}"


def _in_bytes(resource: str) -> bool:
    return resource in ("memory", "ephemeral-storage") or resource.startswith("hugepages-")


def _bytes(amount: int) -> str:
    for size, unit in _BINARY:
        if amount >= size:
            return f"{amount / size:,.7g} {unit}"
    return f"{amount:,} bytes"


def _pods(count: int) -> str:
    return f"{count:,} pod" if count == 1 else f"{count:,} pods"


def _nodes(count: int) -> str:
    return f"{count:,} node" if count == 1 else f"{count:,} nodes"


def why(
    said: Explanation,
    present: int,
    name_of: PoolName = str,
    unmatched: str = "",
    now_us: int | None = None,
) -> str:
    """Say why a gang waits; `present` of the pods that it lacks exist. For the rest see `never`.

    With `now_us` it also says in what time quota is given back.
    """
    short = said.short
    need = f"needs {_need(said, short)} for {_pods(said.need_pods)}"
    if said.aside:
        return f"{need}; {ASIDE}"
    match said.reason:
        case PendingReason.NEVER_FITS:
            return never(said.unmet, name_of, unmatched) if said.unmet is not None else need
        case PendingReason.MEMBERS:
            there = f"{present} of {said.need_pods} pods exist"
            return f"{need}; {there}, waiting for the others to be created"
        case PendingReason.QUOTA if said.quota is not None:
            return _over_quota(said.quota, now_us)
        case PendingReason.PREEMPTING:
            return f"{need}, which are kept for it; {_leaving(said.leaving)}"
        case PendingReason.BEHIND_HEAD:
            first = said.ahead or "an earlier gang"
            return f"{need}, which are free, but {first} is first in the queue"
        case PendingReason.CAPACITY if short is None:
            return f"{need}; no node that it may use takes pods"
        case PendingReason.CAPACITY if short is not None:
            return f"{need}; {_bare(short.resource, short.free)} are free on nodes it may use"
        case PendingReason.FRAGMENTATION if short is not None:
            return f"{need}; {_apart(short, said)}"
    return need


def _leaving(names: tuple[str, ...]) -> str:
    """Say whom a gang waits for that was evicted for it."""
    if not names:
        return "it starts now"
    text = ", ".join(names[:3])
    if len(names) > 3:
        text += f" and {len(names) - 3} more"
    return f"{text} {'is' if len(names) == 1 else 'are'} leaving"


def _over_quota(short: QuotaShortage, now_us: int | None) -> str:
    """Say whose quota is short, of what and by how much, who would have to give back, and when."""
    left = max(0, short.available)
    text = (
        f"needs {quantity(short.resource, short.asked)}, but queue {short.queue} has quota left "
        f"for {_bare(short.resource, left)}: it uses {_bare(short.resource, short.used)}, its own "
        f"quota is {_bare(short.resource, short.nominal)}"
    )
    if short.flavor:
        text += f" (flavor {short.flavor})"
    lacks = short.asked - short.available  # more than it asks for where the quota is overdrawn
    text += f"; {_bare(short.resource, lacks)} would have to be given back"
    if short.borrowers:
        each = [f"{name} {_bare(short.resource, more)}" for name, more in short.borrowers[:3]]
        text += f"; queues that borrow: {', '.join(each)}"
        if len(short.borrowers) > 3:
            text += f" and {len(short.borrowers) - 3} more"
    if now_us is not None and short.back_us is not None:
        in_s = to_s(max(0, short.back_us - now_us))
        text += f"; by their walltimes, gangs that run give enough back within {duration(in_s)}"
    return text


def _need(said: Explanation, short: Shortage | None) -> str:
    """Return what it needs of what is short; if nothing is, of the resource that it counts by."""
    if short is not None:
        return quantity(short.resource, short.need)
    return quantity("gpus", said.need_gpus) if said.need_gpus else "room"


def _apart(short: Shortage, said: Explanation) -> str:
    free = f"{_bare(short.resource, short.free)} are free"
    fit = f": {said.fit_pods} of {said.need_pods} pods fit" if said.fit_pods else ""
    if not short.beside:
        text = f"{free}, but not in a shape that its pods can use{fit}"
        if short.most < short.asked:
            text += f": a pod needs {_bare(short.resource, short.asked)}, "
            text += f"and no node has more than {_bare(short.resource, short.most)} free"
        return text
    if short.most >= short.asked:
        return f"{free}, but not on nodes that have the {noun(short.beside)} for its pods{fit}"
    return (
        f"{free}, but at most {_bare(short.resource, short.most)} on a node that has the "
        f"{noun(short.beside)} for a pod, which needs {_bare(short.resource, short.asked)}"
    )


def never(unmet: Unmet, name_of: PoolName = str, unmatched: str = "") -> str:
    """Say which request no node can meet, and what the nodes offer instead.

    `unmatched` is used if the selector matches no node and its pool names mean nothing to people.
    """
    selector, pods = unmet.selector, _pods(unmet.pods)
    if unmatched and unmet.lack in (Lack.POOL, Lack.MODEL, Lack.MODEL_IN_POOL):
        return unmatched
    match unmet.lack:
        case Lack.QUOTA if unmet.offers:
            each = [
                f"asks {quantity(one.resource, one.asked)}, can have "
                f"{_bare(one.resource, one.most)} at most{_of_flavor(one.pool)}"
                for one in unmet.offers
            ]
            return f"exceeds the quota of {unmet.queue}: {'; '.join(each)}"
        case Lack.QUOTA:
            return f"exceeds the quota of {unmet.queue}: it has none on nodes that the gang may use"
        case Lack.NODES:
            return f"needs {pods}, but the cluster has no nodes"
        case Lack.POOL:
            wanted = f"asks for pool {selector.pool!r}"
            return f"{wanted}; {_listed('pools here', unmet.pools, 'no node is in a pool')}"
        case Lack.MODEL:
            here = _listed("models here", unmet.models, "no node states its model")
            return f"asks for GPU model {selector.gpu_model!r}; {here}"
        case Lack.MODEL_IN_POOL:
            pool, model = selector.pool, selector.gpu_model
            there = _listed(f"models in pool {pool!r}", unmet.models, f"pool {pool!r} states none")
            other = _listed(f"pools with {model!r}", unmet.pools, f"{model!r} is in no pool")
            return f"asks for GPU model {model!r} in pool {pool!r}; {there}; {other}"
        case Lack.NODE:
            each = [_too_small(offer, unmet, name_of) for offer in unmet.offers]
            return f"needs {'; and '.join(each)}"
        case Lack.MIX if len(unmet.offers) == 2:
            first, second = unmet.offers
            both = f"{quantity(first.resource, first.asked)} and "
            both += quantity(second.resource, second.asked)
            return (
                f"needs {both} per pod, no node has both: those with "
                f"{quantity(first.resource, first.asked)} have at most "
                f"{_bare(second.resource, second.most)}{_where(second, name_of)}"
            )
        case Lack.MIX:
            return f"needs {_shape(unmet.pod)} per pod, no node has all of that"
        case Lack.COUNT:
            lead = next((name for name, n in unmet.pod.amounts().items() if n > 0), "")
            cause = f", for lack of {noun(unmet.resource)}" if unmet.resource != lead else ""
            nodes = f"the {_nodes(unmet.num_nodes)} that it may use"
            verb = "holds" if unmet.num_nodes == 1 else "hold"
            return (
                f"needs {pods} of {_shape(unmet.pod)}; empty, {nodes} {verb} "
                f"{unmet.hold_pods:,}{cause}"
            )
        case Lack.ROLES:
            return f"needs {pods} of several kinds; {_together(unmet)}"
    raise AssertionError(unmet.lack)


def _of_flavor(name: str) -> str:
    return f" (flavor {name}, the nearest)" if name else ""


def _listed(what: str, names: tuple[str, ...], otherwise: str) -> str:
    return f"{what}: {', '.join(names)}" if names else otherwise


def _where(offer: Offer, name_of: PoolName) -> str:
    name = name_of(offer.pool) if offer.pool else ""
    return f" (pool {name!r})" if name else ""


def _too_small(offer: Offer, unmet: Unmet, name_of: PoolName) -> str:
    may_use = "" if unmet.selector == ("", "") else " that it may use"
    return (
        f"{quantity(offer.resource, offer.asked)} per pod, the largest node{may_use} has "
        f"{_bare(offer.resource, offer.most)}{_where(offer, name_of)}"
    )


def _shape(pod: PodShape) -> str:
    """Return what a pod asks for: 8 GPUs and 64 GiB of memory."""
    asked = [(name, amount) for name, amount in pod.amounts().items() if amount > 0]
    parts = [quantity(name, amount) for name, amount in asked if name != "pods"]
    if len(parts) > 1:
        return f"{', '.join(parts[:-1])} and {parts[-1]}"
    return parts[0] if parts else "any size"


def _together(unmet: Unmet) -> str:
    if not unmet.offers:
        return "each fits alone, but not all together on the empty cluster"
    each = [
        f"together {quantity(one.resource, one.asked)}, of which the nodes have "
        f"{_bare(one.resource, one.most)}"
        for one in unmet.offers
    ]
    return "each fits alone, " + "; ".join(each)
