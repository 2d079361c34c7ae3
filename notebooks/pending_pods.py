# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pending pods: read a study and explore one episode
#
# This notebook reads the runs that `make study` (or `muster study`) left in `runs/study`; it
# simulates nothing. Set the environment variable `MUSTER_STUDY` to look at another study.
#
# A pod is pending from its submission until its whole gang runs. Every pending pod has exactly one
# reason at every moment; `docs/tables.md` lists them.

# %%
import json
import os
from pathlib import Path

import pandas as pd
from bokeh.io import output_notebook, show
from bokeh.resources import INLINE
from IPython.display import display

from sim.report.curves import draw
from sim.report.episodes import explain, find_episodes
from sim.report.explorer import layout
from sim.report.waiting import PendingCurve, pending_curve
from sim.runs.folder import RunResult
from sim.runs.metrics import pending_quantiles
from sim.runs.steps import Steps, allocation_steps, pending_steps

# %matplotlib inline
HOUR_S, DAY_S = 3_600.0, 86_400.0
study = Path(os.environ.get("MUSTER_STUDY", Path("..", "runs", "study")))

# %% [markdown]
# ## The runs of the study
#
# A run is a folder with a `manifest.json`; one without it was never finished. Each run here is one
# point: a workload on a cluster size, scheduled by one arm.

# %%
manifests = {
    path.parent: json.loads(path.read_text()) for path in study.glob("points/*/manifest.json")
}
if not manifests:
    raise FileNotFoundError(
        f"no finished run in {study.resolve()}: run `make study`, or set MUSTER_STUDY"
    )
points = pd.DataFrame(
    [
        {**manifest["point"], "end_s": manifest["end_s"], "folder": folder}
        for folder, manifest in manifests.items()
    ]
).sort_values(["workload", "nodes", "arm", "seed"], ignore_index=True)
display(points[["workload", "nodes", "arm", "seed", "load", "window_days"]])

# %% [markdown]
# Choose what to look at: the first workload by name, and of its arms the part of time that all of
# them simulated. Change these two lines to see others.

# %%
workload = points["workload"].iloc[0]
chosen = points[(points["workload"] == workload) & (points["seed"] == points["seed"].min())]

window_s = chosen["window_days"].fillna(chosen["end_s"] / DAY_S).min() * DAY_S


# %%
def read_curves(point: pd.Series) -> Steps:
    """Read the exact pending curves of a point, one per reason, cut to the window."""
    table = pd.read_parquet(point["folder"] / "pending.parquet")
    return pending_steps(table, point["end_s"]).clip(0.0, window_s)


curves = {(point["nodes"], point["arm"]): read_curves(point) for _, point in chosen.iterrows()}

# %% [markdown]
# ## How many pods are pending
#
# Quantiles over time: at half of all moments at most `p50_pods` pods were pending.

# %%
quantiles = pd.concat(
    {key: pending_quantiles(steps).set_index("reason") for key, steps in curves.items()},
    names=["nodes", "arm"],
)
overall = quantiles.xs("all", level="reason")[["p50_pods", "p99_pods", "max_pods"]]
display(overall.round().astype(int))

# %% [markdown]
# The curves themselves, as the report draws them: all arms of a size on one time axis, one scale.


# %%
def picture_of(nodes: int, arm: str, steps: Steps) -> PendingCurve:
    """Return a curve with its largest waiting gangs."""
    point = chosen[(chosen["nodes"] == nodes) & (chosen["arm"] == arm)].iloc[0]
    jobs = pd.read_parquet(point["folder"] / "jobs.parquet")
    attempts = pd.read_parquet(point["folder"] / "attempts.parquet")
    return pending_curve(arm, steps, jobs, attempts)


pictures = {key: picture_of(*key, steps) for key, steps in curves.items()}
for nodes in sorted({nodes for nodes, _ in pictures}):
    print(f"{workload}, {nodes:,} nodes")
    display(draw([picture for (size, _), picture in pictures.items() if size == nodes]))

# %% [markdown]
# The largest size to explore: drag to zoom in, double click for the whole time. The pointer says of
# every arm what was pending, and which three waiting gangs needed the most GPUs.

# %%
output_notebook(INLINE, hide_banner=True)
largest = max(nodes for nodes, _ in pictures)
show(layout([picture for (size, _), picture in pictures.items() if size == largest]))

# %% [markdown]
# ## Why they are pending
#
# Mean number of pending pods by reason: rows that dominate are worth an episode of their own.

# %%
by_reason = quantiles["mean_pods"].unstack("reason").drop(columns=["all", "all_but_own_hold"])
display(by_reason.loc[:, by_reason.max() > 0].round(1))

# %% [markdown]
# ## One episode
#
# An episode is a stretch of time around a peak of pending pods. `muster` finds the highest ones and
# says in words what the pods waited for. Take the point with the highest peak, or name another.

# %%
worst = max(curves, key=lambda key: curves[key].total().max())
nodes, arm = worst

point = chosen[(chosen["nodes"] == nodes) & (chosen["arm"] == arm)].iloc[0]
result = RunResult.load(point["folder"])
episodes = find_episodes(
    curves[worst],
    allocation_steps(result.allocation, point["end_s"]).clip(0.0, window_s),
    result.jobs,
    result.attempts,
    num_gpus=result.cluster.num_gpus,
    order=result.config.policy.order,
)
print(f"{workload}, {nodes:,} nodes, {arm}")
has_queue_head = result.config.admission == "gang"
for episode in episodes:
    text = explain(episode, num_gpus=result.cluster.num_gpus, has_queue_head=has_queue_head)
    print("-", text)

# %% [markdown]
# The highest one, with an hour before and after it, by reason:

# %%
if episodes:
    episode = episodes[0]
    around = curves[worst].clip(
        max(episode.start_s - HOUR_S, 0.0), min(episode.end_s + HOUR_S, window_s)
    )
    print(f"{workload}, {nodes:,} nodes, {arm}")
    display(draw([pending_curve(arm, around, result.jobs, result.attempts)]))

# %% [markdown]
# The gangs that waited at its peak, largest first, with what they had waited for in the end:

# %%
if episodes:
    jobs = result.jobs
    waiting = jobs[(jobs["submit_s"] <= episode.peak_s) & ~(jobs["start_s"] <= episode.peak_s)]
    reasons = waiting.filter(regex=r"^pending_.*_s$")
    waiting = waiting[["job", "submit_s", "start_s", "num_pods", "gpus"]].join(
        reasons.loc[:, reasons.max() > 0]
    )
    display(waiting.sort_values("gpus", ascending=False).head(10).round(0))
