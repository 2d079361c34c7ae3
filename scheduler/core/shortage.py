"""What gangs are short of: which resource is short, and which request no node can meet.

A pass asks `outlook` for each family, in a few sums that moves keep up to date; the numbers behind
one gang's reason (`shortage`, `unmet`) are worked out when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.core.capacity import GPUS, Capacity
from scheduler.core.decisions import Lack, Offer, Shortage, Unmet
from scheduler.core.model import PodShape, Role, Selector, of_one_shape
from scheduler.core.nodegroup import NodeGroup
from scheduler.core.placement import Placer, place

#: nodes of one group that have as much
_Kind = tuple[NodeGroup, PodShape]


def outlook(
    capacity: Capacity, roles: tuple[Role, ...], placer: Placer
) -> tuple[int, int, str, str]:
    """Return what `decisions.Wait` says of the gangs of a family.

    Costs the groups of nodes and the resources asked for, where one role is all there is.
    """
    if len(roles) > 1:
        return _outlook_of_several(capacity, roles, placer)
    role = roles[0]
    selector = role.selector
    fits = capacity.fits_of(role)
    fit_pods = fits.pods()
    asked = fits.asked
    if not asked:
        return fit_pods, fit_pods, "", ""  # only nodes that take pods are missing
    first = asked[0]
    short = first.name
    if short == GPUS:
        free_pods = fits.free_gpus() // first.amount
    else:
        free_pods = capacity.free(first.unit, selector) // first.amount
    if free_pods == fit_pods or len(asked) == 1:
        return fit_pods, free_pods, short, short
    others = asked[1:]
    for other in others:
        count = capacity.free(other.unit, selector) // other.amount
        if count < free_pods:
            short, free_pods = other.name, count
    apart = first.name
    if fit_pods < free_pods and fit_pods < capacity.slots(first.beside, selector):
        by_first_and_it = [capacity.slots(other.beside, selector) for other in others]
        apart = others[by_first_and_it.index(min(by_first_and_it))].name
    return fit_pods, free_pods, short, apart


def _outlook_of_several(
    capacity: Capacity, roles: tuple[Role, ...], placer: Placer
) -> tuple[int, int, str, str]:
    """Do the same for gangs of several roles, all of one size: each fits whole, or does not."""
    names = _asked_by(capacity, roles)
    first = names[0] if names else ""
    short, short_free, short_need = "", 0, 1
    for name in names:
        need: dict[Selector, int] = {}
        for role in roles:
            amount = role.pod.amount(name) * role.count
            if amount:
                need[role.selector] = need.get(role.selector, 0) + amount
        for selector, amount in need.items():
            free = capacity.free(PodShape.of({name: 1}), selector)
            if free < amount and (not short or free * short_need < short_free * amount):
                short, short_free, short_need = name, free, amount
    if short:
        return 0, 0, short, first
    if place(capacity, roles, placer) is not None:
        return 1, 1, first, first
    apart = first
    if len(names) > 1 and _fits_by(capacity, roles, (first,), placer):
        others = names[1:]
        apart = next(
            (n for n in others if not _fits_by(capacity, roles, (first, n), placer)), first
        )
    return 0, 1, first, apart


def lead(capacity: Capacity, roles: tuple[Role, ...]) -> str:
    """Return the resource by which these pods are counted: GPUs, if any of them asks for some.

    Empty if they ask for nothing that nodes have a limit of.
    """
    names = _asked_by(capacity, roles)
    return names[0] if names else ""


def _asked_by(capacity: Capacity, roles: tuple[Role, ...]) -> list[str]:
    names: list[str] = []
    for role in roles:
        for asked in capacity.asked(role.pod, role.selector):
            if asked.name not in names:
                names.append(asked.name)
    return sorted(names, key=lambda name: name != GPUS)


def _fits_by(
    capacity: Capacity, roles: tuple[Role, ...], names: tuple[str, ...], placer: Placer
) -> bool:
    """True if the gang would fit, did its pods ask for these resources only."""
    less = tuple(Role(r.count, r.pod.only(names), r.selector, r.name) for r in roles)
    return place(capacity, less, placer) is not None


def shortage(
    capacity: Capacity, roles: tuple[Role, ...], resource: str, *, beside: str = ""
) -> Shortage:
    """Return the numbers of one resource for pods of these roles.

    With `beside`, the most on one node is looked for on nodes that have that resource for a pod.
    Costs the distinct amounts free on nodes.
    """
    asking = [role for role in roles if role.pod.amount(resource)]
    free = most = 0
    counted: list[NodeGroup] = []
    for role in asking:
        wanted = role.pod.amount(beside) if beside else 0
        for group in capacity.searched(PodShape.of({resource: 1}), role.selector):
            for shape, nodes in group.by_free():
                amount = shape.amount(resource)
                free += 0 if group in counted else amount * nodes.size
                if amount > most and (not beside or shape.amount(beside) >= wanted):
                    most = amount
            counted.append(group)
    return Shortage(
        resource=resource,
        asked=max((role.pod.amount(resource) for role in asking), default=0),
        need=sum(role.pod.amount(resource) * role.count for role in asking),
        free=free,
        most=most,
        beside=beside,
    )


def unmet(capacity: Capacity, roles: tuple[Role, ...]) -> Unmet | None:
    """Return which request keeps a gang from ever starting; None if its pods are equal and fit."""
    equal = of_one_shape(roles)
    if equal is not None:
        return _unmet_of(capacity, equal)
    for role in roles:
        found = _unmet_of(capacity, role)
        if found is not None:
            return found
    return _unmet_together(capacity, roles)


def _unmet_together(capacity: Capacity, roles: tuple[Role, ...]) -> Unmet:
    """Return of what roles that fit one by one ask for more than there is, if a sum tells."""
    allowed = {id(group) for role in roles for group in capacity.eligible(role.selector)}
    groups = [group for group in capacity.groups if id(group) in allowed]
    need: dict[str, int] = {}
    for role in roles:
        for name, amount in role.pod.amounts().items():
            need[name] = need.get(name, 0) + role.count * amount
    more = []
    for name, amount in need.items():
        total = sum(
            num_nodes * has.amount(name)
            for group in groups
            for has, num_nodes in group.capacities.items()
        )
        if amount > total:
            more.append(Offer(name, amount, total, "", ""))
    return Unmet(
        Lack.ROLES,
        roles[0].selector,
        sum(role.count for role in roles),
        roles[0].pod,
        tuple(more),
        num_nodes=sum(group.num_nodes for group in groups),
    )


def _unmet_of(capacity: Capacity, role: Role) -> Unmet | None:
    """Return what of one role's request cannot be met."""
    pod, selector, pods = role.pod, role.selector, role.count
    there = [group for group in capacity.groups if group.num_nodes]
    if not there:
        return Unmet(Lack.NODES, selector, pods, pod)
    groups = [group for group in capacity.eligible(selector) if group.num_nodes]
    if not groups:
        return _unmet_selector(there, role)
    num_nodes = sum(group.num_nodes for group in groups)
    kinds = [(group, has) for group in groups for has in group.capacities]
    amounts = {name: amount for name, amount in pod.amounts().items() if amount > 0}
    small = []
    for name, amount in amounts.items():
        offer = _largest(kinds, name, amount)
        if offer.most < amount:
            small.append(offer)
    if small:
        return Unmet(Lack.NODE, selector, pods, pod, tuple(small), num_nodes=num_nodes)
    if not any(has.holds(pod) for _, has in kinds):
        return Unmet(Lack.MIX, selector, pods, pod, _at_odds(kinds, amounts), num_nodes=num_nodes)
    hold_pods = capacity.total_slots(pod, selector)
    if hold_pods >= pods:
        return None
    names = list(amounts)
    binds, least = names[0], capacity.total_slots(pod.only((names[0],)), selector)
    if least > hold_pods:
        counts = [(capacity.total_slots(pod.only((names[0], n)), selector), n) for n in names[1:]]
        binds = min(counts, key=lambda one: one[0])[1]
    return Unmet(
        Lack.COUNT,
        selector,
        pods,
        pod,
        num_nodes=num_nodes,
        hold_pods=hold_pods,
        resource=binds,
    )


