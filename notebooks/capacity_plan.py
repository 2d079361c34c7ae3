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
# # Capacity plan: how many nodes are enough, and what does a stricter target cost?
#
# This notebook starts from a log of jobs and a target, such as "19 of 20 jobs start within an
# hour". `muster plan` searches for the smallest cluster that meets it. Then the notebook looks at
# smaller and larger clusters, to see how much the answer matters.

# %%
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, display

from sim.report import curves, plots
from sim.report.arms import in_order
from sim.report.digest import digest, read_heads, shared_window
from sim.report.growing import growth_of
from sim.report.omissions import left_out_sentences
from sim.report.pictures import Picture, render

# %% [markdown]
# ## Your log
#
# `JOBS` is a jobs table or a log in any format that muster reads; docs/tables.md lists them. The
# file given here is a made-up Slurm log: 300 jobs in three days, as `sacct -a -P` prints them. To
# use your own, change the lines below and run all cells. muster finds the format from the content.

# %%
JOBS = "slurm.txt"
GPUS_PER_NODE = 4
CPUS_PER_NODE = 64  # jobs without GPUs wait for these
ARM = "gang-easy"
TARGETS = ["--delay-p95", "1h"]  # `muster plan --help` lists the others
OUT = Path("..", "runs", f"capacity-{Path(JOBS).stem}")


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
# ## The smallest cluster

# %%
shape = ["--gpus-per-node", GPUS_PER_NODE, "--cpu-per-node", CPUS_PER_NODE]
muster("plan", "--jobs", JOBS, *shape, "--arm", ARM, *TARGETS, "--out", OUT / "plan")
plan = json.loads((OUT / "plan" / "plan.json").read_text())
answer = int(plan["safe"])

# %% [markdown]
# ## The cost curve
#
# How the figure of each target changes with the cluster; the dashed line is the target. A log says
# what would have been enough for its days, not how much other days differ.

# %%
display(Image(OUT / "plan" / "cost_curve.png"))

# %% [markdown]
# ## What a stricter target costs
#
# The smallest cluster among those simulated that keeps half the limit, the limit, and twice the
# limit. Empty: none of them does, or `muster plan` had no need to simulate one that small.

# %%
curve = pd.read_csv(OUT / "plan" / "cost_curve.csv")
curve = curve[curve["num_never_fits"] == 0]  # smaller ones do not run all jobs
rows = []
for target, of_target in curve.groupby("target"):
    limit = of_target["limit"].iloc[0]
    text = plan["targets"][target]
    is_limit = "at most" in text  # a target of allocation asks for at least so much
    fewest = []
    for share in (0.5, 1.0, 2.0):
        bound = limit * share
        kept = of_target["value"] <= bound if is_limit else of_target["value"] >= bound
        nodes = of_target.loc[kept, "nodes"]
        fewest.append((nodes.min() if is_limit else nodes.max()) if len(nodes) else np.nan)
    rows.append([text, *fewest])
columns = ["target", "half the limit", "the limit", "twice the limit"]
display(pd.DataFrame(rows, columns=columns).convert_dtypes())

# %% [markdown]
# ## A quarter less, a quarter more
#
# The same jobs on three clusters, with one time axis and one scale. If the first picture already
# looks harmless to you, the target is too strict; if the last one still shows long waits, more
# nodes are not what is missing.

# %%
sizes = sorted({max(ceil(answer * share), 1) for share in (0.75, 1.0, 1.25)})
muster(
    *("study", "--jobs", JOBS, "--nodes", ",".join(map(str, sizes)), *shape, "--arms", ARM),
    *("--out", OUT / "sizes", "--no-report"),
)
heads = read_heads(sorted(path.parent for path in OUT.glob("sizes/points/*/manifest.json")))
heads = [head for head in heads if head.nodes in sizes and head.arm == ARM]
runs = in_order([digest(head, shared_window(head, heads)) for head in heads])
for text in left_out_sentences(runs):
    print(text)

# %%
stacked = [replace(run.beside, name=f"{run.head.nodes:,} nodes") for run in runs]
show(render(curves.draw(stacked), "pending", curves.describe(stacked, ARM)))

# %% [markdown]
# ## Which gangs still wait
#
# Each bar goes from the median to the p95 of the wait.

# %%
show(plots.delay_by_size(runs, [ARM], "delay"))

# %% [markdown]
# ## How the peak changes with the cluster

# %%
growth = growth_of(runs, [ARM])
print(growth.sentence(ARM))
show(plots.growth(growth.lines, [ARM], "growth"))
