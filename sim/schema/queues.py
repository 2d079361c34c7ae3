"""The queues file of a run: who may have how much, borrow and lend."""

from __future__ import annotations

from pathlib import Path

from scheduler.core.queues import Queues
from scheduler.policies import queuesfile


def load(path: str | Path) -> Queues:
    """Read a queues file.

    Raises:
        ValueError: the file is missing or invalid.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"queues file {str(path)!r}: {error.strerror}") from None
    return queuesfile.read(content, f"queues file {str(path)!r}")
