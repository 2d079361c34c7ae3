"""60 teams that share a cluster, for the rows about queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench import workloads

if TYPE_CHECKING:
    from scheduler.core.queues import Queues

#: three levels: the company, its departments, their teams
NUM_TEAMS, NUM_DEPARTMENTS = 60, 10
PRIORITIES, PRIORITY_SHARES = (0, 100, 1000), (0.6, 0.3, 0.1)


def company(num_gpus: int, discipline: str) -> Queues:
    """Return the queues of all teams: equal quota, all of it lent, evicting whom they may."""
    from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Quota, Victims

    each, rest = divmod(num_gpus, NUM_TEAMS)
    departments = tuple(Cohort(f"dept-{at}", "company") for at in range(NUM_DEPARTMENTS))
    teams = tuple(
        Queue(
            team(at),
            f"dept-{at % NUM_DEPARTMENTS}",
            quota={"all": {"gpus": Quota(each + (at < rest))}},
            discipline=Holding(discipline),
            within=Victims.LOWER_PRIORITY,
            reclaim=Victims.ANY,
        )
        for at in range(NUM_TEAMS)
    )
    return Queues((Flavor("all"),), (Cohort("company"), *departments), teams)


def team(at: int) -> str:
    """Return the name of a team."""
    return f"team-{at:02d}"


def with_teams(jobs: Any) -> Any:
    """Give each campaign of a jobs table a team, and each job a priority.

    Teams are of unequal size, so that some borrow all the time and others want theirs back.
    """
    import numpy as np

    draw = np.random.default_rng(workloads.SEED)
    weight = 1.0 / np.arange(5, 5 + NUM_TEAMS)
    campaign = jobs["user"].astype("category").cat.codes.to_numpy()
    chosen = draw.choice(NUM_TEAMS, campaign.max() + 1, p=weight / weight.sum())
    names = np.array([team(at) for at in range(NUM_TEAMS)])
    priority = draw.choice(PRIORITIES, len(jobs), p=PRIORITY_SHARES).astype("int32")
    return jobs.assign(queue=names[chosen[campaign]], priority=priority)
