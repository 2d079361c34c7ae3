"""muster's own journal: every gang that a live cluster admitted.

Pods of no gang are in it only while they hold a node, and nobody says since when they waited: they
are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec
import pandas as pd

from scheduler.core.events import ForeignPodBound, GangSubmitted
from scheduler.core.model import Gang, Role
from scheduler.core.times import FOREVER_US, to_s
from scheduler.journal.history import Aside, Begin, Entry, Follower, told
from scheduler.journal.lines import PENDING, TOLD
from traces.formats.interface import Options, Reading
from traces.formats.items import json_of
from traces.formats.outcomes import CANCELLED, COMPLETED, NEVER_WHOLE, UNFINISHED, still_ran
from traces.formats.rows import RawTable, reject
from traces.formats.source import Source
from traces.schema import BadCell, TraceError, complete

GIB = 1 << 30
#: Kubernetes notes creation in whole seconds, rounded down
CREATION_STEP_S = 1.0
MILLI = 1000.0


@dataclass(slots=True)
class _Job:
    """A gang, from its first line to its last."""

    gang: Gang
    submit_s: float
    whole_since_s: float = inf  #: inf: it is not whole
    whole_s: float = 0.0
    outcome: str = UNFINISHED


class _Story:
    """Follows a journal and notes since when each gang was whole."""

    def __init__(self) -> None:
        self.jobs: list[_Job] = []
        self.under_way: dict[str, _Job] = {}
        self.foreign: set[str] = set()  #: pods of no gang
        self.zero_unix_s: float | None = None
        self.now_s = 0.0
        self._follower = Follower()
        self._offset_s = 0.0  #: from the writing process's zero to the story's
        self._begun_s = 0.0
        self._unseen: set[str] = set()  #: gangs that no line named since the last snapshot

    def take(self, entry: Entry) -> None:
        """Process the next line.

        Raises:
            ValueError: it does not follow from those before it.
        """
        self._follower.follow(entry)
        self.now_s, item = entry.now_s, entry.item
        if isinstance(item, Begin):
            if self.zero_unix_s is None:
                self.zero_unix_s = item.zero_unix_s
            self._offset_s, self._begun_s = item.offset_s, self.now_s
            self._unseen = set(self.under_way)
            return
        if self._unseen and self.now_s > self._begun_s:  # they ended while nobody wrote
            for name in self._unseen - self._follower.state.gangs.keys():
                self._ended(name, self._begun_s)
            self._unseen.clear()
        if isinstance(item, ForeignPodBound):
            self.foreign.add(item.pod)
        elif isinstance(item, GangSubmitted):
            self._submitted(item.gang)
            self._looked_at(item.gang.name)
        elif isinstance(gang := getattr(item, "gang", None), str):
            self._looked_at(gang)

    def close(self) -> None:
        """Finish the last line."""
        for job in self.under_way.values():
            job.whole_s += max(0.0, self.now_s - job.whole_since_s)

    def _submitted(self, gang: Gang) -> None:
        if gang.name not in self.under_way:
            created_s = to_s(gang.submit_us) + self._offset_s
            submit_s = max(created_s, min(self.now_s, created_s + CREATION_STEP_S))
            self.under_way[gang.name] = _Job(gang, submit_s)
            self.jobs.append(self.under_way[gang.name])

    def _looked_at(self, name: str) -> None:
        """Note what a line changed for a gang."""
        if (job := self.under_way.get(name)) is None:
            return
        member = self._follower.state.gangs.get(name)
        if member is None:
            self._ended(name, self.now_s)
            return
        if (
            job.whole_since_s == inf and not job.whole_s
        ) or member.gang.num_pods > job.gang.num_pods:
            job.gang = member.gang
        is_whole = bool(member.held) and not member.missing
        if is_whole and job.whole_since_s == inf:
            job.whole_since_s = self.now_s
        elif not is_whole and job.whole_since_s < inf:
            job.whole_s += self.now_s - job.whole_since_s
            job.whole_since_s = inf

    def _ended(self, name: str, now_s: float) -> None:
        job = self.under_way.pop(name)
        job.whole_s += max(0.0, now_s - job.whole_since_s)
        job.outcome = COMPLETED if job.whole_s else CANCELLED


def read(source: Source, options: Options) -> Reading:
    """Return the gangs that ran; `duration_s` is how long each was whole.

    Raises:
        TraceError: the file is not a journal, or has lines that cannot be processed and may not be
            skipped, or no gang of it ran.
    """
    lines: list[tuple[int, bytes]] = []
    bad: list[tuple[int, str]] = []
    story = _Story()
    try:
        for entry in told(_numbered(source, lines, bad)):
            number = int(entry.place)
            if isinstance(entry.item, Aside):
                bad.append((number, entry.item.why))
                continue
            try:
                story.take(entry)
            except ValueError as error:
                bad.append((number, str(error).removeprefix(f"{entry.place}: ")))
    except ValueError as error:
        raise TraceError(f"{source}: line {error}") from None
    story.close()
    table = RawTable(
        pd.DataFrame({"line": [line.decode("utf-8", "replace") for _, line in lines]}),
        pd.Series([number for number, _ in lines], dtype="int64"),
        str(source),
    )
    row_of = {number: row for row, (number, _) in enumerate(lines)}
    cells = [BadCell(row_of[number], "", "", why) for number, why in sorted(bad)]
    rejected = reject(table, cells, options.on_bad_row)
    ran = [job for job in story.jobs if job.whole_s > 0]
    if not ran:
        raise TraceError(f"{source}: no gang in it ran")
    counts = {NEVER_WHOLE: len(story.jobs) - len(ran), "a pod of no gang": len(story.foreign)}
    notes = list(still_ran(sum(job.outcome == UNFINISHED for job in ran)))
    if ended := sum(job.outcome == COMPLETED for job in ran):
        notes.append(
            f"the journal does not say how gangs end: {ended:,} that ran and are gone count as "
            f"{COMPLETED}"
        )
    if story.zero_unix_s is None:
        notes.append("the journal does not say at which date it begins")
    earliest_s = min(job.submit_s for job in ran)
    # a gang may be older than the clock that its journal knows
    zero_s = max(-earliest_s, story.zero_unix_s or -earliest_s)
    found = pd.DataFrame(_rows(ran, zero_s))
    left_out = {reason: count for reason, count in counts.items() if count}
    return Reading(complete(found), rejected, left_out, tuple(notes))


def _numbered(
    source: Source, lines: list[tuple[int, bytes]], bad: list[tuple[int, str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line for the core and its number; keep those that may be bad in `lines`."""
    content = json_of(source).splitlines(keepends=True)
    for number, line in enumerate(content, 1):
        try:
            value = msgspec.json.decode(line, type=dict[str, Any])
            if value["is"] in (TOLD, PENDING):
                continue
            value["t"]
        except (msgspec.DecodeError, ValueError, RecursionError, KeyError) as error:
            if number == len(content) and not line.endswith(b"\n"):
                return  # the last line was being written
            lines.append((number, line.rstrip()))
            bad.append((number, f"is not a journal line: {error}"))
            continue
        lines.append((number, line.rstrip()))
        yield str(number), value


