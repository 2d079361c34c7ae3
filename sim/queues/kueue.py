"""Queues of Kueue: ClusterQueue, Cohort, ResourceFlavor, LocalQueue, WorkloadPriorityClass.

The fields are those of kueue.x-k8s.io v1beta1 and v1beta2 (kueue, apis/kueue).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TypeVar

from scheduler.core.queues import (
    DEFAULT_FLAVOR,
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
from sim.queues.notes import Notes
from sim.queues.objects import Fields, Object

GROUP = "kueue.x-k8s.io"
POOL_LABEL, MODEL_LABEL = "muster.dev/pool", "nvidia.com/gpu.product"
#: resources that muster counts by names of its own, and units of its amounts in one of Kubernetes'
RESOURCES = {
    "nvidia.com/gpu": ("gpus", 1),
    "amd.com/gpu": ("gpus", 1),
    "cpu": ("cpu", 1000),
    "memory": ("memory", 1),
}
VICTIMS = {
    "Never": Victims.NEVER,
    "LowerPriority": Victims.LOWER_PRIORITY,
    "LowerOrNewerEqualPriority": Victims.LOWER_OR_NEWER_EQUAL_PRIORITY,
    "Any": Victims.ANY,
}
#: Borrow and Preempt are the older words
SEARCH = {
    "MayStopSearch": Search.STOP,
    "Borrow": Search.STOP,
    "Preempt": Search.STOP,
    "TryNextFlavor": Search.TRY_NEXT,
}
STRATEGY = {"StrictFIFO": Holding.STRICT, "BestEffortFIFO": Holding.SKIP}
Word = TypeVar("Word")
PREFERENCE = {
    "BorrowingOverPreemption": Preference.BORROWING_OVER_PREEMPTION,
    "PreemptionOverBorrowing": Preference.PREEMPTION_OVER_BORROWING,
}


def queues_of(objects: Sequence[Object], notes: Notes) -> Queues:
    """Return the queues that objects of Kueue describe; what is not kept is noted.

    Raises:
        ValueError: a field has a value that Kueue does not have.
    """
    of_kind: dict[str, list[Object]] = {}
    for one in objects:
        of_kind.setdefault(one.kind, []).append(one)
    queues = [_queue(one, notes) for one in of_kind.get("ClusterQueue", ())]
    names = {queue.name for queue in queues}
    cohorts = [_cohort(one, notes) for one in of_kind.get("Cohort", ())]
    nodes: list[tuple[Queue | Cohort, str]] = [(queue, queue.cohort) for queue in queues]
    nodes += [(cohort, cohort.parent) for cohort in cohorts]
    for node, above in nodes:
        if not above and _drop_limits(node.quota):
            notes.add(
                "it is in no cohort, so its borrowing and lending limits are left out", node.name
            )
    _name_all(cohorts, queues)
    for cohort in cohorts:
        if cohort.name in names:
            _rename(cohort, cohorts, queues, notes)
    flavors = [_flavor(one, notes) for one in of_kind.get("ResourceFlavor", ())]
    known = {flavor.name for flavor in flavors}
    used = dict.fromkeys(name for node, _ in nodes for name in node.quota)
    unknown = [name for name in used if name not in known]
    is_only = len(known) + len(unknown) == 1  # several that are all nodes would overlap
    for name in unknown:
        what = "all nodes" if is_only else "the pool of that name in the cluster file"
        notes.add(
            f"no ResourceFlavor of this name was given, so the flavor stands for {what}; add "
            "`kubectl get resourceflavors -o yaml`",
            name,
        )
        flavors.append(Flavor(name) if is_only else Flavor(name, pool=name))
    _note_priorities(of_kind.get("WorkloadPriorityClass", ()), notes)
    return Queues(
        flavors=tuple(flavors) or (Flavor(DEFAULT_FLAVOR),),
        cohorts=tuple(cohorts),
        queues=tuple(queues),
        aliases=_aliases(of_kind.get("LocalQueue", ()), names, notes),
    )


def _queue(one: Object, notes: Notes) -> Queue:
    cohort = one.text("cohortName") or one.text("cohort")
    preemption, fungibility = one.below("preemption"), one.below("flavorFungibility")
    borrow_within = preemption.below("borrowWithinCohort")
    policy = _choice(borrow_within, "policy", VICTIMS, "Never")
    threshold = borrow_within.get("maxPriorityThreshold")
    quota = _quotas(one, notes)
    queue = Queue(
        one.name,
        cohort=cohort,
        weight=_weight(one),
        quota=quota,
        flavors=tuple(quota) if len(quota) > 1 else (),
        discipline=_choice(one, "queueingStrategy", STRATEGY, "BestEffortFIFO"),
        within=_choice(preemption, "withinClusterQueue", VICTIMS, "Never"),
        reclaim=_choice(preemption, "reclaimWithinCohort", VICTIMS, "Never"),
        borrow_within=policy,
        max_priority=None if policy is Victims.NEVER else threshold,
        when_can_borrow=_choice(fungibility, "whenCanBorrow", SEARCH, "MayStopSearch"),
        when_can_preempt=_choice(fungibility, "whenCanPreempt", SEARCH, "TryNextFlavor"),
        preference=_choice(fungibility, "preference", PREFERENCE, "BorrowingOverPreemption"),
    )
    if not quota:
        notes.add("it has no quota, so Kueue starts nothing in it", one.name)
    if one.text("stopPolicy", "None") != "None":
        notes.add("it is stopped (stopPolicy); muster has no stopped queues", one.name)
    _note_unasked(one, notes)
    return queue


def _cohort(one: Object, notes: Notes) -> Cohort:
    parent = one.text("parentName") or one.text("parent")
    cohort = Cohort(one.name, parent, _weight(one), _quotas(one, notes))
    _note_unasked(one, notes)
    return cohort


def _flavor(one: Object, notes: Notes) -> Flavor:
    labels = one.below("nodeLabels")
    told = {key: labels.text(key) for key in labels.names()}
    pool, model = told.pop(POOL_LABEL, ""), told.pop(MODEL_LABEL, "")
    _note_unasked(one, notes)
    return Flavor(one.name, pool, model, told)


def _quotas(one: Fields, notes: Notes) -> Quotas:
    """Return the quotas of the group with GPUs: in muster a gang takes all from one flavor."""
    name = one.name if isinstance(one, Object) else ""
    groups = []
    for group in one.each("resourceGroups"):
        group.get("coveredResources")
        quotas: Quotas = {}
        for flavor in group.each("flavors"):
            resources = quotas.setdefault(flavor.text("name"), {})
            for resource in flavor.each("resources"):
                core, units = RESOURCES.get(resource.text("name"), (resource.text("name"), 1))
                before = resources.get(core, Quota())
                resources[core] = Quota(
                    before.nominal + (_amount(resource, "nominalQuota", units) or 0),
                    _amount(resource, "borrowingLimit", units),
                    _amount(resource, "lendingLimit", units),
                )
        groups.append({flavor: resources for flavor, resources in quotas.items() if resources})
    if len(groups) > 1:
        notes.add(
            "it has several resourceGroups; only the one with GPUs is kept, because a gang takes "
            "all its resources from one flavor here",
            name,
        )
    with_gpus = [one for one in groups if any("gpus" in resources for resources in one.values())]
    return next(iter([*with_gpus, *groups]), {})


def _drop_limits(quotas: Quotas) -> bool:
    """Drop limits on lending and borrowing; return whether there were any."""
    dropped = False
    for resources in quotas.values():
        for name, quota in resources.items():
            dropped = dropped or (quota.borrow, quota.lend) != (None, None)
            resources[name] = Quota(quota.nominal)
    return dropped


def _amount(fields: Fields, key: str, units: int) -> int | None:
    value = fields.quantity(key)
    if value is None:
        return None
    amount = value * units
    if amount != int(amount) or amount < 0:
        raise fields.wrong(key, fields.get(key), "an amount that can be counted")
    return int(amount)


def _weight(one: Object) -> float:
    weight = one.below("fairSharing").quantity("weight")
    return float(Decimal(1) if weight is None else weight)


def _choice(fields: Fields, key: str, words: dict[str, Word], default: str) -> Word:
    told = fields.text(key, default)
    if told not in words:
        raise fields.wrong(key, told, f"one of {', '.join(words)}")
    return words[told]


def _name_all(cohorts: list[Cohort], queues: Sequence[Queue]) -> None:
    """Add the cohorts that are only named: Kueue needs no object for them."""
    known = {cohort.name for cohort in cohorts}
    for name in (*(one.parent for one in cohorts), *(queue.cohort for queue in queues)):
        if name and name not in known:
            cohorts.append(Cohort(name))
            known.add(name)


def _rename(
    cohort: Cohort, cohorts: Sequence[Cohort], queues: Sequence[Queue], notes: Notes
) -> None:
    """Give a cohort with the name of a queue another one."""
    old, taken = cohort.name, {*(c.name for c in cohorts), *(queue.name for queue in queues)}
    new = f"{old}-cohort"
    while new in taken:
        new += "-"
    cohort.name = new
    for other in cohorts:
        other.parent = new if other.parent == old else other.parent
    for queue in queues:
        queue.cohort = new if queue.cohort == old else queue.cohort
    notes.add(f"a queue has the name of this cohort, which is called {new!r} here", old)


def _aliases(local: Sequence[Object], queues: set[str], notes: Notes) -> dict[str, str]:
    """Return the names of LocalQueues: with their namespace, and alone where that is clear."""
    aliases: dict[str, str] = {}
    targets: dict[str, set[str]] = {}
    for one in local:
        target = one.text("clusterQueue")
        _note_unasked(one, notes)
        if target not in queues:
            notes.add(f"its ClusterQueue {target!r} was not given", f"LocalQueue {one.name}")
            continue
        aliases[f"{one.namespace or 'default'}/{one.name}"] = target
        targets.setdefault(one.name, set()).add(target)
    for name, found in targets.items():
        if len(found) == 1 and name not in queues:
            aliases[name] = next(iter(found))
        elif found != {name}:
            notes.add(
                "LocalQueues of this name lead to different queues: jobs need "
                "NAMESPACE/NAME in their column queue",
                name,
            )
    return aliases


def _note_priorities(classes: Sequence[Object], notes: Notes) -> None:
    told = [f"{one.name} = {one.whole.get('value')}" for one in classes]
    if told:
        notes.add(f"priorities are numbers in the jobs' column priority: {', '.join(told)}")


def _note_unasked(one: Object, notes: Notes) -> None:
    for key in one.unasked():
        notes.add(f"spec.{key} has no counterpart", f"{one.kind} {one.name}")
