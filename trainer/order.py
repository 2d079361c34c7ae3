"""Which samples a step takes: a pure function, so that nothing of a loader needs saving."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any

import torch


def stream_seed(*parts: int | str) -> int:
    """Return a seed of 63 bits for one named stream, such as (seed, "noise", step, rank)."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1


@lru_cache(maxsize=2)
def _permutation(epoch: int, seed: int, num_samples: int) -> Any:
    generator = torch.Generator().manual_seed(stream_seed(seed, "order", epoch))
    return torch.randperm(num_samples, generator=generator)


def sample_ids(step: int, seed: int, global_batch: int, num_samples: int) -> Any:
    """Return the sample ids of a step, [global_batch]; each epoch is a permutation of all samples.

    Ranks and micro-batches only choose a slice of it, so the order is the same for any number of
    ranks.
    """
    places = torch.arange(step * global_batch, (step + 1) * global_batch)
    epochs = places // num_samples
    return torch.cat(
        [
            _permutation(epoch, seed, num_samples)[places[epochs == epoch] % num_samples]
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
    )