def _unmet_selector(there: list[NodeGroup], role: Role) -> Unmet:
    """Return which pool or GPU model no node has."""
    selector = role.selector
    in_pool = [g for g in there if g.allows(Selector(pool=selector.pool))]
    with_model = [g for g in there if g.allows(Selector(gpu_model=selector.gpu_model))]
    if in_pool and with_model:
        lack = Lack.MODEL_IN_POOL
        pools, models = _names(g.pool for g in with_model), _names(g.gpu_model for g in in_pool)
    else:
        lack = Lack.MODEL if in_pool else Lack.POOL
        pools, models = _names(g.pool for g in there), _names(g.gpu_model for g in there)
    return Unmet(lack, selector, role.count, role.pod, pools=pools, models=models)


def _names(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for name in found if name}))


def _largest(kinds: list[_Kind], name: str, amount: int) -> Offer:
    """Return the most of a resource that one empty node has."""
    best, has = max(kinds, key=lambda kind: kind[1].amount(name))
    most = has.amount(name)
    return Offer(name, amount, most, best.pool, best.gpu_model)


def _at_odds(kinds: list[_Kind], amounts: dict[str, int]) -> tuple[Offer, ...]:
    """Return two resources that no node has both of, the second as those with the first have it.

    Empty where it takes three to disagree.
    """
    for first, one in amounts.items():
        having = [kind for kind in kinds if kind[1].amount(first) >= one]
        for second, other in amounts.items():
            best = _largest(having, second, other)
            if best.most < other:
                return (Offer(first, one, one, best.pool, best.gpu_model), best)
    return ()
