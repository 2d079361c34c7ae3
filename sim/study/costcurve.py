"""The answer of a plan as text, table and picture."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import pandas as pd

from scheduler import whole
from sim.report.wording import counted, exact, number, percent
from sim.study.plan import Plan
from sim.study.search import Answer
from sim.study.targets import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe-Ito: dark enough to be told from the grey band in a greyscale print
CURVE_COLOUR, LIMIT_COLOUR, BAND_COLOUR = "#0072B2", "#D55E00", "#BBBBBB"
#: who says between which values to search: vary of the settings, --nodes, or the jobs themselves
Bounds = Literal["vary", "--nodes", "jobs"]
LOG_RANGE = 50.0  #: a figure that spans more than this factor gets a logarithmic axis


def curve_table(plan: Plan, answer: Answer) -> pd.DataFrame:
    """Return every evaluation: one row per value, seed and target.

    Columns: the name of what varies, seed, metric, value, limit, is_met, num_never_fits, in_curve
    (True at values where every seed was run).
    """
    rows = [
        {
            plan.vary.what: one.value,
            "seed": one.seed,
            "target": index,
            "metric": target.metric,
            "value": value,
            "limit": target.limit,
            "is_met": target.is_met(value) and one.measured.num_never_fits == 0,
            "num_never_fits": one.measured.num_never_fits,
            "in_curve": one.value in answer.curve,
        }
        for one in answer.evaluations
        for index, (target, value) in enumerate(zip(plan.target, one.measured.values, strict=True))
    ]
    frame = pd.DataFrame(rows)
    return frame.sort_values([plan.vary.what, "seed", "target"], ignore_index=True)


def draw_curve(table: pd.DataFrame, target: int, plan: Plan, answer: Answer, ax: Axes) -> None:
    """Draw one target's figure against what varies: mean, range over seeds, limit and answer."""
    from sim.report.ticks import (  # as matplotlib, only where a picture is drawn
        log_counts,
        whole_numbers,
    )

    what = plan.vary.what
    chosen = table[(table["target"] == target) & table["in_curve"]]
    by_size = chosen.groupby(what)["value"]
    middle, lowest, highest = by_size.mean(), by_size.min(), by_size.max()
    at = middle.index.to_numpy()
    if answer.limit is not None:
        ends = (answer.limit.low, answer.limit.high)
        if np.isfinite(ends).all():
            ax.axvspan(*ends, color=BAND_COLOUR, alpha=0.6, linewidth=0)
        ax.axvline(answer.limit.mean, color="#555555", linewidth=1)
    ax.fill_between(at, lowest, highest, color=CURVE_COLOUR, alpha=0.2, linewidth=0)
    ax.plot(at, middle, color=CURVE_COLOUR)
    never_fits = chosen.groupby(what)["num_never_fits"].max().to_numpy() > 0
    for hollow in (False, True):
        ax.plot(
            at[never_fits == hollow],
            middle.to_numpy()[never_fits == hollow],
            color=CURVE_COLOUR,
            marker="o",
            markersize=4,
            markerfacecolor="white" if hollow else CURVE_COLOUR,
            linestyle="",
        )
    margin = 0.02 * (at[-1] - at[0]) or (1.0 if what == "nodes" else 0.5)
    ax.set_xlim(at[0] - margin, at[-1] + margin)
    if what == "nodes":
        whole_numbers(ax.xaxis)
    limit = plan.target[target].limit
    ax.axhline(limit, color=LIMIT_COLOUR, linestyle="--", linewidth=1.2)
    positive = chosen.loc[np.isfinite(chosen["value"]) & (chosen["value"] > 0), "value"]
    label = _axis_label(plan.target[target])
    fits_log = limit > 0 and len(positive) == len(chosen)
    if fits_log and positive.max() > LOG_RANGE * positive.min():
        ax.set_yscale("log")
        log_counts(ax, least=1e-6)
        label += ", log axis"
    else:
        ax.set_ylim(bottom=0)
    ax.annotate(
        f"limit {plan.target[target].show(limit)}",
        (1.0, limit),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        fontsize="small",
        color=LIMIT_COLOUR,
    )
    ax.set_title(label, loc="left", fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#E5E5E5", linewidth=0.6)
    ax.set_axisbelow(True)


def _axis_label(target: Target) -> str:
    label = target.label()
    if not label[1].isdigit():  # p95 stays as it is
        label = label[0].upper() + label[1:]
    if target.metric.endswith("_s"):
        return f"{label} (s)"
    if target.metric.endswith("_ratio"):
        return f"{label} (ratio)"
    return f"{label} (pods)" if target.metric.startswith("pending") else label


def headline(plan: Plan, answer: Answer, bounds: Bounds = "vary") -> str:
    """Return the answer in one sentence."""
    low, high = plan.vary.low, plan.vary.high
    count = len(answer.found)
    if answer.limit is None:
        return _infeasible(plan, answer, bounds)
    if plan.vary.what == "cluster":
        return _smallest_file(plan, answer)
    is_nodes = plan.vary.what == "nodes"
    value = exact if is_nodes else number
    unit = " nodes" if is_nodes else ""
    subject = "Smallest cluster" if is_nodes else "Largest load"
    text = f"{subject} that meets the target{'s' if len(plan.target) > 1 else ''}: "
    mean = answer.limit.mean
    text += counted(mean, "node") if is_nodes else number(mean)
    if np.isfinite(answer.limit.low):
        text += (
            f" (95 % interval {value(answer.limit.low)} to {value(answer.limit.high)}, "
            f"{count} replications)"
        )
    else:
        text += " (one replication, so no interval)"
    if answer.safe is not None and count > 1:
        targets = "them" if len(plan.target) > 1 else "it"
        text += f"; {value(answer.safe)}{unit} meet {targets} in every replication"
    # fewer than one node, or than the largest job needs, meet nothing
    is_least = is_nodes and (low <= 1 or bounds == "jobs")
    if answer.is_edge and not is_least:
        end, bound = ("low", low) if is_nodes else ("high", high)
        place = f"vary.{end} = {value(bound)}"
        way_out = f"{'lower' if is_nodes else 'raise'} vary.{end}"
        if bounds == "--nodes":
            place, way_out = f"{value(bound)} nodes", "give --nodes LOW-HIGH with a smaller LOW"
        text += f". Some replications already meet it at {place}: {way_out} to find the limit"
    return text + "."


def _smallest_file(plan: Plan, answer: Answer) -> str:
    """Return the answer where the values are cluster files."""
    firsts = [one.first for one in answer.found if one.first is not None]
    found = [plan.value_name(plan.sizes()[first]) for first in (min(firsts), max(firsts))]
    text = (
        f"Smallest cluster that meets the target{'s' if len(plan.target) > 1 else ''}: {found[0]}"
    )
    if found[0] != found[1]:
        text += f" to {found[1]}, by replication"
    if answer.is_edge:
        text += "; it is the smallest of these files, a smaller one may do"
    return text + "."


def _infeasible(plan: Plan, answer: Answer, bounds: Bounds) -> str:
    """Say why no value meets all targets, and what to change."""
    most = plan.sizes()[-1]
    failed = [one for one in answer.found if one.first is None]
    if failed:
        of = f"{len(failed)} of {len(answer.found)} replications"
        place = plan.value_name(most)
        way_out = {
            "nodes": "raise vary.high"
            if bounds == "vary"
            else "give --nodes LOW-HIGH with a larger HIGH",
            "load": "lower vary.low, give more nodes",
            "cluster": "give the file of a larger cluster",
        }[plan.vary.what]
        seed = failed[0].seed
        measured = next(
            one.measured for one in answer.evaluations if (one.seed, one.value) == (seed, most)
        )
        if plan.arm.queues is not None and next(iter(answer.binds), "") == "quota":
            share = percent(answer.binds["quota"])
            way_out = (
                f"{share} of the waiting is for quota, which more nodes do not raise: raise it in "
                f"{plan.arm.queues_file}"
            )
        otherwise = "relax the target"
        if measured.num_never_fits:
            never = counted(measured.num_never_fits, "job")
            reason = f"{never} can never run: {measured.never_fits}"
            otherwise = "leave these jobs out if no number of such nodes could run them"
        else:
            reason = "; ".join(
                f"{target.label()} is {target.show(found)}, not at most {target.show(target.limit)}"
                for target, found in zip(plan.target, measured.values, strict=True)
                if target.wants_capacity and not target.is_met(found)
            )
        return (
            f"No answer: even {place} miss the target in {of} (seed {seed}: {reason}); "
            f"{way_out}, or {otherwise}."
        )
    torn = [one for one in answer.found if one.last is None]
    seed, first = torn[0].seed, torn[0].first
    assert first is not None
    size = plan.sizes()[first]
    measured = next(
        one.measured for one in answer.evaluations if (one.seed, one.value) == (seed, size)
    )
    reason = "; ".join(
        f"{target.label()} is {target.show(found)}, not at least {target.show(target.limit)}"
        for target, found in zip(plan.target, measured.values, strict=True)
        if not target.wants_capacity and not target.is_met(found)
    )
    place = plan.value_name(size)
    return (
        f"No answer: the targets contradict each other in {len(torn)} of {len(answer.found)} "
        f"replications. With seed {seed} the waiting targets are first met at {place}, and there "
        f"{reason}; relax one of them, or plan another policy."
    )


def binding(answer: Answer) -> str:
    """Return what pods wait for at the answer, in one sentence."""
    if not answer.binds:
        return "Nothing binds: no pod of the measured jobs was ever pending."
    (first, share), *rest = answer.binds.items()
    others = ", ".join(f"{name} {percent(part)}" for name, part in rest)
    text = f"What binds there: {first} ({percent(share)} of pending pod-seconds"
    return f"{text}; {others})." if others else f"{text})."


def write(plan: Plan, answer: Answer, out: str | Path, bounds: Bounds = "vary") -> dict[str, Path]:
    """Write plan.json, cost_curve.csv and the picture as PNG and SVG; return the paths."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        name: folder / name
        for name in ("plan.json", "cost_curve.csv", "cost_curve.png", "cost_curve.svg")
    }
    table = curve_table(plan, answer)
    said = headline(plan, answer, bounds)
    with whole.replacing(paths["cost_curve.csv"]) as part:
        table.to_csv(part, index=False)
    whole.write_bytes(
        paths["plan.json"],
        msgspec.json.format(
            msgspec.json.encode(
                {
                    "headline": said,
                    "vary": plan.vary.what,
                    "targets": [target.sentence() for target in plan.target],
                    "limit": answer.limit,
                    "safe": answer.safe,
                    "replications": [
                        {
                            "seed": one.seed,
                            "limit": None if one.first is None else plan.sizes()[one.first],
                            "meets_all": one.first is not None and one.last is not None,
                        }
                        for one in answer.found
                    ],
                    "binds": answer.binds,
                }
            ),
            indent=1,
        )
        + b"\n",
    )
    _picture(plan, answer, table, said, paths["cost_curve.png"], paths["cost_curve.svg"])
    return paths


def _picture(plan: Plan, answer: Answer, table: pd.DataFrame, said: str, *paths: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(plan.target)
    title = fill(said, 92)
    height = 0.7 + 0.18 * title.count("\n") + 2.1 * count
    with rc_context({"svg.hashsalt": "muster", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
        for index, ax in enumerate(axes):
            draw_curve(table, index, plan, answer, ax)
        units = {"nodes": "Nodes", "load": "Offered load (ratio)", "cluster": "Cluster file"}
        unit = units[plan.vary.what]
        if plan.vary.what == "cluster":
            axes[-1].set_xticks(plan.sizes(), [size.name for size in plan.clusters()])
        text = f"{unit}; line: mean, band: range of {len(answer.found)} replications"
        if answer.limit is not None:
            text += "; grey: the answer with its interval"
        if (table["num_never_fits"] > 0).any():
            text += "; hollow: some gangs are larger than the cluster"
        axes[-1].set_xlabel(text)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            with whole.replacing(path) as part:
                figure.savefig(part, dpi=150, metadata=metadata)
