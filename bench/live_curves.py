"""Pods bound over time in a burst: as measured on the real control plane, and as simulated.

Rates are fitted to some bursts and written down as control planes of the simulator; others of the
same size, made between them, are simulated with these and compared. `bench/live.py` measures.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import os
import platform
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import msgspec
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize

from scheduler import whole
from sim import run
from sim.report.pictures import STYLE
from sim.schema import planes
from sim.schema.config import ControlPlane

ROOT = Path(__file__).resolve().parents[1]
LANES = ("stock", "pinned", "direct")
#: bursts per lane and kind; the kinds take turns, as the machine's speed varies
REPEATS = 3
KINDS = ("fit", "held", "check")
#: a burst is measured again if other programs had more of the cores than this
DISTURBED_RATIO = 0.15
SPARE_TRIES = 4  #: of each lane
PICTURE = "burst-measured-simulated.png"
#: how far simulated times may be from measured ones
WITHIN_RATIO = 0.15
ADMISSION = {"stock": "pod", "pinned": "gang", "direct": "gang"}
_RUNS_ON_S = 1e6  # longer than any burst
MEASURED, SIMULATED, CREATED = "#0072b2", "#d55e00", "#7f7f7f"  # of Okabe and Ito

Floats = NDArray[np.float64]


@dataclass
class Trace:
    """When each pod of a burst was created, first seen free of gates, and bound.

    Seconds since the first create, or since what was held back was let go.
    """

    created_s: dict[str, float]
    released_s: dict[str, float]
    bound_s: dict[str, float]


#: (cluster, lane, gangs, pods of each, held) to figures and trace
Burst = Callable[..., Awaitable[tuple[dict[str, float], Trace]]]


async def bursts(
    burst: Burst, clusters: Mapping[str, Any], gangs: int, size: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return when each pod of some bursts was created, released and bound; and each one's figures.

    `clusters` has for each lane the one that it is measured on. The lanes take turns, as the
    machine's speed varies within minutes. Rates are fitted to bursts that bind while pods are
    created, `fit`, and to bursts that are `held` back until all pods exist; those of kind `check`
    are foretold. A burst that other programs disturbed is measured again while `SPARE_TRIES` last,
    and the least disturbed one counts.
    """
    spare = dict.fromkeys(clusters, SPARE_TRIES)

    async def once(lane: str, kind: str) -> tuple[dict[str, float], Trace]:
        found = await burst(clusters[lane], lane, gangs, size, held=kind == "held")
        rate, others = found[0]["pods_per_s"], found[0]["others_ratio"]
        said = f"{lane}, {kind}: {rate:.3g} pods/s; others {others:.0%} of CPU"
        print(said, file=sys.stderr, flush=True)
        return found

    for lane, cluster in clusters.items():
        await burst(cluster, lane, 2, 10)  # pays for what is made once
    tables, told = [], []
    for repeat, kind, lane in itertools.product(range(REPEATS), KINDS, clusters):
        best = await once(lane, kind)
        while best[0]["others_ratio"] > DISTURBED_RATIO and spare[lane]:
            spare[lane] -= 1
            best = min(best, await once(lane, kind), key=lambda one: one[0]["others_ratio"])
        figures, trace = best
        which = {"lane": lane, "kind": kind, "repeat": repeat, "gang_pods": size}
        which |= {"nodes": clusters[lane].nodes, "others_ratio": figures["others_ratio"]}
        times = pd.DataFrame(dataclasses.asdict(trace)).rename_axis("pod").reset_index()
        tables.append(times.assign(**which))
        told.append({**figures, **which})
    return pd.concat(tables, ignore_index=True), pd.DataFrame(told)


def busy_s() -> float:
    """Return CPU seconds spent on this machine so far, but for those of this process."""
    fields = Path("/proc/stat").read_text("utf-8").splitlines()[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields)
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def keep(measured: pd.DataFrame, folder: Path) -> None:
    """Write bursts down; lanes of the same size that are not among them stay as they are there."""
    path = folder / "bursts.parquet"
    if path.exists():
        old = pd.read_parquet(path)
        same = old["nodes"].eq(measured["nodes"].iloc[0])
        same &= old["gang_pods"].eq(measured["gang_pods"].iloc[0])
        old = old[same & ~old["lane"].isin(measured["lane"].unique())]
        measured = pd.concat([old, measured], ignore_index=True)
    with whole.replacing(path) as part:
        measured.to_parquet(part)


