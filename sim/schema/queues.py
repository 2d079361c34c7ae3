"""The queues file of a run: who may have how much, borrow and lend."""

from __future__ import annotations

from pathlib import Path

from scheduler.core.queues import Queues
from scheduler.core.quotabook import DEFAULT
from scheduler.policies import queuesfile

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
