"""The queues file of a run: who may have how much, borrow and lend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scheduler.core.queues import Queues
from scheduler.core.quotabook import DEFAULT
from scheduler.policies import queuesfile
from sim.schema.cluster import Cluster

_MOST_FAULTS = 8


def load(path: str | Path) -> Queues:
    """Read a queues file.

    Raises:
        ValueError: the file is missing or invalid.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"queues file {str(path)!r}: {error.strerror}") from None
    place = f"queues file {str(path)!r}"
    try:
        return queuesfile.read(content, place)
    except ValueError as error:
        faults = [line.removeprefix(f"{place}: ") for line in str(error).splitlines()]
        if len(faults) == 1:
            raise
    told = "; ".join(f"({at}) {fault}" for at, fault in enumerate(faults[:_MOST_FAULTS], start=1))
    rest = len(faults) - _MOST_FAULTS
    more = f"; and {rest} more" if rest > 0 else ""
    raise ValueError(f"{place} has {len(faults)} faults: {told}{more}")


def queue_called(file: Queues, label: str) -> str:
    """Return the queue that takes jobs with this label; the label itself if none does."""
    names = [queue.name for queue in file.queues]
    if not label:
        return names[0] if len(names) == 1 else DEFAULT if DEFAULT in names else ""
    found = file.aliases.get(label, label)
    return found if found in names else label


def on_cluster(file: Queues, cluster: Cluster) -> tuple[Queues, list[str]]:
    """Return a queues file whose flavors are nodes of a simulated cluster, and what was assumed.

    These nodes have no labels, and perhaps no GPU model: then a flavor is the pool of its name, or
    all nodes if no other flavor has quota and there is one pool.

    Raises:
        ValueError: a flavor is by labels and neither holds.
    """
    pools = {pool.name for pool in cluster.pool}
    has_models = any(pool.gpu_model for pool in cluster.pool)
    used = {name for queue in file.queues for name in queue.quota}
    used |= {name for cohort in file.cohorts for name in cohort.quota}
    flavors, notes = [], []
    for one in file.flavors:
        said = dict(one.labels)
        if one.gpu_model and not has_models:
            said["gpu_model"] = one.gpu_model
        if not said:
            flavors.append(one)
            continue
        words = " and ".join(f"{key} = {value}" for key, value in said.items())
        model = one.gpu_model if has_models else ""
        if one.name not in used and one.labels:
            continue  # nobody may use it
        if one.name in pools and one.pool in ("", one.name):
            flavors.append(replace(one, pool=one.name, gpu_model=model, labels={}))
            notes.append(f"flavor {one.name!r} ({words}) is the pool of that name")
        elif used <= {one.name} and len(pools) == 1:
            flavors.append(replace(one, gpu_model=model, labels={}))
            notes.append(f"flavor {one.name!r} ({words}) is all nodes: no other flavor has quota")
        elif one.labels:
            raise ValueError(
                f"flavor {one.name!r} is the nodes with {words}, but nodes have no labels here; "
                f"name a pool {one.name!r} in the cluster file (--cluster), or give the flavor "
                "pool or gpu_model"
            )
        else:
            flavors.append(one)
    return replace(file, flavors=tuple(flavors)), notes