def replace_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Put rows into a file of rows, in place of those about the same."""
    old = json.loads(path.read_text("utf-8")) if path.exists() else []
    new = {one["what"] for one in rows}
    kept = [*(o for o in old if o["what"] not in new), *rows]
    whole.write_text(path, json.dumps(kept, indent=1) + "\n")


def publish(folder: Path) -> None:
    """Put measured control planes and the picture where muster and its documents have them."""
    for path in folder.glob("measured-*.toml"):
        whole.write_bytes(ROOT / "sim" / "control_planes" / path.name, path.read_bytes())
    whole.write_bytes(ROOT / "docs" / "images" / PICTURE, (folder / PICTURE).read_bytes())


@dataclass(frozen=True, slots=True)
class Curve:
    """Pods bound over time: at `time_s[i]` there are `pods[i]`."""

    time_s: Floats
    pods: Floats

    def until_s(self, ratio: float) -> float:
        """Return when this part of all pods is bound."""
        at = np.searchsorted(self.pods, ratio * self.pods[-1] - 1e-9)
        return float(self.time_s[at])


def steps(time_s: pd.Series) -> Curve:
    """Return how many of these times have passed, over time."""
    return Curve(np.sort(time_s.to_numpy()), np.arange(1.0, len(time_s) + 1))


def simulated(plane: ControlPlane, lane: str, gangs: int, size: int, nodes: int) -> Curve:
    """Return the same burst as the simulator has it: all gangs submitted at once."""
    jobs = pd.DataFrame(
        {
            "job": [f"gang-{number:03d}" for number in range(gangs)],
            "submit_s": 0.0,
            "duration_s": _RUNS_ON_S,
            "num_pods": size,
            "gpus_per_pod": 8,
        }
    )
    result = run(jobs, nodes=nodes, admission=ADMISSION[lane], control_plane=plane)
    created = result.attempts.groupby("created_s")["job"].size() * size
    waiting = result.pending[~result.pending["reason"].isin(["starting", "own_partial_hold"])]
    level = waiting.pivot_table(index="time_s", columns="reason", values="pods", aggfunc="last")
    time_s = np.union1d(level.index, created.index)
    pods = created.reindex(time_s, fill_value=0).cumsum()
    pods -= level.reindex(time_s).ffill().fillna(0.0).sum(axis=1)
    before_end = (time_s < _RUNS_ON_S) & (pods.to_numpy() > 0)
    return Curve(time_s[before_end], pods.to_numpy()[before_end])


def fitted(name: str, bursts: pd.DataFrame) -> ControlPlane:
    """Return the control plane with which the simulator comes nearest to bursts of a lane.

    Creation is read off. The binding rate, what of it is left beside creation, and the lag are
    those of the least squared error of deciles, over bursts that bind while pods are created
    (`fit`) and bursts whose pods were all there before (`held`).
    """
    lane = bursts["lane"].iloc[0]
    size = int(bursts["gang_pods"].iloc[0])
    deciles = np.linspace(0.1, 1.0, 10)
    measured: dict[str, list[list[float]]] = {"fit": [], "held": []}
    create_per_s, gangs = [], 1
    for (kind, _), burst in bursts[bursts["kind"] != "check"].groupby(["kind", "repeat"]):
        curve = steps(burst["bound_s"])
        measured[str(kind)].append([curve.until_s(part) for part in deciles])
        gangs = len(burst) // size
        if kind == "fit":
            create_per_s.append(len(burst) / burst["created_s"].max())
    start = planes.load("kubernetes")

    def plane(bind_per_s: float, ratio: float, lag_s: float) -> ControlPlane:
        return msgspec.structs.replace(
            start,
            name=name,
            schedule_per_s=_three_digits(bind_per_s),
            bind_qps=float("inf"),
            bind_burst=1,
            create_per_s=_three_digits(float(np.mean(create_per_s))),
            creating_ratio=_three_digits(ratio),
            bind_lag_s=_three_digits(lag_s),
        )

    def error(found: Floats) -> float:
        tried = plane(*found)
        curve = simulated(tried, lane, gangs, size, gangs * size)
        told = {
            "fit": np.array([curve.until_s(part) for part in deciles]),
            "held": deciles * gangs * size / tried.schedule_per_s + tried.bind_lag_s,
        }
        return sum(float(((np.array(times) - told[k]) ** 2).sum()) for k, times in measured.items())

    held_s = float(np.mean([one[-1] for one in measured["held"]]))
    first = gangs * size / held_s
    best = minimize(
        error,
        (first, 0.7, 0.3),
        method="Nelder-Mead",
        bounds=((first / 4, first * 4), (0.02, 1.0), (0.0, held_s / 2)),
        options={"maxfev": 200, "xatol": 0.005, "fatol": 1e-4},
    )
    return plane(*best.x)


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def compared(plane: ControlPlane, bursts: pd.DataFrame, nodes: int) -> dict[str, float]:
    """Return measured (median over repetitions) and simulated times of bursts not fitted to."""
    others = bursts[bursts["kind"] == "check"]
    curves = [steps(burst["bound_s"]) for _, burst in others.groupby("repeat")]
    size = int(others["gang_pods"].iloc[0])
    gangs = int((others["repeat"] == others["repeat"].iloc[0]).sum()) // size
    told = simulated(plane, str(others["lane"].iloc[0]), gangs, size, nodes)
    found: dict[str, float] = {}
    for percent in (50, 100):
        found[f"measured_{percent}_s"] = float(
            np.median([curve.until_s(percent / 100) for curve in curves])
        )
        found[f"simulated_{percent}_s"] = told.until_s(percent / 100)
    return found


def rows(folder: Path, command: str) -> list[dict[str, Any]]:
    """Fit each lane of the bursts in `folder`, write control planes and picture, and compare."""
    bursts = pd.read_parquet(folder / "bursts.parquet")
    nodes = int(bursts["nodes"].iloc[0])
    lanes = [lane for lane in LANES if lane in set(bursts["lane"])]
    found: list[dict[str, Any]] = []
    fits: dict[str, ControlPlane] = {}
    for lane in lanes:
        part = bursts[bursts["lane"] == lane]
        plane = fits[lane] = fitted(f"measured-{lane}", part)
        write_plane(plane, part, folder, command)
        times = compared(plane, part, nodes)
        for percent in (50, 100):
            ratio = times[f"simulated_{percent}_s"] / times[f"measured_{percent}_s"]
            found.append(
                {
                    "what": f"simulated / measured time to {percent} % of pods bound, {lane}",
                    "value": round(ratio, 4),
                    "unit": "x",
                    "must": f"within {WITHIN_RATIO:.0%}",
                    "met": abs(ratio - 1.0) <= WITHIN_RATIO,
                    **{key: round(value, 2) for key, value in times.items()},
                }
            )
    draw(bursts, fits, found, folder / PICTURE)
    return found


def write_plane(plane: ControlPlane, bursts: pd.DataFrame, folder: Path, command: str) -> Path:
    """Write a fitted control plane as TOML that says where it comes from."""
    nodes, lane = int(bursts["nodes"].iloc[0]), str(bursts["lane"].iloc[0])
    size = int(bursts["gang_pods"].iloc[0])
    gangs = int(bursts.groupby(["kind", "repeat"]).size().iloc[0]) // size
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    paths = {
        "stock": "stock kube-scheduler, pods placed one by one",
        "pinned": "muster's pinned lane, gangs planned whole and bound by kube-scheduler",
        "direct": "muster's direct lane, gangs planned whole and bound by muster itself",
    }
    text = f"""\
