"""`report.html`, `report.md`, pictures and tidy tables of any runs, side by side."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np
import pandas as pd

from scheduler import whole
from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from scheduler.core.times import DAY_S
from sim.report import deadlocks, episodes, held, plots
from sim.report.digest import (
    Digest,
    Figures,
    curve_table,
    digest,
    headline_row,
    identity,
    overall,
    read_heads,
    shared_window,
    with_identity,
)
from sim.report.headlines import resources_text
from sim.report.wording import (
    count,
    duration,
    exact,
    number,
    percent,
)
from sim.runs import metrics, owned
from sim.runs.folder import RunResult
from sim.runs.metrics import SIZE_CLASSES, TAU_S, Quantile

ADMISSIONS = ("pod", "permit", "gang")  #: the order in which arms are shown
PICTURES = "pictures"
TABLES = "tables"
TABLE_NAMES = (
    "headline", "reasons", "delay_by_size", "curves", "peaks", "growth", "episodes",
)  # fmt: skip
GROWTH_COLUMNS = ["workload", "arm", "window_days", "exponent", "exponent_low", "exponent_high"]


def build_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    known: Mapping[Path, RunResult] | None = None,
) -> Path:
    """Write the report of `runs` into `out` and return the path of its page.

    Runs of `known` are not read from their folders again.

    Raises:
        ValueError: no run is given, or a folder is not a finished run.
    """
    owned.refuse_foreign(out, owned.PAGES)
    heads = read_heads(runs)
    digests = [
        digest(head, shared_window(head, heads), (known or {}).get(head.folder)) for head in heads
    ]
    workloads = list(dict.fromkeys(one.head.workload for one in digests))
    digests.sort(
        key=lambda one: (
            workloads.index(one.head.workload),
            one.head.nodes,
            ADMISSIONS.index(one.config.admission),
            one.head.arm != "gang-fifo",
            one.head.arm,
            one.head.seed,
        )
    )
    arms = list(dict.fromkeys(one.head.arm for one in digests))
    by_workload = [[one for one in digests if one.head.workload == name] for name in workloads]
    has_goodput = any(one.whole.held is not None for one in digests)
    parts = [_part(group, arms, has_goodput=has_goodput) for group in by_workload]
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
        "glance": [sentence for part in parts for sentence in part.glance],
        "reasons": list(TABLE.values()),
        "settings": _settings(digests),
        "tables": files,
        "tau": number(TAU_S),
        "size_classes": [label for label, _ in SIZE_CLASSES],
        "has_goodput": has_goodput,
        "held_parts": [label for label, _, _ in held.PARTS],
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sim.report"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = _data_uri
    for name in owned.PAGES:
        text = environment.get_template(f"{name}.j2").render(page)
        whole.write_text(out / name, text)
    return out / "report.html"


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


def _lines(number: int) -> str:
    return "1 line" if number == 1 else f"{exact(number)} lines"


def _gaps(digests: Sequence[Digest]) -> list[str]:
    """Say what live journals do not tell, because they could not be written."""
    return [
        f"{exact(gap['lost'])} lines of the journal are missing, from {duration(gap['from_s'])} to "
        f"{duration(gap['to_s'])} after its first ({gap['why']}): what happened then is not known, "
        "and what stood before it is shown until its end."
        for one in digests
        for gap in one.manifest.get("gaps", ())
    ] + [
        f"{_lines(one.manifest['num_set_aside'])} of the journal cannot be read or do not follow "
        f"from those before, and were set aside, the first at {one.manifest['set_aside'][0]}."
        for one in digests
        if one.manifest.get("num_set_aside")
    ]


def _title(digests: Sequence[Digest]) -> str:
    if len(digests) == 1:
        head = digests[0].head
        return f"{head.workload} on {exact(head.nodes)} nodes, {head.arm}"
    return f"{exact(len(digests))} runs side by side"


def _data_uri(picture: plots.Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")


# -- one workload ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the headline table, as text."""

    nodes: str
    arm: str
    cells: tuple[str, ...]
    begins_group: bool  #: the first arm of a cluster size


@dataclass(frozen=True, slots=True)
class Told:
    """The episodes of one run in words."""

    nodes: str
    arm: str
    sentences: tuple[str, ...]
    short: str  #: which resources were short, if not only GPUs
    never: tuple[str, ...]  #: what no node offers
    num_never: str


