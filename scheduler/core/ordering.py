"""Queue orders: the key by which waiting gangs are considered.

Every key ends in (submit_us, ordinal, name), so that ties never depend on hashing or on the
arrival of messages.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.core.model import Gang, OrderKey

Order = Callable[[Gang], OrderKey]


def fifo(gang: Gang) -> OrderKey:
    """First submitted, first considered."""
    return (gang.submit_us, gang.ordinal, gang.name)


def priority(gang: Gang) -> OrderKey:
    """Larger priority first, then fifo."""
    return (-gang.priority, gang.submit_us, gang.ordinal, gang.name)


def sjf(gang: Gang) -> OrderKey:
    """Shortest requested walltime first, then fifo."""
    return (gang.walltime_us, gang.submit_us, gang.ordinal, gang.name)


def smallest(gang: Gang) -> OrderKey:
    """Fewest GPUs first, then fifo."""
    return (gang.gpus, gang.submit_us, gang.ordinal, gang.name)
