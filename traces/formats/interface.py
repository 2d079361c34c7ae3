"""The interface of readers: their input and result.

A module of this package reads one format. It has one function, `read(source, options)`, which
returns a `Reading`, and it imports nothing of other formats. `catalog` lists the formats and how
a file of each is recognised; `source`, `rows`, `text`, `dates` and `outcomes` hold what readers
share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from traces.schema import GPUS_PER_NODE


@dataclass(frozen=True, slots=True)
class Options:
    """The user's options for a file."""

    on_bad_row: str = "fail"  #: or "skip"
    gpus_per_node: int = GPUS_PER_NODE  #: a job's GPUs are cut into pods of at most so many
    gpus_per_pod: int | None = None  #: where processors are counted: so many make a pod
    names: Mapping[str, str] = field(default_factory=dict)  #: columns: theirs -> ours
    ignore_extra: bool = False  #: ignore columns that muster does not know
    columns: tuple[str, ...] = ()  #: the header of a file that has none
    dates: str = ""  #: "day-first" or "month-first", where a column of dates may be either


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader found."""

    jobs: pd.DataFrame  #: canonical columns; `submit_s` on the file's own clock
    rejected: pd.DataFrame  #: line, column, value, reason, row: bad rows and rows left out
    left_out: Mapping[str, int] = field(default_factory=dict)  #: reason -> sound rows left out
    notes: tuple[str, ...] = ()  #: sentences: what was assumed, or not understood