@dataclass(frozen=True, slots=True)
class Part:
    """What the report says of one workload."""

    name: str
    subtitle: str
    glance: tuple[str, ...]
    shared_days: str  #: the windows of the first table
    shared: tuple[Row, ...]
    whole: tuple[Row, ...]  #: empty if no run has a longer window of its own
    sizes: tuple[Row, ...]
    curves: tuple[tuple[str, tuple[tuple[str, plots.Picture], ...]], ...]
    delay: plots.Picture
    growth: plots.Picture | None
    growth_lines: tuple[plots.GrowthLine, ...]
    growth_sentences: tuple[str, ...]
    told: tuple[Told, ...]
    held: tuple[Row, ...]  #: what held GPU time went into; empty without costs
    held_picture: plots.Picture | None

    def pictures(self) -> Iterator[plots.Picture]:
        """Yield every picture."""
        for _, row in self.curves:
            for _, picture in row:
                yield picture
        yield self.delay
        if self.growth is not None:
            yield self.growth
        if self.held_picture is not None:
            yield self.held_picture


HEADLINES = (
    "jobs",
    "pending p50",
    "p99",
    "max",
    "delay p50",
    "p95",
    "JCT p50",
    "p95",
    "slowdown p50",
    "p95",
    "allocation",
    "idle hold GPU-h",
    "timeouts GPU-h",
)


def _part(digests: Sequence[Digest], arms: Sequence[str], *, has_goodput: bool) -> Part:
    name = digests[0].head.workload
    sizes = sorted({one.head.nodes for one in digests})
    longer = [one for one in digests if one.whole is not one.shared]
    lines = tuple(_growth_line(digests, arm) for arm in arms if _of_arm(digests, arm))
    has_growth = any(line.fit is not None for line in lines)
    curves = []
    for nodes in sizes:
        row = [one for one in digests if one.head.nodes == nodes]
        curves.append((f"{exact(nodes)} nodes", tuple(_curve(one, row) for one in row)))
    return Part(
        name=name,
        subtitle=_subtitle(digests),
        glance=tuple(_glance(digests, sizes[-1], lines)),
        shared_days=_days({one.shared.window.days for one in digests}),
        shared=tuple(_rows(digests, lambda one: one.shared, has_goodput)),
        whole=tuple(_rows(longer, lambda one: one.whole, has_goodput)),
        sizes=tuple(_size_rows(digests)),
        curves=tuple(curves),
        delay=plots.delay_by_size(digests, arms, f"delay-{name}"),
        growth=plots.growth(lines, arms, f"growth-{name}") if has_growth else None,
        growth_lines=lines,
        growth_sentences=tuple(_growth_sentences(lines)) if has_growth else (),
        told=tuple(_tell(one) for one in digests),
        held=tuple(_held_rows(digests)),
        held_picture=held.picture(digests, f"held-{name}"),
    )


def _of_arm(digests: Sequence[Digest], arm: str) -> list[Digest]:
    return [one for one in digests if one.head.arm == arm]


def _days(values: set[float]) -> str:
    low, high = min(values), max(values)
    text = duration(low * DAY_S)
    return text if high - low < 0.02 * high else f"{text} to {duration(high * DAY_S)}"


def _subtitle(digests: Sequence[Digest]) -> str:
    loads = {one.head.load for one in digests if one.head.load is not None}
    seeds = sorted({one.head.seed for one in digests if not one.is_live})
    text = [f"offered load {', '.join(number(load) for load in sorted(loads))}"] if loads else []
    if seeds:
        text.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(str(seed) for seed in seeds)}")
    full = {one.head.full_days for one in digests if one.head.full_days is not None}
    days = max(one.whole.window.days for one in digests)
    if full and days < 0.98 * max(full):
        text.append(
            f"{duration(days * DAY_S)} of the {number(max(full))} days of the workload "
            "(muster study --full has them all)"
        )
    text.append(
        "clusters of " + ", ".join(exact(n) for n in sorted({d.head.nodes for d in digests}))
    )
    return "; ".join(text) + " nodes"


def _curve(one: Digest, row: Sequence[Digest]) -> tuple[str, plots.Picture]:
    window = one.whole.window
    # Axes end alike where windows do; beside a month of backlog, half a day would be a flat line.
    beside = [other for other in row if abs(other.whole.window.days / window.days - 1) < 0.02]
    top = max(float(other.curve.total().max(initial=0)) for other in beside)
    caption = f"{one.head.arm}: {duration(window.end_s - window.start_s)}"
    if len({other.head.seed for other in row}) > 1:
        caption += f", seed {one.head.seed}"
    return caption, plots.pending_curve(one, top)


def _rows(digests: Sequence[Digest], of: Any, has_goodput: bool) -> Iterator[Row]:
    last = -1
    for one in digests:
        figures: Figures = of(one)
        pending = overall(figures)
        done = figures.completion
        cells = (
            exact(figures.num_jobs),
            *(count(pending[f"{name}_pods"]) for name in ("p50", "p99", "max")),
            *(_floor(quantile, duration) for quantile in figures.delay),
            *(_floor(done[name], duration) for name in ("jct_p50_s", "jct_p95_s")),
            *(_floor(done[name], number) for name in ("slowdown_p50", "slowdown_p95")),
            percent(figures.use.allocation_ratio),
            *([held.goodput(figures)] if has_goodput else []),
            number(figures.use.idle_hold_gpu_h),
            number(figures.timeout_gpu_h),
        )
        arm = one.head.arm + (f", seed {one.head.seed}" if _has_seeds(digests) else "")
        yield Row(exact(one.head.nodes), arm, cells, one.head.nodes != last)
        last = one.head.nodes


