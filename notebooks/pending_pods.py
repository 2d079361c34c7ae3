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
# # Pending pods: what waits on my cluster, and why?
#
# This notebook starts from a log of jobs, runs them again on a cluster of your choice, and shows
# what waited and for what. A pod is pending from its submission until its whole gang runs. Every
# pending pod has exactly one reason at every moment; docs/tables.md lists them.

# %%
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
from bokeh.io import output_notebook
from bokeh.io import show as explore
from bokeh.resources import INLINE
from IPython.display import Image, display

from sim.report import curves, plots
from sim.report.answers import answers
from sim.report.arms import in_order
from sim.report.digest import digest, read_heads, shared_window
from sim.report.episodes import explain
from sim.report.explorer import layout
from sim.report.growing import growth_of
from sim.report.omissions import left_out_sentences
from sim.report.pictures import Picture, render
from sim.report.waiting import pending_curve

# %% [markdown]
# ## Your log
#
# `JOBS` is a jobs table or a log in any format that muster reads; docs/tables.md lists them. The
# file given here is a made-up Slurm log: 300 jobs in three days, as `sacct -a -P` prints them. To
# use your own, change the lines below and run all cells. muster finds the format from the content.

# %%
JOBS = "slurm.txt"
NODES = 8
GPUS_PER_NODE = 4
CPUS_PER_NODE = 64  # jobs without GPUs wait for these
ARMS = ["gang-fifo", "gang-easy"]  # also: pod, permit
OUT = Path("..", "runs", f"pending-{Path(JOBS).stem}")


# %%
def muster(*words: object) -> None:
    """Run a muster command and show it with what it prints; raise what it says if it fails."""
    line = ["muster", *map(str, words)]
    print("$", shlex.join(line))
    command = [sys.executable, "-m", "sim.commands.main", *line[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


def show(picture: Picture) -> None:
    """Show a picture of the report at its own size."""
    display(Image(picture.png, width=picture.width_px, alt=picture.alt))


muster("trace", "describe", JOBS)

# %% [markdown]
# What was read, and what was left out, stands above. Check both before you trust a figure below.
#
# ## Run it
#
# Each arm is one way to schedule the same jobs. Finished runs are kept, so a second time is quick.

# %%
shape = ["--gpus-per-node", GPUS_PER_NODE, "--cpu-per-node", CPUS_PER_NODE]
muster(
    *("study", "--jobs", JOBS, "--nodes", NODES, *shape, "--arms", ",".join(ARMS)),
    *("--out", OUT, "--no-report"),
)

# %%
heads = read_heads(sorted(path.parent for path in OUT.glob("points/*/manifest.json")))
heads = [head for head in heads if head.nodes == NODES and head.arm in ARMS]
runs = in_order([digest(head, shared_window(head, heads)) for head in heads])
arms = [run.head.arm for run in runs]
for answer in answers(runs, growth_of(runs, arms)):
    print(answer.question)
    for sentence in answer.sentences:
        print("  ", sentence.text)
for text in left_out_sentences(runs):
    print(text)

# %% [markdown]
# ## When pods wait, and for what
#
# All arms have the same time axis and the same scale, as in the report.

# %%
stacked = [run.beside for run in runs]
show(render(curves.draw(stacked), "pending", curves.describe(stacked, f"{NODES} nodes")))

# %% [markdown]
# The same to explore: drag to zoom in, double click for the whole time. The pointer says of every
# arm what was pending, and which three waiting gangs needed the most GPUs.

# %%
output_notebook(INLINE, hide_banner=True)
explore(layout(stacked))

# %% [markdown]
# ## How long gangs of each size wait
#
# Each bar goes from the median to the p95 of the wait. An open marker is a lower bound: some of
# these jobs had not started when the run ended.

# %%
show(plots.delay_by_size(runs, arms, "delay"))

# %% [markdown]
# ## One episode
#
# An episode is a stretch of time around a peak of pending pods. These are the episodes of the arm
# with the highest peak. Set `run` to another one to read about that.

# %%
run = max(runs, key=lambda one: one.curve.total().max())
has_queue_head = run.config.admission == "gang"
print(f"{run.head.arm} on {run.head.nodes:,} nodes")
for episode in run.episodes:
    print("-", explain(episode, num_gpus=run.head.num_gpus, has_queue_head=has_queue_head))

# %% [markdown]
# The highest one:

# %%
jobs = pd.read_parquet(run.head.folder / "jobs.parquet")
attempts = pd.read_parquet(run.head.folder / "attempts.parquet")
if run.episodes:
    episode = max(run.episodes, key=lambda one: one.peak_pods)
    around = [pending_curve(run.head.arm, episode.curve, jobs, attempts)]
    show(render(curves.draw(around), "episode", curves.describe(around, "around the peak")))

# %% [markdown]
# The gangs that waited at its peak, largest first. The columns `pending_..._s` say how many seconds
# each of them waited in all, by reason.

# %%
if run.episodes:
    is_waiting = (jobs["submit_s"] <= episode.peak_s) & ~(jobs["start_s"] <= episode.peak_s)
    waiting = jobs[is_waiting].sort_values("gpus", ascending=False, kind="stable").head(10)
    reasons = waiting.filter(regex=r"^pending_.*_s$")
    waiting = waiting[["job", "user", "submit_s", "start_s", "num_pods", "gpus"]].join(
        reasons.loc[:, reasons.max() > 0]
    )
    display(waiting.round(0))

# %% [markdown]
# Next: the notebook compare_policies shows who gains and who pays under another policy, and
# capacity_plan how many nodes would be enough.
