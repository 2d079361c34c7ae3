"""Limits how often something is reported about one namespace; the rest is dropped."""

from __future__ import annotations

from collections.abc import Hashable

MOST_KEYS = 10_000  #: whoever creates namespaces chooses how many there are


class Rates:
    """Allows each key so many at once, and then so many a second."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left: dict[Hashable, tuple[float, float]] = {}  #: how many, and when that was

    def allow(self, key: Hashable, now_s: float) -> bool:
        """Count one more; return whether it is within the rate."""
        left, at_s = self._left.pop(key, (self._burst, now_s))
        left = min(self._burst, left + (now_s - at_s) * self._per_s)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left), now_s  # the latest last
        if len(self._left) > MOST_KEYS:
            del self._left[next(iter(self._left))]
        return allowed
