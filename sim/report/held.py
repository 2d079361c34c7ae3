"""What a report says of goodput: where the GPU time that was held went. Only in runs with costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sim.report.digest import Digest, Figures
from sim.report.parts import PART_LABELS, PART_STYLE, Part
from sim.report.pictures import Picture, drawing, render
from sim.report.wording import counted, percent
from sim.schema.config import RunConfig

#: label, key in `metrics.held_shares`, and fill and hatching
PARTS: tuple[tuple[str, str, tuple[str, str]], ...] = (
    *(
        (PART_LABELS[part], part.value, style)
        for part, style in PART_STYLE.items()
        if part
        is not Part.DATA_WAIT  # jobs of the simulator run for their duration, waits included
    ),
    ("bind and start", "bind", ("#4b4b4b", "")),
)
#: fields of `RunConfig` that are told in few words
SETTINGS = ("costs", "interrupt")


def goodput(figures: Figures) -> str:
    """Return the goodput of one run as text."""
    return "–" if figures.held is None else percent(figures.held["productive"])


def cells(shares: dict[str, float]) -> tuple[str, ...]:
    """Return the shares in the order of `PARTS`."""
    return tuple(percent(max(0.0, shares[key])) for _, key, _ in PARTS)


def settings(config: RunConfig) -> dict[str, Any]:
    """Return costs and interrupts in few words; nothing where there are none."""
    if config.costs is None:
        return {}
    told: dict[str, Any] = {"costs": config.costs.measured or "given"}
    if config.interrupt:
        told["interrupts"] = len(config.interrupt)
    return told


def picture(digests: Sequence[Digest], name: str) -> Picture | None:
    """Draw one bar per run with costs: held GPU time by what it went into."""
    shown = [(one, one.shared.held) for one in digests if one.shared.held is not None]
    if not shown:
        return None
    with drawing(one.head.arm for one, _ in shown):
        figure = Figure(figsize=(7.4, 1.5 + 0.42 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        at = np.arange(len(shown))[::-1]
        left = np.zeros(len(shown))
        for label, key, (fill, hatch) in PARTS:
            width = np.array([max(0.0, shares[key]) for _, shares in shown])
            if width.max() < 0.001:
                continue
            axes.barh(at, width, left=left, height=0.66, color=fill, hatch=hatch,
                      edgecolor="white", linewidth=0.4, label=label)  # fmt: skip
            for y, x, w in zip(at, left, width, strict=True):
                if w > 0.045:
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                    axes.text(x + w / 2, y, percent(float(w)), ha="center", va="center",
                              fontsize=8, color="black", bbox=box)  # fmt: skip
            left += width
        names = [f"{one.head.arm}, {counted(one.head.nodes, 'node')}" for one, _ in shown]
        if len({one.head.seed for one, _ in shown}) > 1:
            names = [
                f"{text}, seed {one.head.seed}" for text, (one, _) in zip(names, shown, strict=True)
            ]
        axes.set_yticks(at, names)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("share of GPU time held")
        axes.grid(visible=False, axis="y")
        axes.set_title(_answer(shown), loc="left", fontsize=9.5)
        figure.legend(loc="outside lower center", ncols=4, frameon=False, handlelength=1.6)
        alt = "GPU time held by what it went into: " + "; ".join(
            f"{one.head.arm}, {counted(one.head.nodes, 'node')}, productive "
            f"{percent(shares['productive'])}"
            for one, shares in shown
        )
        return render(figure, name, alt)


def _answer(shown: Sequence[tuple[Digest, dict[str, float]]]) -> str:
    found = [shares["productive"] for _, shares in shown]
    low, high = percent(min(found)), percent(max(found))
    span = low if low == high else f"{low} to {high}"
    rest = {key: max(shares[key] for _, shares in shown) for _, key, _ in PARTS[1:]}
    worst = max(rest, key=lambda key: rest[key])
    label = next(label for label, key, _ in PARTS if key == worst)
    return f"{span} of the GPU time held was productive; {label} took up to {percent(rest[worst])}"
