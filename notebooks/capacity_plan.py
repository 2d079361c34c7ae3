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
# # Capacity plan: how sure is the answer, and what does a stricter target cost?
#
# This notebook reads what `muster plan` left in `runs/plan`; it simulates nothing. Set the
# environment variable `MUSTER_PLAN` to look at another plan.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

folder = Path(os.environ.get("MUSTER_PLAN", Path("..", "runs", "plan")))
if not (folder / "plan.json").is_file():
    raise FileNotFoundError(
        f"no finished plan in {folder.resolve()}: run `muster plan plan.toml`, or set MUSTER_PLAN"
    )
plan = json.loads((folder / "plan.json").read_text())
table = pd.read_csv(folder / "cost_curve.csv")
what = plan["vary"]

print(plan["headline"])
for sentence in plan["targets"]:
    print("target:", sentence)

# %% [markdown]
# ## The cost curve
#
# Every simulated run is one dot. A seed draws jobs, and every size meets the same jobs of a seed.
# The line is the mean over the seeds.

# %%
targets = sorted(table["target"].unique())
fig, axes = plt.subplots(
    len(targets),
    1,
    figsize=(9, 3.2 * len(targets)),
    sharex=True,
    squeeze=False,
    layout="constrained",
)
for ax, target in zip(axes[:, 0], targets, strict=True):
    rows = table[(table["target"] == target) & np.isfinite(table["value"])]
    mean = rows[rows["in_curve"]].groupby(what)["value"].mean()
    ax.plot(rows[what], rows["value"], "o", color="#999999", markersize=3, label="one seed")
    ax.plot(mean.index, mean, color="#0072B2", label="mean of all seeds")
    ax.axhline(rows["limit"].iloc[0], color="#D55E00", linestyle="--", label="limit")
    ax.set_title(plan["targets"][target], loc="left")
    ax.set_ylabel(rows["metric"].iloc[0])
    ax.legend(frameon=False)
axes[-1, 0].set_xlabel(f"{what}")
plt.show()

# %% [markdown]
# ## How far the seeds differ
#
# The limit that each replication found for itself. A wide spread means that one draw of jobs
# says little about the next: add seeds, or days, before buying hardware.

# %%
display(pd.DataFrame(plan["replications"]))

# %% [markdown]
# ## What a stricter target costs
#
# From the same runs: the mildest simulated value of what varies at which the mean over the seeds
# keeps a limit of half, of once and of twice what was asked for. Empty: no simulated value does.


# %%
def first_that_keeps(mean: pd.Series, limit: float, wants_capacity: bool) -> float:
    """Return the fewest nodes, or the largest load, at which the mean keeps the limit."""
    kept = mean[mean <= limit] if wants_capacity else mean[mean >= limit]
    if kept.empty:
        return np.nan
    return kept.index.min() if (what == "nodes") == wants_capacity else kept.index.max()


rows = []
for target, of_target in table[table["in_curve"]].groupby("target"):
    mean = of_target.groupby(what)["value"].mean()
    wants_capacity = "at most" in plan["targets"][target]
    limit = of_target["limit"].iloc[0]
    found = [first_that_keeps(mean, limit * share, wants_capacity) for share in (0.5, 1.0, 2.0)]
    rows.append([plan["targets"][target], *found])
display(pd.DataFrame(rows, columns=["target", "half the limit", "the limit", "twice the limit"]))
