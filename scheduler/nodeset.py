"""A set of node indices kept as disjoint ranges, so that its cost follows ranges, not nodes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class NodeSet:
    """Sorted, disjoint, non-adjacent half-open ranges of node indices."""

    __slots__ = ("ends", "size", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts, self.ends, strict=True)

    def add(self, lo: int, hi: int) -> None:
        """Add [lo, hi), of which no index may be in the set."""
        starts, ends = self.starts, self.ends
        at = bisect_left(starts, lo)
        joins_left = at > 0 and ends[at - 1] == lo
        joins_right = at < len(starts) and starts[at] == hi
        if joins_left and joins_right:
            ends[at - 1] = ends[at]
            del starts[at], ends[at]
        elif joins_left:
            ends[at - 1] = hi
        elif joins_right:
            starts[at] = lo
        else:
            starts.insert(at, lo)
            ends.insert(at, hi)
        self.size += hi - lo

    def remove(self, lo: int, hi: int) -> None:
        """Remove [lo, hi), all of which must be in the set."""
        starts, ends = self.starts, self.ends
        at = bisect_right(starts, lo) - 1
        start, end = starts[at], ends[at]
        assert at >= 0 and start <= lo < hi <= end, (lo, hi, start, end)
        if start == lo:
            if end == hi:
                del starts[at], ends[at]
            else:
                starts[at] = hi
        else:
            ends[at] = lo
            if end != hi:
                starts.insert(at + 1, hi)
                ends.insert(at + 1, end)
        self.size -= hi - lo

    def lowest(self, count: int) -> list[tuple[int, int]]:
        """Return the ranges of the `count` lowest indices; the set must hold so many."""
        ranges = []
        for start, end in zip(self.starts, self.ends, strict=True):
            if end - start >= count:
                ranges.append((start, start + count))
                break
            ranges.append((start, end))
            count -= end - start
        return ranges
