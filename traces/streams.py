"""Named random streams: each kind of draw has its own, so one does not disturb another."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream is drawn for; the number is part of the seed and never changes."""

    SIZES = 1
    CAMPAIGNS = 2  #: jobs per campaign
    RUNTIMES = 3  #: the part of a job's run time that its campaign shares
    MEMBERS = 4  #: the part of its own
    ARRIVALS = 5
    INTENSITY = 6
    GAPS = 7
    OUTCOMES = 8
    ESTIMATES = 9
    FAULTS = 10
    FAULT_LIST = 11
    SUPERPOSITION = 12


def generator(seed: int, stream: Stream, replica: int = 0) -> np.random.Generator:
    """Return a new generator at the start of the stream."""
    if seed < 0:
        raise ValueError(f"seed {seed}: must be 0 or more")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(stream), replica)))
