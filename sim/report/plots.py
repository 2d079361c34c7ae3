"""Pictures of a report. Lightness, hatching, markers and labels carry what colour does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from sim.report import ticks
from sim.report.digest import Digest
from sim.report.lettering import shown
from sim.report.pictures import PAPER, Picture, drawing, render
from sim.report.sizes import label, occurring
from sim.report.wording import counted
from sim.runs.metrics import Growth

#: line colour, dashes and marker of the arms, in order of appearance
ARM_STYLES: tuple[tuple[str, object, str], ...] = (
    ("#b3440e", (0, (1, 1)), "o"),
    ("#e39b2d", (0, (4, 1.5)), "s"),
    ("#0b3c6f", "-", "^"),
    ("#5b9bd5", (0, (6, 1.5, 1, 1.5)), "D"),
    ("#4b4b4b", (0, (2, 2)), "v"),
    ("#2f7d4f", (0, (8, 2)), "P"),
)


def arm_style(arm: str, arms: Sequence[str]) -> tuple[str, object, str]:
    """Return the same line for an arm in every picture of a report."""
    return ARM_STYLES[list(arms).index(arm) % len(ARM_STYLES)]


def delay_by_size(digests: Sequence[Digest], arms: Sequence[str], name: str) -> Picture:
    """Draw queueing delay against gang size, one panel per cluster size.

    Each arm has a bar from p50 to p95 in each size class, with a line through the p95.
    """
    sizes = sorted({digest.head.nodes for digest in digests})
    codes = occurring(one.shared.by_size for one in digests)
    labels = [label(code) for code in codes]
    with drawing(arms):
        figure = Figure(figsize=(max(3.7, 3.1 * len(sizes)), 3.4), layout="constrained")
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        of_arm: dict[str, Line2D] = {}
        for axes, nodes in zip(panels, sizes, strict=True):
            for digest in digests:
                if digest.head.nodes != nodes:
                    continue
                table = digest.shared.by_size
                color, dashes, marker = arm_style(digest.head.arm, arms)
                known = (table["num_jobs"] > 0) & table["p95_s"].notna()
                at = np.flatnonzero(known)
                # arms stand beside each other, not on top
                step = min(0.14, 0.7 / len(arms))
                place = np.searchsorted(codes, at) + step * (
                    list(arms).index(digest.head.arm) - (len(arms) - 1) / 2
                )
                low = np.maximum(table["p50_s"].to_numpy(np.float64)[at], 1.0)
                value = np.maximum(table["p95_s"].to_numpy(np.float64)[at], 1.0)
                axes.vlines(place, low, value, color=color, linewidth=3.5, alpha=0.35)
                (line,) = axes.plot(
                    place,
                    value,
                    color=color,
                    linestyle=dashes,
                    marker=marker,
                    markersize=5,
                )
                of_arm.setdefault(digest.head.arm, line)  # several seeds of an arm look alike
                floors = table["p95_is_lower_bound"].to_numpy(bool)[at]
                axes.plot(
                    place[floors],
                    value[floors],
                    marker=marker,
                    markersize=7,
                    linestyle="",
                    markerfacecolor=PAPER,
                    markeredgecolor=color,
                )
            axes.set_yscale("log")
            axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
            axes.set_xlim(-0.4, len(labels) - 0.6)
            axes.set_title(counted(nodes, "node"), fontsize=9.5)
            axes.set_xlabel("GPUs of the gang")
        ticks.log_durations(panels[0])  # the panels share it
        panels[0].set_ylabel("queueing delay, p50 to p95")
        _arm_legend(figure, of_arm)
        alt = "Queueing delay, p50 to p95, against gang size, " + ", ".join(
            counted(nodes, "node") for nodes in sizes
        )
        return render(figure, name, alt)


def _arm_legend(figure: Figure, of_arm: Mapping[str, Line2D]) -> None:
    if of_arm:
        figure.legend(
            list(of_arm.values()),
            [shown(arm) for arm in of_arm],
            loc="outside upper center",
            ncols=min(4, len(of_arm)),
            frameon=False,
            handlelength=3.2,
        )


@dataclass(frozen=True, slots=True)
class GrowthLine:
    """How the peaks of one arm grow with the cluster."""

    arm: str
    days: float  #: length of the window
    nodes: np.ndarray  #: [num_peaks]
    peak_pods: np.ndarray  #: [num_peaks]
    fit: Growth | None


def growth(lines: Sequence[GrowthLine], arms: Sequence[str], name: str) -> Picture:
    """Draw peaks of pending pods against nodes, with the fitted power laws."""
    with drawing(arms):
        figure = Figure(figsize=(4.8, 3.6 + 0.18 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        legend: dict[str, Line2D] = {}
        for at, line in enumerate(lines):
            color, dashes, marker = arm_style(line.arm, arms)
            # arms stand beside each other, not on top
            shift = 1.0 + 0.015 * (at - (len(lines) - 1) / 2)
            axes.plot(
                line.nodes * shift,
                np.maximum(line.peak_pods, 1.0),
                linestyle="",
                marker=marker,
                markersize=3.5,
                color=color,
                alpha=0.55,
            )
            text = shown(line.arm)
            if line.fit is not None:
                fit = line.fit
                text += f": nodes^{fit.exponent:.2f}"
                if not math.isnan(fit.low):
                    text += f" ({fit.low:.2f} to {fit.high:.2f})"
                    axes.fill_between(
                        fit.nodes, fit.fitted_low, fit.fitted_high, color=color, alpha=0.12, lw=0
                    )
                axes.plot(fit.nodes, fit.fitted, color=color, linestyle=dashes)
            (sample,) = axes.plot([], [], color=color, linestyle=dashes, marker=marker)
            legend[text] = sample
        axes.set_xscale("log")
        axes.set_yscale("log")
        sizes = sorted({float(n) for line in lines for n in line.nodes})
        sizes = sizes[:: math.ceil(len(sizes) / 8)]
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        ticks.log_counts(axes)
        axes.set_xlabel("nodes")
        axes.set_ylabel("peak of pending pods")
        figure.legend(
            list(legend.values()),
            list(legend),
            loc="outside upper center",
            frameon=False,
            handlelength=3.2,
            fontsize=8.5,
        )
        return render(figure, name, "Peaks of pending pods against the number of nodes")
