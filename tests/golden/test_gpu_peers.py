"""Peers' policies that the catalog has as they are, job by job, through the public `run`.

A pool is one node that holds all GPUs or processors, others are nodes of 8, with real placement.
"""

from __future__ import annotations

from functools import cache

from sim import RunResult, run
from tests.golden.comparison import same_ends, same_starts
from tests.golden.files import GPUS_PER_NODE, Result

#: (order, discipline) by peer and policy
POOLS = {
    ("cqsim", "fcfs"): ("fifo", "strict"),
    ("tiresias", "fifo"): ("fifo", "strict"),
    ("tiresias", "fjf"): ("fifo", "skip"),
    ("accasim", "FIFO"): ("fifo", "strict"),
    ("accasim", "SJF"): ("sjf", "strict"),
    # Q8: AccaSim's "EASY" hands its allocator no reservation, so it is skipping
    ("accasim", "EBF"): ("fifo", "skip"),
    ("alibaba2020", "big_FIFO"): ("fifo", "skip"),
    ("alibaba2020", "big_SJF"): ("sjf", "skip"),
}
FIRST_FIT = {("alibaba2020", "nodes_FIFO"): "fifo", ("alibaba2020", "nodes_SJF"): "sjf"}


def takes(result: Result) -> bool:
    return (result.peer, result.policy) in POOLS | FIRST_FIT


@cache
def pool_run(result: Result, order: str, discipline: str) -> RunResult:
    """A job is as many pods of one GPU as it has GPUs."""
    jobs = result.jobs().rename(columns={"gpus": "num_pods"}).assign(gpus_per_pod=1)
    size = result.num_gpus()
    return run(jobs, nodes=1, gpus_per_node=size, order=order, discipline=discipline)


def shared(result: Result) -> Result:
    """Return what stands for all columns of a table, as the jobs are the same."""
    return result._replace(peer="", policy="", column="submit_time")


def first_fit(result: Result, order: str) -> RunResult:
    """Pods of one size on nodes, the first that have room."""
    table = result.table()
    jobs = result.jobs().drop(columns=["gpus", "walltime_s"]).set_index("job")
    jobs["num_pods"] = table["num_inst"]
    jobs["gpus_per_pod"] = table["gpus_per_inst"]
    nodes = result.num_gpus() // GPUS_PER_NODE
    jobs = jobs.reset_index()
    return run(jobs, nodes=nodes, placement="first-fit", discipline="skip", order=order)


def test_every_job_starts_and_ends_as_the_peers_does(result: Result) -> None:
    key = result.peer, result.policy
    if key in POOLS:
        whose = shared(result) if result.path.parent.name == "bench" else result
        ours = pool_run(whose, *POOLS[key])
    else:
        ours = first_fit(result, FIRST_FIT[key])
    same_starts(ours, result)
    same_ends(ours, result)
