"""Pictures of a report. Lightness, hatching, markers and labels carry what colour does."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from scheduler import whole
from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from scheduler.core.times import DAY_S
from sim.report.digest import Digest
from sim.report.wording import count, duration
from sim.runs.metrics import SIZE_CLASSES, Growth

#: line colour, dashes and marker of the arms, in order of appearance
ARM_STYLES: tuple[tuple[str, object, str], ...] = (
    ("#b3440e", (0, (1, 1)), "o"),
    ("#e39b2d", (0, (4, 1.5)), "s"),
    ("#0b3c6f", "-", "^"),
    ("#5b9bd5", (0, (6, 1.5, 1, 1.5)), "D"),
    ("#4b4b4b", (0, (2, 2)), "v"),
    ("#2f7d4f", (0, (8, 2)), "P"),
)
HATCH = "#ffffff"  #: the lines of patterns
PNG_DPI = 150
WIDE = (5.4, 2.9)  #: inches; two stand side by side, and a phone shows one
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
    "hatch.color": HATCH,
    "svg.fonttype": "none",
    "svg.hashsalt": "muster",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in its files, and what it shows in words."""

    name: str
    alt: str
    png: bytes
    svg: bytes

    def write(self, folder: Path) -> None:
        """Write both forms."""
        whole.write_bytes(folder / f"{self.name}.png", self.png)
        whole.write_bytes(folder / f"{self.name}.svg", self.svg)


def render(figure: Figure, name: str, alt: str) -> Picture:
    """Return the figure as PNG and SVG, laid out and drawn once for each."""
    figure.set_dpi(PNG_DPI)
    png, svg = io.BytesIO(), io.BytesIO()
    pixels: Any = FigureCanvasAgg(figure)  # matplotlib types neither of these
    pixels.print_png(png, metadata={"Software": None})
    figure.set_layout_engine("none")  # it is laid out: the same picture in another form
    lines: Any = FigureCanvasSVG(figure)
    lines.print_svg(svg, metadata={"Date": None, "Creator": None})
    return Picture(name, alt, png.getvalue(), svg.getvalue())


def _pods(value: float, _: int) -> str:
    return count(value) if value >= 10 else f"{value:g}"


def arm_style(arm: str, arms: Sequence[str]) -> tuple[str, object, str]:
    """Return the same line for an arm in every picture of a report."""
    return ARM_STYLES[list(arms).index(arm) % len(ARM_STYLES)]


def pending_curve(digest: Digest, top_pods: float) -> Picture:
    """Draw pending pods over time, stacked by reason; `top_pods` ends the axis."""
    curve = digest.curve
    head = digest.head
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=WIDE, layout="constrained")
        axes = figure.add_subplot()
        days = np.append(curve.time_s, curve.end_s) / DAY_S
        values = np.vstack((curve.values, curve.values[-1:]))
        shown = stack_by_reason(axes, days, values, curve.columns)
        axes.plot(days, values.sum(axis=1), drawstyle="steps-post", color="#1a1a1a", linewidth=0.6)
        axes.set_xlim(days[0], days[-1])
        axes.set_ylim(0, max(top_pods, 1.0) * 1.06)
        _time_axis(axes, float(days[-1] - days[0]))
        axes.set_ylabel("pending pods")
        axes.yaxis.set_major_formatter(FuncFormatter(_pods))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        if shown:
            figure.legend(
                handles=shown,
                loc="outside upper center",
                ncols=min(3, len(shown)),
                frameon=False,
                handlelength=1.6,
                columnspacing=1.2,
            )
        peak = int(curve.total().max(initial=0))
        alt = (
            f"Pending pods over time, {head.workload}, {head.nodes:,} nodes, {head.arm}: "
            f"peak {peak:,} pods"
        )
        return render(figure, f"pending-{head.name}", alt)


def stack_by_reason(
    axes: Axes, x: np.ndarray, values: np.ndarray, reasons: Sequence[str]
) -> list[Patch]:
    """Draw counts by reason on top of each other; return what the legend says, from the top.

    `values` [num_times, num_reasons] hold from their `x` to the next one.
    """
    floor = np.zeros(len(x))
    shown: list[Patch] = []
    for index, name in enumerate(reasons):
        if not values[:, index].any():
            continue
        reason = TABLE[PendingReason(name)]
        level = floor + values[:, index]
        fill, hatch = reason.colour, reason.hatch
        axes.fill_between(
            x, floor, level, step="post", facecolor=fill, edgecolor=HATCH, hatch=hatch, linewidth=0
        )
        shown.append(
            Patch(facecolor=fill, edgecolor=HATCH, hatch=hatch, linewidth=0, label=reason.label)
        )
        floor = level
    return shown[::-1]


