"""What `muster run` and `muster study` print at the end: a few lines on stdout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from scheduler.core.sentences import noun
from scheduler.core.times import DAY_S
from sim.report import queues
from sim.report.omissions import (
    UNEVEN,
    UNEVEN_ARMS,
    left_out_sentence,
    never_lines,
    of_summary,
    requests_of_summary,
)
from sim.report.wording import aligned, count, counted, duration, exact, number, percent
from sim.runs.folder import read_manifest, read_summary
from sim.runs.metrics import lower_bound_name, short_shares
from sim.runs.reader import kept_rows_text
from sim.runs.summary import submission_window

if TYPE_CHECKING:
    from sim.runs.folder import RunResult


def run_lines(result: RunResult, out: Path) -> list[str]:
    """Return the headline figures of one run."""
    figures = result.summary
    outcomes = ", ".join(f"{exact(n)} {name}" for name, n in figures["outcomes"].items())
    gpus = counted(result.cluster.num_gpus, "GPU")
    most = "pod" if figures.get("pending_pods_max") == 1 else "pods"
    rows = [
        ("cluster", f"{counted(result.cluster.num_nodes, 'node')}, {gpus}"),
        (
            "jobs",
            f"{exact(figures['num_jobs'])} ({outcomes}), {counted(figures['num_pods'], 'pod')}",
        ),
        ("simulated", duration(figures["end_s"])),
        (
            "pending",
            f"p50 {_pods(figures, 'p50')}, p99 {_pods(figures, 'p99')}, "
            f"max {_pods(figures, 'max')} {most}{_reasons(figures)}",
        ),
        (
            "queueing",
            f"p50 {_duration(figures, 'queueing_delay_p50_s')}, "
            f"p95 {_duration(figures, 'queueing_delay_p95_s')}",
        ),
        ("JCT", f"p50 {_duration(figures, 'jct_p50_s')}, p95 {_duration(figures, 'jct_p95_s')}"),
        ("allocation", _ratio(figures, "allocation_ratio")),
    ]
    if "goodput_ratio" in figures:
        rows.append(("goodput", f"{_ratio(figures, 'goodput_ratio')} of the GPU time held"
                     f"{_losses(figures)}"))  # fmt: skip
    shares = short_shares(result.jobs)
    if shares.keys() - {"gpus"}:
        rows.append(("short of", resources_text(shares)))
    lines = [f"{name:<11} {text}" for name, text in rows]
    if result.config.num_queues > 1:
        window = submission_window(result.jobs, figures["end_s"])
        found = queues.figures(result.jobs, figures["queues"], window, result.config.queues)
        lines += [f"{'queues':<11} {queues.named(result.config)}", *queues.run_lines(found)]
    lines += _left_out_lines(figures, result.cluster.num_nodes, is_live=_is_live(result))
    if len(result.rejected):
        what = kept_rows_text(result.rejected, result.manifest.get("left_out") or {})
        lines.append(f"{'left out':<11} {what}, kept in {out / 'rejected.csv'}")
    lines.append(f"{'run':<11} {out}")
    return lines


def resources_text(shares: dict[str, float]) -> str:
    """Return which resources were short, by the time pods waited for them: CPUs 62 %, GPUs 38 %."""
    named = {name: "other resources" if name == "other" else noun(name) for name in shares}
    return ", ".join(f"{named[name]} {percent(share)}" for name, share in shares.items())


def _reasons(figures: dict[str, Any]) -> str:
    shares = sorted(figures.get("pending_share_ratio", {}).items(), key=lambda item: -item[1])
    named = [
        f"{TABLE[PendingReason(name)].label} {percent(share)}"
        for name, share in shares[:3]
        if share >= 0.005
    ]
    return f" ({', '.join(named)})" if named else ""


def _losses(figures: dict[str, Any]) -> str:
    shares = figures["held_share_ratio"]
    rest = sorted(((r or 0.0, name) for name, r in shares.items() if name != "productive"))[::-1]
    named = [f"{name.replace('_', ' ')} {percent(r)}" for r, name in rest[:3] if r >= 0.005]
    return f" (the rest: {', '.join(named)})" if named else ""


def _is_live(result: RunResult) -> bool:
    return bool(result.manifest.get("is_live"))


def _left_out_lines(
    figures: Mapping[str, Any], nodes: int, *, arms: Sequence[str] = (), is_live: bool = False
) -> Iterator[str]:
    found = of_summary(figures)
    if found.num_jobs:
        said = left_out_sentence(found, nodes, arms=arms, is_live=is_live)
        yield f"{'never fits':<11} {said}"
        for line in never_lines(requests_of_summary(figures)):
            yield f"{'':<11} {line}"


Point = Mapping[str, Any]
Figures = Mapping[str, Any]

HEADER = (
    "workload", "nodes", "arm", "days", "pending p50", "p99", "max", "delay p50", "p95",
    "allocation", "never fit",
)  # fmt: skip


def study_lines(folders: Sequence[Path]) -> list[str]:
    """Return a table of the points of a study: one row each; then the jobs that it lacks."""
    points = [(read_manifest(folder)["point"], read_summary(folder)) for folder in folders]
    rows = [HEADER, *(_study_row(point, figures) for point, figures in points)]
    if not any(of_summary(figures).num_jobs for _, figures in points):
        rows = [row[:-1] for row in rows]
    lines = list(aligned(rows, left=(0, 2)))
    # who lacks the same jobs: of a workload and size by arm, of a workload and arm by size
    of_size: dict[tuple[str, str], dict[str, list[tuple[Point, Figures]]]] = {}
    sizes: dict[tuple[str, str, str], set[str]] = {}
    for point, figures in points:
        lacking = of_summary(figures).names_sha256
        groups = of_size.setdefault((point["workload"], _size(point)), {})
        groups.setdefault(lacking, []).append((point, figures))
        jobs = (point["workload"], point.get("jobs_sha256", ""), point["arm"])
        sizes.setdefault(jobs, set()).add(lacking)
    arms_differ = False
    for groups in of_size.values():
        arms = [{str(point["arm"]) for point, _ in same} for same in groups.values()]
        differ = any(one != arms[0] for one in arms)
        arms_differ |= differ
        for same in groups.values():
            names = list(dict.fromkeys(str(point["arm"]) for point, _ in same))
            of, found = same[0]
            lines += _left_out_lines(found, of["nodes"], arms=names if differ else ())
    if any(len(names) > 1 for names in sizes.values()):
        lines.append(f"{'':<11} {UNEVEN}")
    if arms_differ:
        lines.append(f"{'':<11} {UNEVEN_ARMS}")
    return lines


def _study_row(point: Mapping[str, Any], figures: Mapping[str, Any]) -> tuple[str, ...]:
    num_never = of_summary(figures).num_jobs
    return (
        f"{point['workload']}",
        _size(point),
        f"{point['arm']}",
        number(figures["window_s"] / DAY_S),
        *(_pods(figures, name) for name in ("p50", "p99", "max")),
        _duration(figures, "queueing_delay_p50_s"),
        _duration(figures, "queueing_delay_p95_s"),
        _ratio(figures, "allocation_ratio"),
        exact(num_never) if num_never else "",
    )


def _size(point: Mapping[str, Any]) -> str:
    """Return how large a point's cluster is: its nodes, after the name of a cluster file."""
    name = point.get("cluster")
    return f"{name}: {exact(point['nodes'])}" if name else exact(point["nodes"])


def _pods(figures: Mapping[str, Any], name: str) -> str:
    value = figures.get(f"pending_pods_{name}")
    return "–" if value is None else count(value)


def _duration(figures: Mapping[str, Any], name: str) -> str:
    value = figures.get(name)
    if value is None:
        return "–"
    mark = "≥ " if figures.get(lower_bound_name(name)) else ""
    return f"{mark}{duration(value)}"


def _ratio(figures: Mapping[str, Any], name: str) -> str:
    value = figures.get(name)
    return "–" if value is None else percent(value)
