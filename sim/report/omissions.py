"""Jobs left out of figures, named wherever figures stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sim.report.wording import counted, exact, listed, percent
from sim.runs.left_out import LeftOut

if TYPE_CHECKING:
    from sim.report.digest import Digest

#: what pages say of sizes that run different parts of the same jobs
UNEVEN = "These sizes run different jobs, so their figures are not comparable."
#: and of arms: a quota that is too small for a job shuts it out
UNEVEN_ARMS = "These arms run different jobs, so their figures are not comparable."


def never_lines(requests: Sequence[tuple[str, int, str]], most: int = 5) -> list[str]:
    """Say which requests no node offers, one line each, from `left_out.unmet_requests`."""
    lines = []
    for text, number, first in requests[:most]:
        named = f"as {first!r}" if number > 1 else f"{first!r}"
        lines.append(f"{exact(number)} ({named}): {text}")
    rest = sum(number for _, number, _ in requests[most:])
    return [*lines, f"{exact(rest)} for other reasons; jobs.parquet has all"] if rest else lines


def left_out_sentence(
    found: LeftOut, nodes: int, *, arms: Sequence[str] = (), is_live: bool = False
) -> str:
    """Say how many jobs of a run can never start, and which figures lack them.

    `arms` are those for which it is so, where others on the same nodes differ.
    """
    under = f" under {listed(arms)}" if arms else ""
    share = f", {percent(found.share_ratio)} of the GPU-hours asked for" if found.gpu_h else ""
    them, their = ("it", "its") if found.num_jobs == 1 else ("them", "their")
    lacking = f"no figure counts {them}"
    if is_live:
        lacking = f"{their} pods are pending, and no delay counts {them}"
    return (
        f"On {counted(nodes, 'node')}{under} {exact(found.num_jobs)} of "
        f"{counted(found.of_jobs, 'job')} "
        f"({counted(found.num_pods, 'pod')}{share}) can never start; {lacking}."
    )


def left_out_sentences(digests: Sequence[Digest]) -> Iterator[str]:
    """Say it for each cluster size that lacks jobs, and how many rows of input were bad.

    Arms are named where some lack other jobs than others.
    """
    on_nodes: dict[int, dict[str, list[Digest]]] = {}
    for one in digests:
        groups = on_nodes.setdefault(one.head.nodes, {})
        groups.setdefault(one.whole.left_out.names_sha256, []).append(one)
    for nodes, groups in on_nodes.items():
        for same in groups.values():
            arms = list(dict.fromkeys(one.head.arm for one in same))
            others = {one.head.arm for other in groups.values() if other is not same
                      for one in other}  # fmt: skip
            found = same[0].whole.left_out
            if found.num_jobs:
                differs = bool(others - set(arms))
                yield left_out_sentence(
                    found, nodes, arms=arms if differs else (), is_live=same[0].is_live
                )
    reasons: dict[str, int] = {}
    bad, place = 0, ""
    for manifest in (one.manifest for one in digests):
        reasons.update(manifest.get("left_out") or {})
        # earlier versions counted both together
        num = int(manifest.get("num_bad_rows", manifest.get("num_rejected_rows")) or 0)
        if num > bad:
            bad, place = num, _rejected_rows(manifest)
    if reasons:
        total = sum(reasons.values())
        why = [
            reason if len(reasons) == 1 else f"{reason} ({exact(count)})"
            for reason, count in reasons.items()
        ]
        yield f"{counted(total, 'row')} of the jobs file {_was(total)} left out: {'; '.join(why)}."
    if bad:
        yield (
            f"{counted(bad, 'row')} of the jobs file {_was(bad)} bad and left out; "
            f"{place} has them."
        )


def _rejected_rows(manifest: Mapping[str, Any]) -> str:
    """Say where bad rows are kept: with a run, or with the jobs that the runs of a study share."""
    if "point" not in manifest:
        return "rejected.csv in the run's folder"
    return f"workloads/{manifest['point']['workload']}-*.rejected.csv in the study's folder"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def of_summary(figures: Mapping[str, Any]) -> LeftOut:
    """Return what the summary of a run says of jobs left out; earlier versions say nothing."""
    found = figures.get("left_out") or {}
    ratio = float(found.get("gpu_h_ratio") or 0.0)
    gpu_h = float(found.get("gpu_h") or 0.0)
    requests = found.get("requests") or []
    return LeftOut(
        num_jobs=int(found.get("num_jobs") or figures.get("outcomes", {}).get("never_fits", 0)),
        num_pods=int(found.get("num_pods") or 0),
        gpu_h=gpu_h,
        of_jobs=int(figures["num_jobs"]),
        of_gpu_h=gpu_h / ratio if ratio > 0 else 0.0,
        names_sha256=str([(one["request"], one["num_jobs"]) for one in requests] or ""),
    )


def requests_of_summary(figures: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Return the requests that no node offers, as `left_out.unmet_requests` does."""
    found = (figures.get("left_out") or {}).get("requests") or []
    return [(str(one["request"]), int(one["num_jobs"]), str(one["first_job"])) for one in found]
