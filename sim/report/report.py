"""`report.html`, `report.md`, pictures and tidy tables of any runs, side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import isnan
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from scheduler import whole
from scheduler.core.reasons import TABLE
from sim.report import arms, episodes, explorer, groups, held, queues, sharing
from sim.report.comparison import BEST, NOT_KNOWN
from sim.report.digest import (
    Digest,
    curve_table,
    digest,
    headline_row,
    identity,
    read_heads,
    shared_window,
    with_identity,
)
from sim.report.growing import TWO_SIZES
from sim.report.pictures import Picture
from sim.report.sections import Section, section
from sim.report.wording import counted, duration, exact, number
from sim.runs import owned
from sim.runs.folder import RunResult
from sim.runs.metrics import TAU_S

PICTURES = "pictures"
TABLES = "tables"
TABLE_NAMES = (
    "headline", "reasons", "delay_by_size", "curves", "peaks", "days", "growth", "episodes",
    "queues", "evictions",
)  # fmt: skip
GROWTH_COLUMNS = [
    "workload", "arm", "window_days", "exponent", "exponent_low", "exponent_high", "why_unknown",
]  # fmt: skip


def build_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    known: Mapping[Path, RunResult] | None = None,
    study: Sequence[str] = (),
) -> Path:
    """Write the report of `runs` into `out` and return the path of its page.

    Runs of `known` are not read from their folders again. `study` is the command line, without the
    program, of the study that made the runs, for the commands that the page prints.

    Raises:
        ValueError: no run is given, or a folder is not a finished run.
    """
    owned.refuse_foreign(out, owned.PAGES)
    heads = read_heads(runs)
    beside: dict[tuple[str, int, int], list[Path]] = {}
    for head in heads:
        beside.setdefault(head.comparable, []).append(head.folder)
    teams = {comparable: queues.teams(folders) for comparable, folders in beside.items()}
    digests = [
        digest(
            head,
            shared_window(head, heads),
            (known or {}).get(head.folder),
            num_bins=groups.bins_each(len(heads)),
            teams=teams[head.comparable],
        )
        for head in heads
    ]
    digests = arms.in_order(digests)
    workloads = list(dict.fromkeys(one.head.workload for one in digests))
    names = list(dict.fromkeys(one.head.arm for one in digests))
    parts: list[Section] = []
    for at, name in enumerate(workloads, start=1):
        of_workload = [one for one in digests if one.head.workload == name]
        explored = sum(group.num_explored for part in parts for group in part.curves)
        room = groups.room_of(len(digests), explored)
        parts.append(section(of_workload, names, at, study, room))
    pictures = [picture for part in parts for picture in part.pictures()]
    _make_room(out, pictures)
    for picture in pictures:
        picture.write(out / PICTURES)
    files = _write_tables(digests, parts, out / TABLES)
    page = {
        "title": title or _title(digests),
        "version": _version(),
        "origin": _origin(digests),
        "gaps": _gaps(digests),
        "parts": parts,
        "reasons": list(TABLE.values()),
        "settings": arms.settings(digests),
        "tables": files,
        "bokeh": explorer.script(),
        "tau": number(TAU_S),
        "has_goodput": any(one.whole.held is not None for one in digests),
        "held_parts": [label for label, _, _ in held.PARTS],
        "best": BEST,
        "not_known": NOT_KNOWN,
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sim.report"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = as_it_is
    for name in owned.PAGES:
        text = environment.get_template(f"{name}.j2").render(page)
        whole.write_text(out / name, text)
    return out / "report.html"


#: what Markdown takes for markup inside a line; an underline only at the edge of a word
_MARKUP = re.compile(r"[\\`*|$<\[\]~]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


def as_it_is(text: str) -> str:
    """Return text for Markdown that shows as it is, on one line, in tables and elsewhere."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def _version() -> str:
    try:
        return version("muster-scheduler")
    except PackageNotFoundError:
        return "from source"


def _origin(digests: Sequence[Digest]) -> str:
    """Say where the figures come from."""
    kinds = {one.is_live for one in digests}
    if len(kinds) > 1:
        return "Recorded on a live cluster, and simulated,"
    return "Recorded on a live cluster" if True in kinds else "Simulated"


def _gaps(digests: Sequence[Digest]) -> list[str]:
    """Say what live journals do not tell, because they could not be written."""
    return [
        f"{counted(gap['lost'], 'line')} of the journal {'is' if gap['lost'] == 1 else 'are'} "
        f"missing, from {duration(gap['from_s'])} to "
        f"{duration(gap['to_s'])} after its first ({gap['why']}): what happened then is unknown; "
        "the state before the gap is shown until its end."
        for one in digests
        for gap in one.manifest.get("gaps", ())
    ] + [
        f"{counted(one.manifest['num_set_aside'], 'line')} of the journal "
        f"{'was' if one.manifest['num_set_aside'] == 1 else 'were'} set aside, the first at "
        f"{one.manifest['set_aside'][0]}: unreadable, or at odds with earlier lines."
        for one in digests
        if one.manifest.get("num_set_aside")
    ]