def _rows(jobs: list[_Job], zero_s: float) -> Iterator[dict[str, object]]:
    times: Counter[str] = Counter()
    for job in jobs:
        gang = job.gang
        times[gang.name] += 1
        count = times[gang.name]
        roles = _roles(gang)
        gpus = max(role.pod.gpus for role in roles)
        num_pods = sum(role.count for role in roles)
        small = [role for role in roles if role.pod.gpus < gpus]
        is_last = sum(role.count for role in small) == 1
        yield {
            "job": gang.name if count == 1 else f"{gang.name} (run {count})",
            "submit_s": zero_s + job.submit_s,
            "duration_s": job.whole_s,
            "walltime_s": to_s(gang.walltime_us) if gang.walltime_us < FOREVER_US else job.whole_s,
            "num_pods": num_pods,
            "gpus_per_pod": gpus,
            "last_pod_gpus": small[0].pod.gpus if is_last else gpus,
            "priority": gang.priority,
            "evicts": gang.evicts,
            "evictable": gang.evictable,
            "queue": gang.queue or gang.name.partition("/")[0],
            "cpu_per_pod": max(role.pod.cpu_milli for role in roles) / MILLI,
            "mem_gib_per_pod": max(role.pod.mem_bytes for role in roles) / GIB,
            "outcome": job.outcome,
        }


def _roles(gang: Gang) -> list[Role]:
    """Return the roles with GPUs; all of them where none has any."""
    return [role for role in gang.roles if role.pod.gpus] or list(gang.roles)
