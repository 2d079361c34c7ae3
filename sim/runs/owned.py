"""What muster wrote into a folder: only that is ever removed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from scheduler import whole

#: lists, one a line, what a report wrote beside itself
MARK = ".muster"
PAGES = ("report.html", "report.md")
#: files of a run folder, and those that a trainer leaves
RUN = re.compile(
    r"(jobs|attempts|pending|pending_by_queue|allocation|nodes|queues)\.parquet|config\.toml|rejected\.csv|"
    r"(manifest|summary|timeline)\.json"
)
TRAINING = re.compile(
    r"config\.toml|time_split\.png|goodput/rank_\d+\.jsonl|heartbeat/rank_\d+|"
    r"pods/attempt_\d+_pod_\d+\.log|checkpoints/step_\d+(\.damaged)?/"
    r"(\.metadata(\.tmp)?|__\d+_\d+\.distcp|checksums_\d+\.json|index\.json)"
)


def listed(folder: Path) -> set[str]:
    """Return the files that a report wrote into a folder, by its own list."""
    try:
        lines = (folder / MARK).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return set()
    return {line for line in lines if line and not {"", "..", "."} & set(line.split("/"))}


def mark(folder: Path, files: Iterable[str]) -> None:
    """Note which files a report writes into a folder."""
    whole.write_text(folder / MARK, "".join(f"{name}\n" for name in sorted(files)))


def strangers(folder: Path, form: re.Pattern[str]) -> list[str]:
    """Return what is in a folder beside files of a form, and those that a report lists."""
    own = listed(folder) | {MARK}
    return [
        name
        for name in _entries(folder)
        if name not in own and not form.fullmatch(name) and not _is_part(name)
    ]


def _is_part(name: str) -> bool:
    """True for a partial file of a muster that was killed."""
    return whole.PART.fullmatch(name.rpartition("/")[2]) is not None


def _entries(folder: Path) -> Iterator[str]:
    """Yield what is in a folder: files, links and empty folders."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield (here / name).relative_to(folder).as_posix()
        if here != folder and not folders and not files:
            yield here.relative_to(folder).as_posix()


def refuse_strangers(folder: Path, form: re.Pattern[str]) -> None:
    """Raise ValueError if a folder holds what muster did not write."""
    found = strangers(folder, form)
    if found:
        more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
        raise ValueError(
            f"{str(folder)!r} holds {found[0]!r}{more}, which muster did not write and does not "
            "replace; move it away, or choose another --out"
        )


def refuse_foreign(folder: Path, files: Iterable[str]) -> None:
    """Raise ValueError if one of these files is there, and no report wrote it."""
    own = listed(folder)
    for name in files:
        if name not in own and os.path.lexists(folder / name):
            raise ValueError(
                f"{str(folder / name)!r} exists and is not a report that this muster wrote; move "
                "it away, or choose another --out"
            )


def remove_listed(folder: Path) -> None:
    """Remove what the last report wrote into a folder, and the folders that are empty then."""
    for name in sorted(listed(folder)):
        path = folder / name
        if any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(folder)):
            continue  # leads elsewhere
        path.unlink(missing_ok=True)
        if path.parent != folder:
            with suppress(OSError):  # something else is in it
                path.parent.rmdir()
