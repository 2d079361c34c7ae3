"""Little's law on every run: pods pending on average = arrival rate x mean wait.

It holds by accounting, to the last bit but for rounding, whatever the policy does: the curve of
pending pods, the reasons of each job and the starts must tell the same story.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import run

#: whole seconds and halves: instants coincide often
seconds = st.integers(0, 400).map(lambda half: half / 2)

jobs_tables = st.lists(
    st.fixed_dictionaries(
        {
            "submit_s": seconds,
            "duration_s": seconds.map(lambda value: value + 0.5),
            "num_pods": st.integers(1, 5),
            "gpus_per_pod": st.sampled_from([0, 1, 2, 4, 8]),
            "priority": st.integers(0, 2),
            "slack_ratio": st.sampled_from([0.5, 1.0, 3.0]),
        }
    ),
    min_size=1,
    max_size=12,
).map(pd.DataFrame)

whole_gangs = st.fixed_dictionaries(
    {
        "admission": st.just("gang"),
        "order": st.sampled_from(["fifo", "priority", "sjf", "smallest"]),
        "discipline": st.sampled_from(["strict", "skip", "easy"]),
    }
)
single_pods = st.fixed_dictionaries({"admission": st.sampled_from(["pod", "permit"])})
surroundings = st.fixed_dictionaries(
    {
        "placement": st.sampled_from(["pack", "spread", "first-fit"]),
        "control_plane": st.sampled_from(["ideal", "kubernetes"]),
        "until_s": st.sampled_from([None, None, 150.0]),
    }
)


@pytest.mark.slow
@settings(max_examples=80)
@given(
    jobs=jobs_tables,
    policy=st.one_of(whole_gangs, single_pods),
    around=surroundings,
    num_nodes=st.integers(1, 4),
)
def test_littles_law(
    jobs: pd.DataFrame, policy: dict[str, object], around: dict[str, object], num_nodes: int
) -> None:
    jobs = jobs.assign(
        job=[f"job-{i}" for i in range(len(jobs))],
        walltime_s=jobs["duration_s"] * jobs["slack_ratio"],
    ).drop(columns="slack_ratio")
    result = run(jobs, nodes=num_nodes, timeouts={"rendezvous_s": 40.0}, **policy, **around)
    end_s = float(result.manifest["end_s"])
    came = result.jobs[(result.jobs["submit_s"] < end_s) & (result.jobs["outcome"] != "never_fits")]
    submit_s = came["submit_s"].to_numpy()
    start_s = came["start_s"].fillna(end_s).to_numpy()
    pods = came["num_pods"].to_numpy()

    of_reasons = came.filter(regex=r"^pending_\w+_s$").sum(axis=1).to_numpy()
    assert of_reasons == pytest.approx(start_s - submit_s, abs=1e-6)

    span_s = max(end_s, 1.0)
    pods_per_s = pods.sum() / span_s
    mean_wait_s = np.average(start_s - submit_s, weights=pods) if len(came) else 0.0
    mean_pending = area(result.pending, end_s) / span_s
    assert mean_pending == pytest.approx(pods_per_s * mean_wait_s, rel=1e-9, abs=1e-9)

    for time_s in set(result.pending["time_s"]):
        waiting = pods[(submit_s <= time_s) & (time_s < start_s)].sum()
        assert level(result.pending, time_s) == waiting, f"at {time_s}"


def area(pending: pd.DataFrame, end_s: float) -> float:
    """Return the pod-seconds under the curves of all reasons."""
    return sum(
        float(np.diff([*curve["time_s"], end_s]) @ curve["pods"])
        for _, curve in pending.groupby("reason")
    )


def level(pending: pd.DataFrame, time_s: float) -> int:
    """Return how many pods are pending from `time_s` on, for whatever reason."""
    until = pending[pending["time_s"] <= time_s]
    return int(until.groupby("reason")["pods"].last().sum())
