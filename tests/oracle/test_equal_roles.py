"""Roles of equal pods are one shape: a gang of 1 + 7 starts when a gang of 8 does."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.model import PodShape, Role
from scheduler.policies import catalog
from scheduler.policies.spec import PolicySpec
from tests.golden.peers import Job, drive, whole_nodes
from tests.oracle.naive import NaiveGangs, NaiveJob

POLICIES = {
    "strict": catalog.policy(PolicySpec()),
    "skip": catalog.policy(PolicySpec(discipline="skip")),
    "easy": catalog.policy(PolicySpec(discipline="easy")),
}


@st.composite
def workloads(draw: st.DrawFn) -> tuple[list[NaiveJob], list[tuple[int, ...]], int]:
    """Draw crowded gangs of equal pods, how many pods each role of theirs has, and nodes."""
    num_nodes = draw(st.integers(1, 5))
    jobs: list[NaiveJob] = []
    shares: list[tuple[int, ...]] = []
    time_s = 0
    for i in range(draw(st.integers(1, 25))):
        time_s += draw(st.integers(0, 3))
        gpus = draw(st.sampled_from([1, 1, 2, 3, 4, 8]))
        num_pods = draw(st.integers(1, num_nodes * (8 // gpus)))
        duration_s = draw(st.integers(1, 12))
        walltime_s = max(1, duration_s + draw(st.sampled_from([0, 0, 1, 5])))
        jobs.append(NaiveJob(f"j{i}", time_s, duration_s, walltime_s, [gpus] * num_pods))
        cuts = draw(st.sets(st.integers(1, num_pods - 1), max_size=2)) if num_pods > 1 else ()
        bounds = [0, *sorted(cuts), num_pods]
        shares.append(tuple(hi - lo for lo, hi in pairwise(bounds)))
    return jobs, shares, num_nodes


def in_roles(job: NaiveJob, counts: tuple[int, ...]) -> Job:
    pod = PodShape(job.pods[0])
    roles = tuple(Role(count, pod, name=f"role{i}") for i, count in enumerate(counts))
    walltime_s = job.walltime_s
    return Job(job.name, job.submit_s, job.duration_s, roles, walltime_s, walltime_s)


@pytest.mark.parametrize("discipline", list(POLICIES))
@given(drawn=workloads())
@settings(max_examples=80, derandomize=True, deadline=None)
def test_gangs_in_several_roles_start_as_plain_ones(
    discipline: str, drawn: tuple[list[NaiveJob], list[tuple[int, ...]], int]
) -> None:
    jobs, shares, num_nodes = drawn
    NaiveGangs(jobs, [8] * num_nodes, discipline).run()
    policy, nodes = POLICIES[discipline], whole_nodes(num_nodes)
    plain = drive([in_roles(job, (len(job.pods),)) for job in jobs], nodes, policy)
    cut = drive([in_roles(job, of) for job, of in zip(jobs, shares, strict=True)], nodes, policy)
    assert {name: start.start_s for name, start in cut.items()} == {
        job.name: job.start_s for job in jobs
    }
    assert cut == plain, "on the same nodes, too"
