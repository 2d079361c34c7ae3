"""Random worlds of queues: small enough to play hundreds of them in seconds."""

from __future__ import annotations

import random

from scheduler.core.model import Node, PodShape
from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Preference,
    Queue,
    Queues,
    Quota,
    Quotas,
    Search,
    ShareRule,
    Sharing,
    Victims,
    checked,
)
from tests.oracle.played import Asks, World

NEWER = Victims.LOWER_OR_NEWER_EQUAL_PRIORITY
WITHIN = (Victims.NEVER, Victims.LOWER_PRIORITY, NEWER, NEWER)
RECLAIM = (Victims.NEVER, Victims.LOWER_PRIORITY, Victims.ANY, Victims.ANY)
SHARES = ((), (ShareRule.FINAL,), (ShareRule.INITIAL,), (ShareRule.FINAL, ShareRule.INITIAL))


def whole_nodes(count: int, gpus: int = 8, model: str = "") -> list[Node]:
    """Return equal nodes."""
    return [Node(f"{model or 'n'}{i}", PodShape(gpus), "", model) for i in range(count)]


def random_world(
    seed: int,
    *,
    evicts: bool = True,
    easy: bool = True,
    outages: bool = True,
    whole_nodes_only: bool = False,
) -> World:
    """Return a crowded world of one to twelve nodes in up to two flavors, and two to six queues.

    In some all queues are equal, and evict whom they may; in some gangs come in whole nodes.
    """
    draw = random.Random(seed)
    is_fierce, is_equal, is_whole = (draw.random() < 0.3 for _ in range(3))
    is_whole |= whole_nodes_only
    models = ["a", "h"] if draw.random() < 0.4 else [""]
    gpus = draw.choice([4, 8])
    nodes = [n for model in models for n in whole_nodes(draw.randint(1, 6), gpus, model)]
    cohorts = [Cohort("root")]
    if draw.random() < 0.6:
        cohorts += [Cohort("left", "root"), Cohort("right", draw.choice(["", "root", "left"]))]

    def quotas(parent: str) -> Quotas:
        found: Quotas = {}
        for model in draw.sample(models, draw.randint(1, len(models))):
            own = 2 * gpus if is_equal else draw.choice([0, gpus // 2, gpus, 2 * gpus])
            quota = Quota(own)
            if parent and not is_equal:
                quota.borrow = draw.choice([None, None, None, 0, 4])
                quota.lend = draw.choice([None, None, None, 0, own // 2])
            found[model or "all"] = {"gpus": quota}
        return found

    queues = []
    for name in "uvwxyz"[: draw.randint(2, 6)]:
        cohort = draw.choice([*(each.name for each in cohorts), "root", "root" if is_equal else ""])
        queue = Queue(
            name,
            cohort,
            1.0 if is_equal else draw.choice([0.0, 1.0, 1.0, 2.0]),
            quotas(cohort),
            discipline=draw.choice(list(Holding) if easy else [Holding.STRICT, Holding.SKIP]),
            when_can_borrow=draw.choice(list(Search)),
            when_can_preempt=draw.choice(list(Search)),
            preference=draw.choice(list(Preference)),
        )
        if evicts:
            queue.within = NEWER if is_fierce else draw.choice(WITHIN)
            queue.reclaim = Victims.ANY if is_fierce else draw.choice(RECLAIM)
            if queue.reclaim is not Victims.NEVER:
                queue.borrow_within = draw.choice([Victims.NEVER, Victims.LOWER_PRIORITY])
            queue.min_runtime_s = draw.choice([0.0, 0.0, 0.0, 7.0])
        queues.append(queue)
    sharing = Sharing(victims=draw.choice(SHARES))
    flavors = tuple(Flavor(model or "all", gpu_model=model) for model in models)
    file = checked(Queues(flavors, tuple(cohorts), tuple(queues), {}, sharing), "queues.toml")
    jobs = random_jobs(draw, file, models, gpus, is_fierce=is_fierce, is_whole=is_whole)
    away = [(draw.randint(1, 60), draw.randint(1, 20), draw.choice(nodes).name) for _ in range(2)]
    if not outages or draw.random() < 0.6 or away[0][2] == away[1][2]:
        away = []
    return World(nodes, file, jobs, [(at, at + lasts, node) for at, lasts, node in away])


def random_jobs(
    draw: random.Random,
    file: Queues,
    models: list[str],
    gpus: int,
    *,
    is_fierce: bool,
    is_whole: bool,
) -> list[Asks]:
    """Return jobs of all queues, most of which are never idle."""
    priorities = draw.choice([[0], [0, 0, 1], [0, 1, 2]])
    graces = draw.choice([[0], [0, 3, 10], [10]])
    is_stuck = draw.random() < 0.15
    jobs: list[Asks] = []
    now_s = 0
    for number in range(draw.randint(10, 30)):
        now_s += draw.choice([0, 0, 1, 3] if is_fierce else [0, 0, 1, 3, 8])
        duration_s = draw.choice([20, 30, 60] if is_fierce else [1, 5, 10, 30])
        jobs.append(
            Asks(
                f"j{number}",
                draw.choice(file.queues).name,
                now_s,
                duration_s,
                draw.randint(1, 4),
                gpus if is_whole else draw.choice([1, 2, gpus // 2, gpus]),
                draw.choice(priorities),
                duration_s + draw.choice([0, 0, 5]),
                draw.choice(graces),
                draw.choice([*models, ""]),
                is_stuck and draw.random() < 0.2,
            )
        )
    return jobs