def _has_seeds(digests: Sequence[Digest]) -> bool:
    return len({one.head.seed for one in digests}) > 1


def _floor(quantile: Quantile, form: Any) -> str:
    """Return a quantile, marked where jobs that are not over could only raise it."""
    text = str(form(quantile.value))
    return f"≥ {text}" if quantile.is_lower_bound and not np.isnan(quantile.value) else text


def _size_rows(digests: Sequence[Digest]) -> Iterator[Row]:
    last = -1
    for one in digests:
        cells = []
        for row in one.shared.by_size.to_dict("records"):
            if not row["num_jobs"]:
                cells.append("–")
                continue
            p50 = _floor(Quantile(row["p50_s"], row["p50_is_lower_bound"]), duration)
            p95 = _floor(Quantile(row["p95_s"], row["p95_is_lower_bound"]), duration)
            cells.append(f"{p50} / {p95}")
        arm = one.head.arm + (f", seed {one.head.seed}" if _has_seeds(digests) else "")
        yield Row(exact(one.head.nodes), arm, tuple(cells), one.head.nodes != last)
        last = one.head.nodes


def _held_rows(digests: Sequence[Digest]) -> Iterator[Row]:
    last = -1
    for one in digests:
        if one.shared.held is None:
            continue
        arm = one.head.arm + (f", seed {one.head.seed}" if _has_seeds(digests) else "")
        yield Row(exact(one.head.nodes), arm, held.cells(one.shared.held), one.head.nodes != last)
        last = one.head.nodes


def _growth_line(digests: Sequence[Digest], arm: str) -> plots.GrowthLine:
    mine = _of_arm(digests, arm)
    pieces = pd.concat(
        [one.peaks.assign(nodes=one.head.nodes, run=one.head.seed) for one in mine],
        ignore_index=True,
    )
    several = pieces["nodes"].nunique() > 1
    return plots.GrowthLine(
        arm=arm,
        days=max(one.whole.window.days for one in mine),
        nodes=pieces["nodes"].to_numpy(np.float64),
        peak_pods=pieces["peak_pods"].to_numpy(np.float64),
        fit=metrics.fit_growth(pieces) if several else None,
    )


def _growth_sentences(lines: Sequence[plots.GrowthLine]) -> Iterator[str]:
    for line in lines:
        if line.fit is None:
            continue
        fit = line.fit
        text = (
            f"{line.arm}: the peak grows as nodes to the power {fit.exponent:.2f} "
            f"(95 % interval {fit.low:.2f} to {fit.high:.2f})"
        )
        if fit.low > 1:
            text += ", faster than the cluster"
        elif fit.high < 1:
            text += ", slower than the cluster"
        else:
            text += ", not to be told from growth with the cluster"
        yield f"{text}; window {duration(line.days * DAY_S)}."


def _glance(
    digests: Sequence[Digest], nodes: int, lines: Sequence[plots.GrowthLine]
) -> Iterator[str]:
    """Say the few things to know first, for the largest cluster."""
    mine = [one for one in digests if one.head.nodes == nodes]
    texts = []
    for one in mine:
        pending = one.shared.pending.set_index("reason")
        reasons = pending.drop(index=["all", "all_but_own_hold"])["share_ratio"]
        text = f"{one.head.arm} {count(overall(one.shared)['p99_pods'])}"
        if float(reasons.max()) > 0:
            main = PendingReason(str(reasons.idxmax()))
            text += f" (mostly {TABLE[main].label}, {percent(float(reasons.max()))})"
        texts.append(text)
    shared_s = mine[0].shared.window.days * DAY_S
    yield (
        f"{mine[0].head.workload}, {exact(nodes)} nodes, pending pods p99 over the same "
        f"{duration(shared_s)}: {'; '.join(texts)}."
    )
    lost = [
        f"{one.head.arm} {number(one.shared.use.idle_hold_gpu_h)}"
        for one in mine
        if one.shared.use.idle_hold_gpu_h >= 0.5
    ]
    if lost:
        yield (
            f"{mine[0].head.workload}, {exact(nodes)} nodes, GPU-hours held by gangs that were "
            f"not whole: {'; '.join(lost)}."
        )
    for line in lines:
        if line.fit is not None and line.arm.startswith("gang"):
            yield (
                f"{mine[0].head.workload}, {line.arm}: peaks of pending pods grow with "
                f"nodes to the power {line.fit.exponent:.2f} "
                f"({line.fit.low:.2f} to {line.fit.high:.2f})."
            )


