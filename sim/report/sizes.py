"""Gang size classes in words, and which of them occur."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from sim.report.wording import exact
from sim.runs.metrics import SIZE_CLASSES


def size_words(code: int) -> str:
    """Return a gang size class in words: gangs of 9 to 64 GPUs."""
    low = 1 if code == 0 else int(SIZE_CLASSES[code - 1][1]) + 1
    high = SIZE_CLASSES[code][1]
    if code == 0:
        return f"gangs of up to {exact(high)} GPUs"
    return (
        f"gangs above {exact(low - 1)} GPUs"
        if np.isinf(high)
        else f"gangs of {exact(low)} to {exact(high)} GPUs"
    )


def label(code: int) -> str:
    """Return how tables and axes call a gang size class."""
    return SIZE_CLASSES[code][0].replace("<=", "≤ ")


def occurring(by_size: Iterable[pd.DataFrame]) -> list[int]:
    """Return the size classes that have a job in one of the tables; all of them without jobs.

    The tables are those of `metrics.delay_by_size`.
    """
    codes = range(len(SIZE_CLASSES))
    tables = [table["num_jobs"] for table in by_size]
    found = [code for code in codes if any(table.iloc[code] for table in tables)]
    return found or list(codes)
