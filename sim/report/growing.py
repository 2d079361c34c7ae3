"""How peaks of pending pods grow with the cluster, how sure that is, and where it is not known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
import pandas as pd

from sim.report.digest import Digest
from sim.report.plots import GrowthLine
from sim.report.wording import MINUS, counted, exact, listed
from sim.runs import metrics
from sim.runs.left_out import LeftOut

TWO_SIZES = "from two cluster sizes its interval cannot be known; add a third"


@dataclass(frozen=True, slots=True)
class Growth:
    """What the runs of one workload say about growth."""

    lines: tuple[GrowthLine, ...]  #: one for each arm
    unknown: dict[str, str]  #: arm -> why its growth is not known
    has_same_jobs: bool  #: all sizes met the same jobs: more nodes for the same demand

    @property
    def is_known(self) -> bool:
        """True if an arm has an exponent."""
        return any(line.fit is not None for line in self.lines)

    def line(self, arm: str) -> GrowthLine:
        """Return the line of an arm."""
        return next(line for line in self.lines if line.arm == arm)

    def sentence(self, arm: str, *, under: bool = False) -> str:
        """Say how the peak of an arm grows, with its interval, or why that is not known.

        `under` names the arm in the sentence.
        """
        name = f" under {arm}" if under else ""
        if arm in self.unknown:
            return f"How the peak grows with the cluster{name} is not known: {self.unknown[arm]}."
        fit = self.line(arm).fit
        assert fit is not None
        same = "The same jobs on more nodes: the" if self.has_same_jobs else "The"
        verb = "changes" if self.has_same_jobs else "grows"
        text = f"{same} peak{name} {verb} as nodes to the power {signed(fit.exponent)}"
        if isnan(fit.low):
            return f"{text}. {TWO_SIZES[0].upper()}{TWO_SIZES[1:]}."
        text += f" (95 % interval {signed(fit.low)} to {signed(fit.high)})"
        return f"{text}." if self.has_same_jobs else f"{text}: {_reading(fit)}."

    @property
    def why_unknown(self) -> str:
        """Why no arm has an exponent, where that is the same for all."""
        reasons = set(self.unknown.values())
        return reasons.pop() if not self.is_known and len(reasons) == 1 else ""

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield arm, exponent, its 95 % interval, and what they say."""
        for line in self.lines:
            fit = line.fit
            if fit is None:
                yield line.arm, "–", "–", f"not known: {self.unknown[line.arm]}"
            elif isnan(fit.low):
                yield line.arm, signed(fit.exponent), "not known", TWO_SIZES
            else:
                said = "the same jobs on more nodes" if self.has_same_jobs else _reading(fit)
                yield (
                    line.arm,
                    signed(fit.exponent),
                    f"{signed(fit.low)} to {signed(fit.high)}",
                    said,
                )


def _reading(fit: metrics.Growth) -> str:
    if fit.low > 1:
        return "faster than the cluster"
    if fit.high < 1:
        return "slower than the cluster"
    return "whether faster or slower than the cluster, these runs do not say"


def signed(value: float) -> str:
    """Return an exponent with two decimals."""
    return f"{value:.2f}".replace("-", MINUS)


def growth_of(digests: Sequence[Digest], arms: Sequence[str]) -> Growth:
    """Fit the growth of every arm that has runs among `digests`, those of one workload."""
    lines, unknown = [], {}
    uneven = different_jobs(digests)
    for arm in arms:
        mine = [one for one in digests if one.head.arm == arm]
        if not mine:
            continue
        pieces = pd.concat(
            [one.peaks.assign(nodes=one.head.nodes, run=one.head.seed) for one in mine],
            ignore_index=True,
        )
        why = uneven or _why_unknown(mine, pieces)
        if why:
            unknown[arm] = why
        lines.append(
            GrowthLine(
                arm=arm,
                days=max(one.whole.window.days for one in mine),
                nodes=pieces["nodes"].to_numpy(np.float64),
                peak_pods=pieces["peak_pods"].to_numpy(np.float64),
                fit=None if why else metrics.fit_growth(pieces),
            )
        )
    return Growth(tuple(lines), unknown, has_same_jobs(digests))


def has_same_jobs(digests: Sequence[Digest]) -> bool:
    """True if runs of several sizes met the same jobs."""
    sources = {one.head.source for one in digests}
    return len({one.head.nodes for one in digests}) > 1 and len(sources) == 1 and sources != {""}


def different_jobs(digests: Sequence[Digest]) -> str:
    """Say that sizes do not compare, where they run different parts of the same jobs."""
    if not has_same_jobs(digests):
        return ""
    by_arm: dict[str, dict[int, LeftOut]] = {}
    for digest in digests:
        by_arm.setdefault(digest.head.arm, {})[digest.head.nodes] = digest.whole.left_out
    uneven = [
        sizes for sizes in by_arm.values() if len({one.names_sha256 for one in sizes.values()}) > 1
    ]
    if not uneven:
        return ""
    by_size = uneven[-1]
    parts = [
        f"{exact(one.of_jobs - one.num_jobs)} of {counted(one.of_jobs, 'job')} on "
        f"{counted(nodes, 'node')}"
        for nodes, one in by_size.items()
    ]
    return f"the sizes run different jobs ({listed(parts)}) and are not comparable"


def _why_unknown(mine: Sequence[Digest], pieces: pd.DataFrame) -> str:
    sizes = sorted({one.head.nodes for one in mine})
    if len(sizes) == 1:
        return f"there are runs of one cluster size only, {counted(sizes[0], 'node')}"
    highest = pieces.groupby("nodes")["peak_pods"].max()
    idle = [nodes for nodes in sizes if not highest.get(nodes, 0.0) > 0]
    if idle:
        where = f"{listed([exact(nodes) for nodes in idle])} node{'' if idle == [1] else 's'}"
        return f"no pod was pending on {where}"
    return ""