def _tell(one: Digest) -> Told:
    has_head = one.config.admission == "gang"
    sentences = tuple(
        episodes.explain(
            episode, num_gpus=one.head.num_gpus, has_queue_head=has_head, is_live=one.is_live
        )
        for episode in one.episodes
    )
    if one.deadlocks is not None:
        sentences = (deadlocks.explain(one.deadlocks, one.head.num_gpus), *sentences)
    arm = one.head.arm + ("" if one.is_live else f", seed {one.head.seed}")
    return Told(
        nodes=exact(one.head.nodes),
        arm=arm,
        sentences=sentences or ("No pod was ever pending.",),
        short=_short(one.short),
        never=one.never,
        num_never="1 job" if one.num_never == 1 else f"{exact(one.num_never)} jobs",
    )


def _short(shares: dict[str, float]) -> str:
    """Say which resources pods found too little of; nothing where it was GPUs all the time."""
    if shares.keys() <= {"gpus"}:
        return ""
    return (
        f"What pods found too little of, by the time they waited for it: {resources_text(shares)}."
    )


# -- files -------------------------------------------------------------------------------------


def _make_room(out: Path, pictures: Sequence[plots.Picture]) -> None:
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
            raise ValueError(f"{str(folder)!r} is a link; it stays: choose another --out")
    owned.remove_listed(out)
    for folder in (out / PICTURES, out / TABLES):
        folder.mkdir(parents=True, exist_ok=True)
    owned.mark(out, files)


def _write_tables(
    digests: Sequence[Digest], parts: Sequence[Part], folder: Path
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
            "exponent": line.fit.exponent,
            "exponent_low": line.fit.low,
            "exponent_high": line.fit.high,
        }
        for part in parts
        for line in part.growth_lines
        if line.fit is not None
    ]
    tables: dict[str, tuple[str, pd.DataFrame]] = {
        "headline": ("headline figures of every run", pd.DataFrame(headline)),
        "reasons": (
            "pending pods by reason over the shared window",
            _stack(digests, lambda one: one.shared.pending),
        ),
        "delay_by_size": (
            "queueing delay by gang size class over the shared window",
            _stack(digests, lambda one: one.shared.by_size),
        ),
        "curves": ("pending pods over time by reason, thinned", _stack(digests, curve_table)),
        "peaks": ("peak of pending pods in each piece of the window", _stack(digests, _peaks)),
        "growth": (
            "exponents of the growth of peaks",
            pd.DataFrame(growth, columns=GROWTH_COLUMNS),
        ),
        "episodes": (
            "the worst pending episodes",
            _stack(digests, lambda one: episodes.episode_table(one.episodes)),
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


def _peaks(one: Digest) -> pd.DataFrame:
    return one.peaks


def _stack(digests: Sequence[Digest], of: Any) -> pd.DataFrame:
    tables = [with_identity(one.head, of(one)) for one in digests]
    kept = [table for table in tables if len(table)]
    if kept:
        return pd.concat(kept, ignore_index=True)
    return pd.DataFrame(columns=[*identity(digests[0].head)])


def _settings(digests: Sequence[Digest]) -> list[dict[str, str]]:
    """Return each arm's settings that are not the same everywhere, and one row for the rest."""
    flat = {one.head.arm: _flat(_fields(one)) for one in digests}
    every = dict.fromkeys(name for fields in flat.values() for name in fields)
    names = [name for name in every if name not in ("label", "seed", "until_s")]
    common, rows = [], []
    for name in names:
        values = {arm: fields.get(name) for arm, fields in flat.items()}
        if len({str(value) for value in values.values()}) == 1:
            common.append(f"{name} {next(iter(values.values()))}")
    for arm, fields in flat.items():
        own = [f"{name} {fields[name]}" for name in names if name in fields]
        own = [text for text in own if text not in common]
        rows.append({"arm": arm, "text": ", ".join(own) or "the same as all"})
    if len(flat) > 1:
        rows.append({"arm": "all", "text": ", ".join(common)})
    else:
        rows = [{"arm": next(iter(flat)), "text": ", ".join(common)}]
    return rows


def _fields(one: Digest) -> dict[str, Any]:
    """Return a run's settings; a live cluster has only its policy."""
    fields: dict[str, Any] = msgspec.to_builtins(one.config)
    policy = fields.pop("policy")
    policy |= policy.pop("numbers")
    fields = {name: value for name, value in fields.items() if name not in held.SETTINGS}
    fields |= held.settings(one.config)
    return {"admission": fields.pop("admission"), **policy, **({} if one.is_live else fields)}


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
