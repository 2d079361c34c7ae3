"""The parts into which the time of a training run is split, and how they are drawn."""

from __future__ import annotations

from enum import StrEnum


class Part(StrEnum):
    """What a second of an attempt went into."""

    PRODUCTIVE = "productive"  #: steps that the final state keeps
    STARTUP = "startup"  #: from the process's start to its first step, and what that took longer
    RESTORE = "restore"  #: reading a checkpoint
    DATA_WAIT = "data_wait"  #: steps that are kept waited so long for their data
    SAVE_STALL = "save_stall"  #: steps stood still for a checkpoint
    LOST_WORK = "lost_work"  #: steps rolled back by a restart
    RECOVERY = "recovery"  #: from the last step of an attempt that was cut to the next start
    OTHER = "other"  #: shutting down after the last step, and what no event explains


#: fill and hatching of each part, in the order in which they are stacked; hatching and lightness
#: tell them apart in greyscale
PART_STYLE: dict[Part, tuple[str, str]] = {
    Part.PRODUCTIVE: ("#009e73", ""),
    Part.DATA_WAIT: ("#f0e442", "..."),
    Part.SAVE_STALL: ("#0072b2", ""),
    Part.STARTUP: ("#56b4e9", "///"),
    Part.RESTORE: ("#cc79a7", ""),
    Part.LOST_WORK: ("#d55e00", "xxx"),
    Part.RECOVERY: ("#e69f00", ""),
    Part.OTHER: ("#9a9a9a", "\\\\\\"),
}

PART_LABELS: dict[Part, str] = {part: part.value.replace("_", " ") for part in Part}
