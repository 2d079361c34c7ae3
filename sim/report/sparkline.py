"""A small picture of an episode: pending pods by reason, as inline SVG in the page's colours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from sim.report.episodes import Episode
from sim.report.wording import clock, counted
from sim.runs.steps import Steps

WIDTH, HEIGHT = 260, 56  #: of the drawing, in its own units


def sparkline(episode: Episode) -> str:
    """Return the SVG. Its height is the peak; a triangle on top marks when that was."""
    curve = episode.curve
    start_s, end_s = float(curve.time_s[0]), curve.end_s
    x = _to_width(np.append(curve.time_s, end_s), start_s, end_s)
    at = int(_to_width(np.array([episode.peak_s]), start_s, end_s)[0])
    label = (
        f"Pending pods by reason from {clock(start_s)} to {clock(end_s)}, "
        f"peak {counted(episode.peak_pods, 'pod')} at {clock(episode.peak_s)}"
    )
    return (
        f'<svg class="spark" viewBox="0 -6 {WIDTH} {HEIGHT + 6}" role="img" aria-label="{label}" '
        'preserveAspectRatio="none">'
        f'<path class="mark" d="M{at - 4}-6H{at + 4}L{at} 0Z"/>{"".join(_layers(curve, x))}</svg>'
    )


def _to_width(time_s: np.ndarray, start_s: float, end_s: float) -> np.ndarray:
    return np.rint((time_s - start_s) * (WIDTH / max(end_s - start_s, 1e-9))).astype(np.int64)


def _layers(curve: Steps, x: np.ndarray) -> Iterator[str]:
    """Yield an area for each reason, from the top of the stack down: each hides what is below."""
    levels = np.cumsum(curve.values, axis=1)
    top = max(int(levels[:, -1].max(initial=0)), 1)
    y = HEIGHT - np.rint(levels * (HEIGHT / top)).astype(np.int64)
    for index in reversed(range(len(curve.columns))):
        if curve.values[:, index].any():
            colour = TABLE[PendingReason(curve.columns[index])].colour
            yield f'<path fill="{colour}" d="{_area(x, y[:, index])}"/>'


def _area(x: np.ndarray, y: np.ndarray) -> str:
    """Return the area below a step line; steps within one place of the drawing are one."""
    turns = np.flatnonzero(np.diff(y, prepend=HEIGHT))
    steps = "".join(f"H{x[i]}V{y[i]}" for i in turns)
    return f"M0 {HEIGHT}{steps}H{x[-1]}V{HEIGHT}Z"