def _time_axis(axes: Axes, days: float) -> None:
    if days <= 3.0:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x * 24:.3g}"))
        axes.xaxis.set_major_locator(_HourLocator(days))
        axes.set_xlabel("hours")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.set_xlabel("days")


class _HourLocator(MaxNLocator):
    """Ticks on whole hours of an axis in days."""

    def __init__(self, days: float) -> None:
        super().__init__(8)
        wanted = days * 24 / 7
        self._step_h = next((h for h in (0.25, 0.5, 1, 2, 3, 6, 12) if h >= wanted), 12)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        step = self._step_h / 24
        return [i * step for i in range(math.ceil(vmin / step), math.floor(vmax / step) + 1)]


def delay_by_size(digests: Sequence[Digest], arms: Sequence[str], name: str) -> Picture:
    """Draw queueing delay against gang size, one panel per cluster size.

    Each arm has a bar from p50 to p95 in each size class, with a line through the p95.
    """
    sizes = sorted({digest.head.nodes for digest in digests})
    labels = [label.replace("<=", "≤ ") for label, _ in SIZE_CLASSES]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2, 3.1 * len(sizes)), 3.4), layout="constrained")
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
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
                place = at + step * (list(arms).index(digest.head.arm) - (len(arms) - 1) / 2)
                low = np.maximum(table["p50_s"].to_numpy(np.float64)[at], 1.0)
                value = np.maximum(table["p95_s"].to_numpy(np.float64)[at], 1.0)
                axes.vlines(place, low, value, color=color, linewidth=3.5, alpha=0.35)
                axes.plot(
                    place,
                    value,
                    color=color,
                    linestyle=dashes,
                    marker=marker,
                    markersize=5,
                    label=digest.head.arm,
                )
                floors = table["p95_is_lower_bound"].to_numpy(bool)[at]
                axes.plot(
                    place[floors],
                    value[floors],
                    marker=marker,
                    markersize=7,
                    linestyle="",
                    markerfacecolor="white",
                    markeredgecolor=color,
                )
            axes.set_yscale("log")
            axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
            axes.set_xlim(-0.3, len(labels) - 0.7)
            axes.set_title(f"{nodes:,} nodes", fontsize=9.5)
            axes.set_xlabel("GPUs of the gang")
            _duration_axis(axes)
        panels[0].set_ylabel("queueing delay, p50 to p95")
        _arm_legend(figure, panels[0])
        alt = "Queueing delay, p50 to p95, against gang size, " + ", ".join(
            f"{nodes:,} nodes" for nodes in sizes
        )
        return render(figure, name, alt)


def _duration_axis(axes: Axes) -> None:
    low, high = axes.get_ylim()
    ticks = [t for t in (1, 10, 60, 600, 3600, 6 * 3600, DAY_S, 7 * DAY_S) if low <= t <= high]
    axes.set_yticks(ticks, [_short(t) for t in ticks])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def _short(seconds: float) -> str:
    """Return a round duration: 10 s, 6 h, 1 d."""
    if seconds == DAY_S:
        return "1 d"
    value, _, unit = duration(seconds).partition(" ")
    return f"{float(value):g} {unit}"


def _arm_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    of_arm = dict(zip(labels, handles, strict=True))  # several seeds of an arm look alike
    if of_arm:
        figure.legend(
            list(of_arm.values()),
            list(of_arm),
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
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
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
            label = line.arm
            if line.fit is not None:
                fit = line.fit
                label += f": nodes^{fit.exponent:.2f} ({fit.low:.2f} to {fit.high:.2f})"
                axes.fill_between(
                    fit.nodes, fit.fitted_low, fit.fitted_high, color=color, alpha=0.12, linewidth=0
                )
                axes.plot(fit.nodes, fit.fitted, color=color, linestyle=dashes)
            axes.plot([], [], color=color, linestyle=dashes, marker=marker, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        sizes = sorted({float(n) for line in lines for n in line.nodes})
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_pods))
        axes.set_xlabel("nodes")
        axes.set_ylabel("peak of pending pods")
        figure.legend(
            loc="outside upper center",
            ncols=1 if len(lines) < 3 else 2,
            frameon=False,
            handlelength=3.2,
            fontsize=8.5,
        )
        return render(figure, name, "Peaks of pending pods against the number of nodes")
