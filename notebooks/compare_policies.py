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
# # Compare policies: who waits less, and who pays?
#
# The same log under three policies:
#
# - **strict FIFO** (`gang-fifo`): whole gangs, in order of arrival. Nobody overtakes.
# - **EASY backfill** (`gang-easy`): a later gang may start early if it does not delay the first one
#   in the queue, as far as the requested walltimes tell.
# - **pod by pod** (`pod`): each pod starts alone, as in plain Kubernetes. A gang that is not yet
#   whole holds its GPUs and does no work.
#
# All three meet the same jobs on the same nodes, so every difference comes from the policy.

# %%
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, display

from sim.report import commands, comparison, curves, plots
from sim.report.arms import in_order
from sim.report.digest import digest, read_heads, shared_window
from sim.report.omissions import left_out_sentences
from sim.report.pictures import Picture, render
from sim.report.wording import counted, duration

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
ARMS = ["gang-fifo", "gang-easy", "pod"]  # the first one is what the others are compared with
OUT = Path("..", "runs", f"policies-{Path(JOBS).stem}")


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

# %%
shape = ["--gpus-per-node", GPUS_PER_NODE, "--cpu-per-node", CPUS_PER_NODE]
study = ["study", "--jobs", JOBS, "--nodes", NODES, *shape, "--arms", ",".join(ARMS), "--out", OUT]
muster(*study, "--no-report")

# %%
heads = read_heads(sorted(path.parent for path in OUT.glob("points/*/manifest.json")))
heads = [head for head in heads if head.nodes == NODES and head.arm in ARMS]
runs = in_order([digest(head, shared_window(head, heads)) for head in heads])
runs.sort(key=lambda run: ARMS.index(run.head.arm))
for text in left_out_sentences(runs):
    print(text)

# %% [markdown]
# ## All figures
#
# A tick marks the best value. Changes are from the first policy.

# %%
columns = comparison.columns(runs)
rows = list(comparison.rows(runs, lambda run: run.shared, columns))
labels = ["jobs", *(f"{column.group} {column.label}".strip() for column in columns)]
display(pd.DataFrame({row.arm: [cell.plain for cell in row.cells] for row in rows}, index=labels))

# %% [markdown]
# ## When pods wait, and for what
#
# One time axis and one scale for all three.

# %%
stacked = [run.beside for run in runs]
show(render(curves.draw(stacked), "pending", curves.describe(stacked, f"{NODES} nodes")))

# %% [markdown]
# ## How long gangs of each size wait
#
# Each bar goes from the median to the p95 of the wait. Policies mostly trade large gangs against
# small ones, and this picture shows which way.

# %%
show(plots.delay_by_size(runs, ARMS, "delay"))

# %% [markdown]
# ## Who waits less, and who pays
#
# Job by job: the wait under each policy minus the wait under the first. A job waits less or longer
# if that is more than a minute. Jobs that did not start under both policies are not compared.


# %%
def waits(folder: Path) -> pd.DataFrame:
    """Return one row for each job: its user, its size class and its wait in seconds."""
    jobs = pd.read_parquet(folder / "jobs.parquet").set_index("job")
    edges = [-1, 0, 1, 4, 8, 64, 512, np.inf]
    labels = ["no GPU", "1 GPU", "2-4", "5-8", "9-64", "65-512", "above 512"]
    return pd.DataFrame(
        {
            "user": jobs["user"],
            "size": pd.cut(jobs["gpus"], edges, labels=labels),
            "wait_s": jobs["start_s"] - jobs["submit_s"],
        }
    )


MINUTE_S = 60.0
base = waits(runs[0].head.folder)
changed = {}
for run in runs[1:]:
    both = base.assign(change_s=waits(run.head.folder)["wait_s"] - base["wait_s"])
    changed[run.head.arm] = both = both.dropna(subset="change_s")
    less, more = (both["change_s"] < -MINUTE_S).sum(), (both["change_s"] > MINUTE_S).sum()
    saved = both["change_s"].clip(upper=0).sum()
    paid = both["change_s"].clip(lower=0).sum()
    print(
        f"{run.head.arm} instead of {runs[0].head.arm}: less wait for {counted(less, 'job')}, "
        f"{duration(-saved)} in all; more for {counted(more, 'job')}, {duration(paid)} in all; "
        f"about the same for {counted(len(both) - less - more, 'job')}."
    )


# %%
def who(by: str) -> pd.DataFrame:
    """Return how many jobs of each group wait less and longer, and the mean change in minutes."""
    tables = {}
    for arm, both in changed.items():
        minutes = both["change_s"].groupby(both[by], observed=True)
        tables[arm] = pd.DataFrame(
            {
                "jobs": minutes.size(),
                "wait less": minutes.agg(lambda change_s: (change_s < -MINUTE_S).sum()),
                "wait longer": minutes.agg(lambda change_s: (change_s > MINUTE_S).sum()),
                "mean change (min)": (minutes.mean() / MINUTE_S).round(1),
            }
        )
    return pd.concat(tables, axis=1)


display(who("size"))
display(who("user").sort_values((runs[1].head.arm, "mean change (min)")))

# %% [markdown]
# The jobs that pay most under the second policy:

# %%
paying = changed[runs[1].head.arm].sort_values("change_s", ascending=False).head(5)
display(paying[paying["change_s"] > MINUTE_S].round(0))

# %% [markdown]
# ## The same without a notebook
#
# These lines do the same in a terminal, in the folder of this notebook. The first one also writes a
# report with all pictures: zoom into it, and copy further commands from it.

# %%
print(shlex.join(["muster", *map(str, study)]))
for run in runs[1:]:
    print(commands.compare(runs[0], run).line)