def _title(digests: Sequence[Digest]) -> str:
    if len(digests) == 1:
        head = digests[0].head
        return f"{head.workload} on {counted(head.nodes, 'node')}, {head.arm}"
    return f"{exact(len(digests))} runs side by side"


# -- files -------------------------------------------------------------------------------------


def _make_room(out: Path, pictures: Sequence[Picture]) -> None:
    """Remove what the last report wrote, and note what this one writes.

    Raises:
        ValueError: something else has one of its names.
    """
    files = [f"{PICTURES}/{one.name}.{form}" for one in pictures for form in ("png", "svg")]
    files += [f"{TABLES}/{name}.{form}" for name in TABLE_NAMES for form in ("parquet", "csv")]
    files += owned.PAGES
    owned.refuse_foreign(out, files)
    for folder in (out, out / PICTURES, out / TABLES):
        if folder.is_symlink() and folder != out:
            raise ValueError(
                f"{str(folder)!r} is a link, which muster does not replace; choose another --out"
            )
    owned.remove_listed(out)
    for folder in (out / PICTURES, out / TABLES):
        folder.mkdir(parents=True, exist_ok=True)
    owned.mark(out, files)


def _write_tables(
    digests: Sequence[Digest], parts: Sequence[Section], folder: Path
) -> list[dict[str, str]]:
    """Write tidy tables as Parquet and CSV; return their names and what they hold."""
    headline = [
        {**headline_row(one, figures), "is_shared_window": figures is one.shared}
        for one in digests
        for figures in ([one.shared] if one.shared is one.whole else [one.shared, one.whole])
    ]
    growth = [
        {
            "workload": part.name,
            "arm": line.arm,
            "window_days": line.days,
            "exponent": None if line.fit is None else line.fit.exponent,
            "exponent_low": None if line.fit is None else line.fit.low,
            "exponent_high": None if line.fit is None else line.fit.high,
            "why_unknown": part.growth.unknown.get(line.arm, "")
            or ("" if line.fit is None or not isnan(line.fit.low) else TWO_SIZES),
        }
        for part in parts
        for line in part.growth.lines
    ]
    tables: dict[str, tuple[str, pd.DataFrame]] = {
        "headline": ("headline figures of every run", pd.DataFrame(headline)),
        "reasons": (
            "pending pods by reason over the shared window",
            _stack(digests, lambda one: one.shared.pending),
        ),
        "delay_by_size": (
            "queueing delay by gang size class over the shared window",
            _stack(digests, _delay_by_size),
        ),
        "curves": ("pending pods over time by reason, thinned", _stack(digests, curve_table)),
        "peaks": ("peak of pending pods in each part of the window", _stack(digests, _peaks)),
        "days": (
            "the highest state of pending pods in each day, or hour of a short window",
            _stack(digests, lambda one: one.days),
        ),
        "growth": (
            "exponents of the growth of peaks, or why they are not known",
            pd.DataFrame(growth, columns=GROWTH_COLUMNS),
        ),
        "episodes": (
            "the worst pending episodes",
            _stack(digests, lambda one: episodes.episode_table(one.episodes)),
        ),
        "queues": (
            "what each queue waited, used, borrowed, lent and lost to evictions",
            _stack(digests, sharing.table_of),
        ),
        "evictions": (
            "who was evicted for whom, by queue",
            _stack(digests, sharing.evictions_of),
        ),
    }
    written = []
    assert tuple(tables) == TABLE_NAMES
    for name, (what, table) in tables.items():
        with whole.replacing(folder / f"{name}.parquet") as part:
            table.to_parquet(part, index=False)
        with whole.replacing(folder / f"{name}.csv") as part:
            table.to_csv(part, index=False)
        written.append({"name": name, "what": what})
    return written


def _delay_by_size(one: Digest) -> pd.DataFrame:
    table = one.shared.by_size
    return table[table["num_jobs"] > 0]


def _peaks(one: Digest) -> pd.DataFrame:
    return one.peaks


def _stack(digests: Sequence[Digest], of: Any) -> pd.DataFrame:
    tables = [with_identity(one, of(one)) for one in digests]
    kept = [table for table in tables if len(table)]
    if kept:
        return pd.concat(kept, ignore_index=True)
    return pd.DataFrame(columns=[*identity(digests[0])])
