"""How a jobs file is read: the options that every command and settings file has for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Self

import msgspec
import pandas as pd

import traces
from sim.schema.cluster import NodeGpus, largest_node

#: a clock that stands beyond this is taken to count from 1970, as Unix does: 1973
UNIX_S = 1e8
#: smaller files are read before anybody asks
LARGE_BYTES = 10_000_000
#: how often the line about a large file is written, where stderr is a terminal and where not
EVERY_S = {True: 1.0, False: 10.0}


class Reader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The user's options for a jobs file; docs/tables.md explains each."""

    kind: str = ""  #: format of the file; empty: recognised by its content
    on_bad_row: Literal["fail", "skip"] = "fail"
    gpus_per_pod: int | None = None  #: where processors are counted: so many make a pod
    map: dict[str, str] = {}  #: columns: theirs -> ours
    ignore_extra: bool = False  #: ignore columns that muster does not know
    columns: tuple[str, ...] = ()  #: the header of a file that has none
    dates: Literal["", "day-first", "month-first"] = ""

    def read(
        self, path: str | Path, node_gpus: NodeGpus = 8, *, progress: bool = False
    ) -> traces.LoadedJobs:
        """Read a jobs file for a cluster whose nodes have so many GPUs.

        A job's GPUs are cut into pods of a node each; where nodes differ, of the largest node in
        the job's pool and with its GPU model. With `progress` a line on stderr says how long a
        large file takes.

        Raises:
            TraceError: it cannot be read, or an option does not go with it.
        """
        with _Clock(Path(path)) if progress else nullcontext():
            return self._read_for(path, node_gpus)

    def _read_for(self, path: str | Path, node_gpus: NodeGpus) -> traces.LoadedJobs:
        read = None

        def of_size(gpus_per_node: int) -> pd.DataFrame:
            nonlocal read
            read = self._read(path, gpus_per_node)
            return read.jobs

        jobs = cut_by_node(of_size, node_gpus)
        assert read is not None
        return replace(read, jobs=jobs)

    def _read(self, path: str | Path, gpus_per_node: int) -> traces.LoadedJobs:
        return traces.load(path, gpus_per_node=gpus_per_node, **self.given())

    def given(self) -> dict[str, Any]:
        """Return the options that are set."""
        silent = Reader()
        return {
            name: getattr(self, name)
            for name in OPTIONS
            if getattr(self, name) != getattr(silent, name)
        }


OPTIONS = Reader.__struct_fields__


def cut_by_node(of_size: Callable[[int], pd.DataFrame], node_gpus: NodeGpus) -> pd.DataFrame:
    """Return jobs whose GPUs are cut into pods of the largest node that each may use.

    `of_size` returns the same canonical jobs cut into pods of at most so many GPUs.
    """
    if isinstance(node_gpus, int):
        return of_size(node_gpus)
    sizes = sorted({gpus for *_, gpus in node_gpus})
    if len(sizes) == 1:
        return of_size(sizes[0])
    parts = []
    for size in sizes:
        jobs = of_size(size)
        asked = list(zip(jobs["pool"], jobs["gpu_model"], strict=True))
        known = {one: largest_node(node_gpus, *one) for one in set(asked)}
        parts.append(jobs[[known[one] == size for one in asked]])
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)


class _Clock:
    """A line on stderr while a large file is read: its size, and for how long already."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._shown = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        with suppress(OSError):  # the reader says what is wrong with it
            self._size = self._path.stat().st_size
            if self._size >= LARGE_BYTES:
                self._thread = threading.Thread(target=self._show, name="reading", daemon=True)
                self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            if self._shown and sys.stderr.isatty():
                print(f"\r{' ' * self._shown}\r", end="", file=sys.stderr, flush=True)

    def _show(self) -> None:
        terminal = sys.stderr.isatty()
        began_s = monotonic()
        while not self._over.wait(EVERY_S[terminal]):
            lasted_s = monotonic() - began_s
            line = f"reading {self._path.name}, {self._size / 1e6:,.0f} MB: {lasted_s:.0f} s"
            self._shown = len(line)
            start, end = ("\r", "") if terminal else ("", "\n")
            print(f"{start}{line}", end=end, file=sys.stderr, flush=True)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest says about a jobs file and how it was read."""

    input: str
    input_sha256: str
    format: str
    format_because: str
    offset_s: float  #: the first submission on the file's clock
    num_bad_rows: int
    left_out: dict[str, int]  #: reason -> sound rows that are no jobs to simulate
    notes: tuple[str, ...]  #: sentences: what was assumed, ignored or not understood

    @classmethod
    def of(cls, loaded: traces.LoadedJobs) -> Self:
        """Return what is to be kept of a file that was read."""
        return cls(
            input=Path(loaded.source).name,
            input_sha256=loaded.sha256,
            format=loaded.kind,
            format_because=loaded.why,
            offset_s=loaded.offset_s,
            num_bad_rows=loaded.num_bad,
            left_out=dict(loaded.left_out),
            notes=tuple(loaded.notes),
        )


def said_of_input(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a manifest says about how its jobs were read: (what it is about, sentence)."""
    rows = []
    if manifest.get("format", "jobs") != "jobs":
        because = manifest["format_because"]
        rows.append(("read", f"{manifest['input']} as {manifest['format']}: {because}"))
    if manifest.get("offset_s"):
        rows.append(("times", origin(manifest["offset_s"])))
    left_out = manifest.get("left_out", {})
    rows += [("left out", f"{count:,}: {why}") for why, count in left_out.items()]
    return rows + [("note", note) for note in manifest.get("notes", ())]


def kept_rows_text(rejected: pd.DataFrame, left_out: Mapping[str, int]) -> str:
    """Say which rows a table of rejected rows holds; `left_out` counts the sound ones by reason.

    Not all sound rows need be in it: the steps of Slurm's jobs are only counted.
    """
    is_bad = ~rejected["reason"].isin(list(left_out))
    parts = []
    if num_bad := int(is_bad.sum()):
        columns = rejected.loc[is_bad, "column"].fillna("").replace("", "number of cells")
        named = ", ".join(f"{name} {count:,}" for name, count in columns.value_counts().items())
        parts.append(f"{num_bad:,} bad {'row' if num_bad == 1 else 'rows'} ({named})")
    if sound := len(rejected) - num_bad:
        total = sum(left_out.values())
        of = f" of the {total:,} rows" if sound < total else " row" if sound == 1 else " rows"
        are = "are no jobs" if total > 1 else "is no job"
        parts.append(f"{sound:,}{of} that {are} to run")
    return " and ".join(parts)


def origin(offset_s: float) -> str:
    """Say where times count from; `offset_s` is the first submission on the file's own clock."""
    if UNIX_S <= offset_s < 1e11:
        when = datetime.fromtimestamp(0, UTC) + timedelta(seconds=int(offset_s))
        return f"count from {when:%Y-%m-%d %H:%M:%S} UTC, the first submission"
    return f"count from the first submission, {offset_s:,.10g} s on the clock of the jobs"
