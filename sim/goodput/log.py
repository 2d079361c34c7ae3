"""The trainer's goodput log: JSON lines in, lives of a gang out.

Each process of an attempt writes its own lines; rank 0 logs everything, the others when they
started and ended. `step` counts steps done: after the first step it is 1. A killed process may
leave an incomplete line at the end of its file, which is left out and counted; any other
malformed line is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import msgspec

VERSION = 1
#: fields that an event cannot do without
NEEDS: dict[str, tuple[str, ...]] = {
    "restore": ("from_step", "dur_s"),
    "first_step": ("dur_s",),
    "steps": ("step", "num_steps", "dur_s"),
    "save_staged": ("stall_s",),
    "save_committed": ("dur_s",),
    "exit": ("reason",),
}


class Event(msgspec.Struct, frozen=True):
    """One line. Fields that an event does not have are None; fields unknown here are left out."""

    v: int
    run_id: str
    attempt: int
    rank: int
    t_unix_s: float
    t_mono_s: float
    event: str
    step: int | None = None
    dur_s: float | None = None
    launcher_s: float | None = None
    from_step: int | None = None
    num_steps: int | None = None
    max_step_s: float | None = None
    data_wait_s: float | None = None
    collective_wait_s: float | None = None
    tokens: int | None = None
    stall_s: float | None = None
    bytes: int | None = None
    mode: str | None = None
    reason: str | None = None
    committed_step: int | None = None
    world_size: int | None = None
    backend: str | None = None

    @property
    def before_s(self) -> float:
        """How long before `process_start` its process, and the launcher of that, were there."""
        return (self.dur_s or 0.0) + (self.launcher_s or 0.0)

    @property
    def offset_s(self) -> float:
        """Wall clock minus the process's own monotonic clock."""
        return self.t_unix_s - self.t_mono_s


@dataclass(frozen=True, slots=True)
class Life:
    """What the processes of one attempt wrote, each in the order of its file."""

    run_id: str
    attempt: int
    ranks: dict[int, tuple[Event, ...]]

    @property
    def teller(self) -> tuple[Event, ...]:
        """The events of rank 0, or of the lowest rank that wrote any."""
        return self.ranks[min(self.ranks)]

    def at_s(self, event: Event) -> float:
        """Return when an event of any rank happened, by the teller's own clock.

        The two clocks are compared where both processes begin, so that a wall clock that is set
        later does no harm.
        """
        first, own = self.teller[0], self.ranks[event.rank][0]
        return event.t_mono_s + own.offset_s - first.offset_s

    @property
    def last(self) -> Event:
        """The last event of any rank."""
        return max((events[-1] for events in self.ranks.values()), key=self.at_s)

    def events(self, kind: str) -> list[Event]:
        """Return the teller's events of one kind."""
        return [event for event in self.teller if event.event == kind]

    @property
    def exits(self) -> list[Event]:
        """How each rank ended, if it could log it, in order of ending."""
        found = [e for events in self.ranks.values() for e in events if e.event == "exit"]
        return sorted(found, key=self.at_s)

    @property
    def reason(self) -> str:
        """How it ended: finished, preempted, failed; "lost" if no rank could say."""
        reasons = {event.reason for event in self.exits}
        for reason in ("failed", "preempted", "finished"):
            if reason in reasons:
                return reason
        return "lost"


@dataclass(frozen=True, slots=True)
class Log:
    """Everything read, and the places of incomplete lines that were left out."""

    lives: tuple[Life, ...]  #: by run, then in order of attempts
    torn: tuple[str, ...]


def read(paths: Iterable[str | Path]) -> Log:
    """Read files, or all `*.jsonl` in folders, in any order.

    Raises:
        ValueError: a file is missing or empty of events, or a line is not an event.
    """
    events: list[Event] = []
    torn: list[str] = []
    files = list(_files(paths))
    for file in files:
        events += _events(file, torn)
    if not events:
        named = ", ".join(repr(str(file)) for file in files) or "nothing"
        raise ValueError(f"no goodput event in {named}; give the logs that a trainer wrote")
    return Log(tuple(_lives(events)), tuple(torn))


def _files(paths: Iterable[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(path.rglob("*.jsonl"))
            if not found:
                raise ValueError(f"goodput logs {str(path)!r}: the folder holds no *.jsonl file")
            yield from found
        else:
            yield path


def _events(path: Path, torn: list[str]) -> Iterator[Event]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ValueError(f"goodput log {str(path)!r}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            event = msgspec.json.decode(line, type=Event)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                torn.append(place)
                return
            raise ValueError(
                f"{place}: not a goodput event: {error}; only the last line of a file may be "
                "incomplete"
            ) from None
        _check(event, place)
        yield event


def _check(event: Event, place: str) -> None:
    if event.v != VERSION:
        raise ValueError(
            f"{place}: goodput log version {event.v}; this muster reads version {VERSION}"
        )
    missing = [name for name in NEEDS.get(event.event, ()) if getattr(event, name) is None]
    if missing:
        raise ValueError(f"{place}: event {event.event!r} lacks {', '.join(missing)}")
    for name in ("t_unix_s", "t_mono_s", "dur_s", "launcher_s", "stall_s", "data_wait_s"):
        value = getattr(event, name)
        if value is not None and not (isfinite(value) and value >= 0):
            raise ValueError(f"{place}: {name} is {value}; it should be 0 or more")


def _lives(events: list[Event]) -> Iterator[Life]:
    """Put the events of each attempt together; a second start of a rank begins another life."""
    lives: dict[tuple[str, int, int], dict[int, list[Event]]] = {}
    starts: dict[tuple[str, int, int], int] = {}
    for event in events:
        key = (event.run_id, event.attempt, event.rank)
        if event.event == "process_start" or key not in starts:
            starts[key] = starts.get(key, -1) + 1
        life = lives.setdefault((event.run_id, event.attempt, starts[key]), {})
        life.setdefault(event.rank, []).append(event)
    runs = list(dict.fromkeys(run_id for run_id, _, _ in lives))
    for key in sorted(lives, key=lambda key: (runs.index(key[0]), key[1], key[2])):
        ranks = {rank: tuple(found) for rank, found in sorted(lives[key].items())}
        yield Life(key[0], key[1], ranks)
