"""Pending pods over time: the curves of several runs under each other, on one time axis and scale.

`draw` returns them as a figure of matplotlib. `sim.report.explorer` makes them a picture that one
can zoom and point at, from the same curves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, StepPatch

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE, Reason
from sim.report import ticks
from sim.report.lettering import shown
from sim.report.pictures import HATCH, INK, drawing
from sim.report.waiting import PendingCurve
from sim.report.wording import exact

WIDTH_IN = 5.6  #: half a page; a phone shows it at two thirds
PANEL_IN = 1.15
DRAWN_BINS = 240  #: of about two pixels, which keep their lowest, highest and last state
NOT_SIMULATED = "#ececec"  #: behind the time after the end of a run


def span_s(curves: Sequence[PendingCurve]) -> tuple[float, float]:
    """Return the first and the last moment that any of the curves shows."""
    return (
        min(float(curve.steps.time_s[0]) for curve in curves),
        max(curve.steps.end_s for curve in curves),
    )


def top_pods(curves: Sequence[PendingCurve]) -> float:
    """Return where the common axis of pods ends."""
    return max(1.0, *(float(curve.steps.total().max(initial=0)) for curve in curves)) * 1.06


def reasons_of(curves: Sequence[PendingCurve]) -> list[Reason]:
    """Return the reasons that occur in any of the curves, in stacking order."""
    return [TABLE[PendingReason(name)] for name in columns_of(curves)]


def columns_of(curves: Sequence[PendingCurve]) -> list[str]:
    """Return the columns of steps that are not zero everywhere, in stacking order."""
    columns = curves[0].steps.columns
    seen = np.any([curve.steps.values.any(axis=0) for curve in curves], axis=0)
    return [name for name, is_seen in zip(columns, seen, strict=True) if is_seen]


def draw(curves: Sequence[PendingCurve], num_bins: int = DRAWN_BINS) -> Figure:
    """Draw curves under each other with one time axis and one scale, stacked by reason.

    Of more than three changes in one of `num_bins` equal pieces, the lowest, the highest and the
    last are drawn.
    """
    start_s, end_s = span_s(curves)
    with drawing([curve.name for curve in curves]):
        figure = Figure(figsize=(WIDTH_IN, 1.05 + PANEL_IN * len(curves)), layout="constrained")
        panels = figure.subplots(len(curves), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, curve in zip(panels, curves, strict=True):
            _draw_one(axes, curve, num_bins)
            if curve.steps.end_s < end_s:
                axes.axvspan(curve.steps.end_s, end_s, facecolor=NOT_SIMULATED, linewidth=0)
        ticks.time_axis(panels[-1], start_s, end_s)
        panels[-1].set_ylim(0, top_pods(curves))
        ticks.counts(panels[-1].yaxis)
        figure.supylabel("pending pods", fontsize="medium")
        patches = [patch(reason) for reason in reasons_of(curves)][::-1]
        if patches:
            columns = min(3, len(patches))
            figure.legend(
                handles=patches,
                loc="outside upper center",
                ncols=columns,
                frameon=False,
                handlelength=1.6,
                columnspacing=1.2,
            )
        return figure


def describe(curves: Sequence[PendingCurve], what: str) -> str:
    """Return what the picture shows in words: the peak of each curve."""
    peaks = [f"{one.name} {exact(int(one.steps.total().max(initial=0)))}" for one in curves]
    return f"Pending pods over time, {what}. Peaks in pods: {', '.join(peaks)}"


def _draw_one(axes: Axes, curve: PendingCurve, num_bins: int) -> None:
    steps = curve.steps.thin(num_bins)
    edges = np.append(steps.time_s, steps.end_s)
    values = np.vstack((steps.values, steps.values[-1:]))
    stack_by_reason(axes, edges, values, steps.columns)
    axes.set_title(shown(curve.name), loc="left", fontsize="medium", pad=3)


def stack_by_reason(
    axes: Axes, x: np.ndarray, values: np.ndarray, reasons: Sequence[str]
) -> list[Patch]:
    """Draw counts by reason on top of each other; return what the legend says, from the top.

    `values` [num_times, num_reasons] hold from their `x` to the next one; the last row ends them.
    """
    # each covers what lies below its own part, and is nowhere where it has none
    level = np.where(values > 0, values.cumsum(axis=1), 0)[:-1]
    patches: list[Patch] = []
    for index in reversed(range(len(reasons))):
        if not values[:, index].any():
            continue
        patches.append(patch(TABLE[PendingReason(reasons[index])]))
        axes.add_artist(  # `stairs` would look for limits, which takes longer than to draw
            StepPatch(
                level[:, index],
                x,
                fill=True,
                facecolor=patches[-1].get_facecolor(),
                edgecolor=HATCH,
                hatch=patches[-1].get_hatch(),
                linewidth=0,
            )
        )
    axes.add_artist(StepPatch(level.max(axis=1), x, fill=False, edgecolor=INK, linewidth=0.6))
    axes.update_datalim([(x[0], 0), (x[-1], level.max(initial=1))])
    axes.autoscale_view()
    return patches


def patch(reason: Reason) -> Patch:
    """Return how a legend shows a reason."""
    return Patch(
        facecolor=reason.colour,
        edgecolor=HATCH,
        hatch=reason.hatch,
        linewidth=0,
        label=reason.label,
    )
