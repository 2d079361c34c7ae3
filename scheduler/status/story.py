"""What happened to each gang and how many pods waited, with times, across restarts.

Both are journal lines without meaning for the core: replay and report skip them, and muster reads
those of the last day back when it starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from scheduler.core.times import DAY_S
from scheduler.journal.lines import PENDING, TOLD
from scheduler.status.curve import Curve
from scheduler.status.plain import plain

STEP_S = 60.0  #: so often the journal says what waits, also where nothing changes
MOST_MOMENTS = 40  #: of one gang; the first and the newest are kept
MOST_STORIES = 20_000  #: of those told of last, there or gone
_encode = msgspec.json.Encoder().encode


class Moment(msgspec.Struct):
    """Something that happened to a gang."""

    unix_s: float
    what: str  #: submitted, waits, planned, released, bound, given up, evicted
    text: str = ""


class _Line(msgspec.Struct):
    kind: str = msgspec.field(name="is")
    v: dict[str, Any]


class Memory:
    """The curve of pending pods and the stories of gangs.

    `write` takes journal lines; None where there is no journal.
    """

    def __init__(self, write: Callable[[bytes], None] | None = None) -> None:
        self._write = write
        self.curve = Curve()
        self._saved_unix_s = 0.0  #: when the journal was last told what waits
        self._stories: dict[str, list[Moment]] = {}
        self._seen_unix_s: dict[str, float] = {}

    def note(self, gang: str, what: str, text: str = "") -> None:
        """Remember that something happened just now."""
        moment = Moment(round(time.time(), 3), what, plain(text, 1000))
        self._keep(gang, moment)
        self._save(TOLD, {"gang": gang, **msgspec.to_builtins(moment)})

    def point(self, pods: Mapping[str, int], unix_s: float | None = None) -> None:
        """Remember how many pods wait, by reason, since then; now if no time is given."""
        at_s = round(time.time() if unix_s is None else unix_s, 3)
        is_step = self.curve.add(at_s, pods)
        if is_step or not 0 <= at_s - self._saved_unix_s < STEP_S:
            self._saved_unix_s = at_s
            self._save(PENDING, {"unix_s": at_s, **pods})

    @property
    def points(self) -> list[dict[str, float]]:
        """Return the steps of the curve, oldest first."""
        return self.curve.points()

    def story(self, gang: str, since_unix_s: float) -> list[Moment]:
        """Return what happened to a gang of this name since it came."""
        told = self._stories.get(gang, ())
        return [moment for moment in told if moment.unix_s >= since_unix_s - 1.0]

    def forget_old(self, present: Iterable[str]) -> None:
        """Forget gangs that are gone for a day."""
        alive = set(present)
        oldest = time.time() - DAY_S
        for gang in [g for g, at in self._seen_unix_s.items() if at < oldest and g not in alive]:
            del self._stories[gang], self._seen_unix_s[gang]

    def read(self, files: Iterable[Path]) -> int:
        """Read the last day of a journal whose files are given oldest first; count its lines."""
        oldest, number = time.time() - DAY_S, 0
        for kind, v in _lines(files):
            try:
                if v["unix_s"] < oldest:
                    continue
                if kind == PENDING:
                    point = msgspec.convert(v, dict[str, float])
                    self.curve.add(point.pop("unix_s"), point)
                else:
                    self._keep(str(v.pop("gang")), msgspec.convert(v, Moment))
            except (KeyError, TypeError, msgspec.ValidationError):
                continue  # of a version that wrote it otherwise
            number += 1
        return number

    def _keep(self, gang: str, moment: Moment) -> None:
        story = self._stories.setdefault(gang, [])
        story.append(moment)
        if len(story) > MOST_MOMENTS:
            del story[1]
        self._seen_unix_s.pop(gang, None)  # the one heard of last stands last
        self._seen_unix_s[gang] = moment.unix_s
        if len(self._seen_unix_s) > MOST_STORIES:
            oldest = next(iter(self._seen_unix_s))
            del self._stories[oldest], self._seen_unix_s[oldest]

    def _save(self, kind: str, v: object) -> None:
        if self._write is not None:
            self._write(_encode({"t": 0.0, "is": kind, "v": v}))


def _lines(files: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines that are not the core's; those that cannot be read are left out."""
    decoder = msgspec.json.Decoder(_Line)
    marks = tuple(f'"is":"{kind}"'.encode() for kind in (TOLD, PENDING))
    for path in files:
        try:
            with path.open("rb") as file:
                for line in file:
                    if marks[0] in line[:80] or marks[1] in line[:80]:
                        try:
                            seen = decoder.decode(line)
                        except (msgspec.DecodeError, RecursionError):
                            continue
                        yield seen.kind, seen.v
        except FileNotFoundError:
            continue
