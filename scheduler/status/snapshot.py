"""One look at the cluster, from which all that a page shows is cut: it agrees with itself.

The gangs, the counts of the headline and the last point of the curve come of one walk over the
gangs. What changed since then is seen by the next look, which has the next number.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from scheduler.core.times import DAY_S
from scheduler.status.curve import Curve
from scheduler.status.pages import Breath, Kept, array
from scheduler.status.status import GangView

ORDER = {"degraded": 0, "starting": 1, "waiting": 2, "running": 3, "ending": 4}
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Snapshot:
    """What was seen by one look."""

    number: int
    unix_s: float  #: when the look was over
    gangs: list[GangView]  #: those that are not running whole first, in queue order
    pods: Counter[str]  #: that are pending, by reason
    waiting: Counter[str]  #: gangs with a reason, by reason
    phases: Counter[str]  #: gangs by phase
    short: Counter[str]  #: pods that are asked for, by the resource that is short
    curve: list[dict[str, float]]  #: the last point is `pods`
    cut: dict[str, bytes] = field(default_factory=dict)  #: what was made of it, encoded


def snapshot(number: int, unix_s: float, views: list[GangView], curve: Curve) -> Snapshot:
    """Put together what a walk over the gangs found."""
    pods: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    short: Counter[str] = Counter()
    for seen in views:
        if seen.short:
            short[seen.short.resource] += seen.lacks_pods
        phases[seen.phase] += 1
        if seen.reason:
            waiting[seen.reason] += 1
            pods[seen.reason] += max(0, seen.pods_present - seen.pods_bound)
    views.sort(key=lambda v: (ORDER[v.phase], v.position or 1 << 30, v.gang))
    points = curve.until(unix_s, +pods)
    return Snapshot(number, unix_s, views, pods, waiting, phases, short, points)


class Cut:
    """A part of the last snapshot, encoded once however many ask for it."""

    def __init__(
        self,
        looks: Kept[Snapshot],
        name: str,
        make: Callable[[Snapshot, Breath], Awaitable[bytes]],
    ) -> None:
        self._looks = looks
        self._name = name
        self._make = make
        self._lock = asyncio.Lock()

    async def get(self) -> bytes:
        """Return the content."""
        seen = await self._looks.get()
        async with self._lock:
            if self._name not in seen.cut:
                seen.cut[self._name] = await self._make(seen, Breath())
            return seen.cut[self._name]


#: what a row of the page's table has, in this order
ROW = (
    "gang", "phase", "reason", "position", "pods_bound", "pods_total", "gpus", "waited_s", "text",
)  # fmt: skip


async def rows(gangs: list[GangView], breath: Breath) -> bytes:
    """Encode gangs for the page's table, each as the values of `ROW`."""
    return await array((tuple(getattr(seen, name) for name in ROW) for seen in gangs), breath)


async def steps(points: list[dict[str, float]], reasons: list[str], breath: Breath) -> bytes:
    """Encode the curve for the page: seconds ago, until when it is known, pods by reason.

    Args:
        points: the curve; the last one is now.
        reasons: names of the counts, in order.
        breath: lets others run.
    """
    now_s = points[-1]["unix_s"]

    def row(point: Mapping[str, float]) -> list[Any]:
        until_s = point.get("until_unix_s")
        ago_s = round(min(now_s - point["unix_s"], DAY_S), 2)
        ends_s = None if until_s is None else round(now_s - until_s, 2)
        return [ago_s, ends_s, *(int(point.get(reason, 0)) for reason in reasons)]

    return await array((row(point) for point in points), breath)


def reasons_in(points: list[dict[str, float]], known: list[str]) -> list[str]:
    """Return the reasons that a curve has, those of the table first and in its order."""
    found = {name for point in points for name, n in point.items() if n} - {
        "unix_s",
        "until_unix_s",
    }
    return [name for name in known if name in found] + sorted(found - set(known))