# Measured: {paths[lane]}.
# Rates of bursts of {gangs} gangs of {size} pods on {nodes:,} nodes, made on the same cores.
# Other such bursts are foretold with them; docs/benchmarks.md has the comparison.
# Machine: {_processor()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB. {_versions()}.
# Other programs had {bursts["others_ratio"].median():.0%} of the CPU, median over the bursts.
# Date: {datetime.datetime.now(datetime.UTC).date()}. Command: {command}
name = "{plane.name}"
schedule_per_s = {plane.schedule_per_s}
bind_qps = inf # the scheduler's client was not limited
create_per_s = {plane.create_per_s}
creating_ratio = {plane.creating_ratio}
bind_lag_s = {plane.bind_lag_s}

# not measured: as in kubernetes.toml
unschedulable_attempt_s = {plane.unschedulable_attempt_s}
backoff_initial_s = {plane.backoff_initial_s}
backoff_max_s = {plane.backoff_max_s}
start_warm_s = {plane.start_warm_s}
pull_cold_s = {plane.pull_cold_s}
warm_at_start = {str(plane.warm_at_start).lower()}
start_jitter_ratio = {plane.start_jitter_ratio}
"""
    path = folder / f"{plane.name}.toml"
    whole.write_text(path, text)
    assert planes.load(path) == plane, "what is written reads back"
    return path


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> str:
    """Return the versions of the control plane, as its modules name them."""
    modules = ROOT / "scheduler" / "controlplane" / "modules"
    wanted = (
        ("Kubernetes", "kubernetes", "k8s.io/kubernetes"),
        ("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    )
    found = []
    for name, folder, module in wanted:
        text = (modules / folder / "go.mod").read_text("utf-8")
        match = re.search(rf"{re.escape(module)} v(\S+)", text)
        assert match is not None, f"{folder}/go.mod names {module}"
        found.append(f"{name} {match[1]}")
    return ", ".join([*found, f"Python {platform.python_version()}"])


def draw(
    bursts: pd.DataFrame,
    fits: Mapping[str, ControlPlane],
    found: list[dict[str, Any]],
    path: Path,
) -> None:
    """Draw measured and simulated pods over time, one panel a lane."""
    worst = max(abs(one["value"] - 1.0) for one in found)
    others = bursts[bursts["kind"] == "check"]
    total = int(others.groupby(["lane", "repeat"]).size().iloc[0])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(fits) + 0.6, 3.5), layout="constrained")
        axes = figure.subplots(1, len(fits), sharey=True, sharex=True, squeeze=False)[0]
        for ax, lane in zip(axes, fits, strict=True):
            part = others[others["lane"] == lane]
            _panel(ax, lane, part, fits[lane], int(bursts["nodes"].iloc[0]))
        axes[0].set_ylabel("pods")
        axes[0].yaxis.set_major_formatter("{x:,.0f}")
        axes[0].set_ylim(0, total * 1.04)
        axes[0].set_xlim(left=0)
        figure.suptitle(
            f"Rates fitted to bursts of {total:,} pods foretell the halves and ends of others, "
            f"to {100 * worst:.0f} % or better",
            fontsize=11,
        )
        FigureCanvasAgg(figure)
        with whole.replacing(path) as part:
            figure.savefig(part, dpi=150, metadata={"Software": None})


def _panel(ax: Axes, lane: str, bursts: pd.DataFrame, plane: ControlPlane, nodes: int) -> None:
    """Draw one lane: what was created and bound in each repetition, and what was simulated."""
    size = int(bursts["gang_pods"].iloc[0])
    for _, burst in bursts.groupby("repeat"):
        gangs = len(burst) // size
        for column, colour in (("created_s", CREATED), ("bound_s", MEASURED)):
            curve = steps(burst[column])
            ax.step(curve.time_s, curve.pods, where="post", color=colour, linewidth=1.1)
    told = simulated(plane, lane, gangs, size, nodes)
    ax.step(
        told.time_s, told.pods, where="post", color=SIMULATED, linewidth=1.8, linestyle=(0, (4, 2))
    )
    created = steps(bursts["created_s"])
    bound = steps(bursts["bound_s"])
    for curve, part, text, colour, side in (
        (created, 0.72, "created", CREATED, "right"),
        (told, 0.72, "simulated", SIMULATED, "left"),
        (bound, 0.3, "bound,\nmeasured", MEASURED, "left"),
    ):
        pad = -4 if side == "right" else 5
        ax.annotate(
            text,
            (curve.until_s(part), part * gangs * size),
            xytext=(pad, 0 if side == "right" else -9),
            textcoords="offset points",
            color=colour,
            ha=side,
            va="center",
            fontsize=8.5,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.0},
        )
    ax.set_title(lane, fontsize=9.5)
    ax.set_xlabel("seconds since the first create")
