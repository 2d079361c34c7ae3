"""A set of node indices kept as disjoint ranges, so that its cost follows ranges, not nodes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator


class NodeSet:
    """Sorted, disjoint, non-adjacent half-open ranges of node indices.

    Kept as the ascending list of their bounds: start, end, start, end, and so on. To add or to
    remove a range is then the same act: each of its two ends becomes a bound, or stops being one.
    """

    __slots__ = ("bounds", "size")

    def __init__(self) -> None:
        self.bounds: list[int] = []
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        bounds = iter(self.bounds)
        return zip(bounds, bounds, strict=True)

    def add(self, lo: int, hi: int) -> None:
        """Add [lo, hi), of which no index may be in the set."""
        bounds = self.bounds
        at = bisect_left(bounds, lo)
        self.size += hi - lo
        if at == len(bounds):
            bounds += (lo, hi)
            return
        joins_left = bounds[at] == lo
        after = at + joins_left
        assert not after & 1, f"nodes [{lo}, {hi}) are in the set already"
        if after < len(bounds) and bounds[after] == hi:
            if joins_left:
                del bounds[at : at + 2]
            else:
                bounds[at] = lo
        elif joins_left:
            bounds[at] = hi
        else:
            bounds[at:at] = (lo, hi)

    def remove(self, lo: int, hi: int) -> None:
        """Remove [lo, hi), all of which must be in the set."""
        bounds = self.bounds
        at = bisect_left(bounds, lo)
        self.size -= hi - lo
        from_start = bounds[at] == lo
        end = at + from_start
        assert end & 1 and hi <= bounds[end], f"nodes [{lo}, {hi}) are not all in the set"
        if bounds[end] == hi:
            if from_start:
                del bounds[at : at + 2]
            else:
                bounds[at] = lo
        elif from_start:
            bounds[at] = hi
        else:
            bounds[at:at] = (lo, hi)

    def first(self) -> int:
        """Return the lowest index."""
        return self.bounds[0]

    def at(self, place: int) -> int:
        """Return the index that has `place` lower ones before it in the set."""
        for start, end in self:
            if place < end - start:
                break
            place -= end - start
        return start + place

    def lowest(self, count: int) -> list[tuple[int, int]]:
        """Return the ranges of the `count` lowest indices; the set must hold so many."""
        bounds = self.bounds
        ranges: list[tuple[int, int]] = []
        at = 0
        while count:
            start = bounds[at]
            end = min(bounds[at + 1], start + count)
            ranges.append((start, end))
            count -= end - start
            at += 2
        return ranges
