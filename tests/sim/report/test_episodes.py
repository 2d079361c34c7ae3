"""Episodes of pending pods: where they begin and end, and what is said of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scheduler.core.decisions import PendingReason
from sim import run
from sim.report.episodes import episode_table, explain, find_episodes, find_spans
from sim.runs.steps import allocation_steps, pending_steps


def test_spans_reach_as_far_as_half_of_the_peak() -> None:
    #        0  1  2   3  4  5     6  7
    total = [0, 4, 10, 6, 3, 0, 8, 2]
    time_s = np.array([0, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 70_000], float)
    spans = find_spans(time_s, np.array(total), 80_000.0, top=5)
    assert spans[0] == (2, 2, 4)  # 10 and 6 are at least 5
    assert spans[1] == (6, 6, 7)
    assert all(total[peak] > 0 for peak, _, _ in spans)


def test_short_dips_do_not_end_an_episode() -> None:
    total = np.array([10, 0, 9, 0])
    near = find_spans(np.array([0.0, 100.0, 200.0, 300.0]), total, 400.0, top=5)
    assert near == [(0, 0, 3)]
    far = find_spans(np.array([0.0, 100.0, 9000.0, 9100.0]), total, 9200.0, top=5)
    assert far == [(0, 0, 1), (2, 2, 3)]


def test_an_episode_names_the_head_and_the_numbers() -> None:
    jobs = pd.DataFrame(
        {
            "job": ["first", "wide", "narrow"],
            "submit_s": [0.0, 3600.0, 3700.0],
            "duration_s": [7200.0, 600.0, 60.0],
            "num_pods": [3, 4, 1],
            "gpus_per_pod": 8,
        }
    )
    result = run(jobs, nodes=4)
    end_s = float(result.manifest["end_s"])
    (episode,) = find_episodes(
        pending_steps(result.pending, end_s),
        allocation_steps(result.allocation, end_s),
        result.jobs,
        result.attempts,
        num_gpus=32,
    )
    assert (episode.start_s, episode.peak_s, episode.end_s) == (3600.0, 3700.0, 7200.0)
    assert episode.peak_pods == 5
    assert episode.free_gpus == 8
    assert episode.num_waiting == 2
    assert dict(episode.shares) == {PendingReason.CAPACITY: 0.8, PendingReason.BEHIND_HEAD: 0.2}
    assert episode.head is not None
    assert (episode.head.job, episode.head.gpus, episode.head.admitted_s) == ("wide", 32, 7200.0)
    text = explain(episode, num_gpus=32)
    assert text.startswith("Day 0 01:00 to 02:00 (1.00 h), peak 5 pods at day 0 01:01: ")
    assert "capacity 80 %, behind head 20 %" in text
    assert "First in the queue is gang wide: it needs 32 GPUs (4 pods) and 8 of 32 are free" in text
    assert "it is placed at day 0 02:00" in text
    row = episode_table([episode]).iloc[0]
    assert row["head_job"] == "wide"
    assert row["capacity_ratio"] == 0.8
