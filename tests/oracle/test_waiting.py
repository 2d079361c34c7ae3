"""How long a gang waits at most that asks for no more than its queue has, whatever others borrow.

The sum of all quotas is what the equal nodes have, gangs take whole nodes, and in the queues that
have quota no gang asks for more than that. With R the longest run time and G the longest grace of
a victim, a gang then starts within (n + 1) x (2R + G), where n counts the starts of gangs ahead of
it in its queue while it waits. For once the one before has started, all gangs of its queue that run
have ended within R. From then on the gang borrows nothing, so it comes before those that borrow and
keeps what comes free; and all that run then, or wait for victims to leave, end within R + G.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Quota, Victims, checked
from tests.oracle.drawn_worlds import whole_nodes
from tests.oracle.played import Asks, Played, World, check_all_ended

GPUS = 8
LONGEST_S = 12
GRACE_S = 3
ALL = (Flavor("all"),)


def greedy_world(seed: int, disciplines: Sequence[Holding]) -> World:
    """Return queues with quota of whole nodes, and one or two that only borrow, all they can."""
    draw = random.Random(seed)
    cohorts = [Cohort("root"), Cohort("left", "root"), Cohort("right", "root")]
    cohorts = [*cohorts, Cohort("inner", "left")][: draw.choice([1, 3, 4])]
    names = [cohort.name for cohort in cohorts]
    queues = []
    for name in "uvwx"[: draw.randint(1, 4)]:
        limits = (draw.choice([None, None, 0, GPUS]), draw.choice([None, None, 0, GPUS]))
        queues.append(
            Queue(
                name,
                draw.choice(names),
                quota={"all": {"gpus": Quota(draw.randint(1, 3) * GPUS, *limits)}},
                discipline=draw.choice(disciplines),
                reclaim=draw.choice([Victims.NEVER, Victims.ANY]),
            )
        )
    own = {queue.name: queue.quota["all"]["gpus"].nominal // GPUS for queue in queues}
    for name in "bc"[: draw.randint(1, 2)]:
        own[name] = 0
        discipline = draw.choice(list(Holding))
        quota = {"all": {"gpus": Quota(0)}}
        queues.append(Queue(name, draw.choice(names), quota=quota, discipline=discipline))
    num_nodes = sum(own.values())
    drawn: list[tuple[int, str, int, int]] = []
    for name, num in own.items():
        now_s = draw.randint(0, 5)
        while now_s < 100:
            lasts_s, size = draw.randint(1, LONGEST_S), draw.randint(1, num or num_nodes)
            drawn.append((now_s, name, lasts_s, size))
            now_s += draw.randint(0, 2 * lasts_s * size // num + 2 if num else 6)
    first = draw.choice([0, 0, 5])  # the priority of borrowers
    jobs = [
        Asks(
            f"{name}{at}",
            name,
            now_s,
            lasts_s,
            size,
            GPUS,
            0 if own[name] else first,
            grace_s=draw.choice([0, GRACE_S]),
        )
        for at, (now_s, name, lasts_s, size) in enumerate(sorted(drawn))
    ]
    file = checked(Queues(ALL, tuple(cohorts), tuple(queues)), "queues.toml")
    return World(whole_nodes(num_nodes, GPUS), file, jobs)


def check_waits(played: Played) -> None:
    """Check the wait of every gang of a queue with quota."""
    world = played.world
    most_s = 2 * world.longest_s + max(job.grace_s for job in world.jobs)
    place = {job.name: at for at, job in enumerate(world.jobs)}
    for queue in world.queues.queues:
        if not queue.quota["all"]["gpus"].nominal:
            continue
        mine = [job for job in world.jobs if job.queue == queue.name]
        for job in mine:
            start_s = played.starts[job.name][0]
            ahead = sum(
                job.submit_s <= at_s <= start_s
                for other in mine
                if place[other.name] < place[job.name]
                for at_s in played.starts[other.name]
            )
            waited_s = start_s - job.submit_s
            assert waited_s <= (ahead + 1) * most_s, f"{job} waited for {waited_s} s, {ahead} ahead"


@pytest.mark.parametrize("disciplines", [[Holding.STRICT], [Holding.EASY, Holding.STRICT]])
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=40)
def test_borrowers_do_not_make_a_gang_within_nominal_wait_for_long(
    seed: int, disciplines: list[Holding]
) -> None:
    played = Played(greedy_world(seed, disciplines), audit=False).run()
    check_all_ended(played)
    check_waits(played)


@pytest.mark.parametrize("discipline", [Holding.STRICT, Holding.EASY])
def test_a_backlog_of_another_queue_does_not_let_small_gangs_pass_a_head(
    discipline: Holding,
) -> None:
    """`large` needs all that its queue has, of which small ones of that queue always hold some.

    The other queue always has an older head, which lacks its own quota and has the promise.
    """
    quotas = {"mine": Quota(3 * GPUS), "other": Quota(2 * GPUS, borrow=0)}
    queues = tuple(
        Queue(name, "root", quota={"all": {"gpus": quota}}, discipline=discipline)
        for name, quota in quotas.items()
    )
    jobs = [
        *[Asks(f"other{at}", "other", 0, 11, 2, GPUS) for at in range(30)],
        Asks("small", "mine", 0, 10, 1, GPUS),
        Asks("large", "mine", 1, 10, 3, GPUS),
        *[Asks(f"small{at}", "mine", 5 * at, 10, 1, GPUS) for at in range(1, 60)],
    ]
    jobs.sort(key=lambda job: job.submit_s)
    world = World(whole_nodes(5, GPUS), Queues(ALL, (Cohort("root"),), queues), jobs)
    check_waits(Played(world).run())


def test_older_borrowers_do_not_take_what_the_own_gangs_of_a_head_give_back() -> None:
    """`large` would borrow while `small` runs; it keeps the rest against `old` all the same."""
    own = Queue("own", "root", quota={"all": {"gpus": Quota(3 * GPUS)}}, discipline=Holding.EASY)
    others = Queue("others", "root", quota={"all": {"gpus": Quota(0)}})
    jobs = [
        Asks("first", "own", 0, 10, 2, GPUS),
        Asks("small", "own", 0, 15, 1, GPUS),
        *[Asks(f"old{at}", "others", 1, 12, 1, GPUS) for at in range(4)],
        Asks("large", "own", 2, 10, 3, GPUS),
    ]
    file = Queues(ALL, (Cohort("root"),), (own, others))
    played = Played(World(whole_nodes(3, GPUS), file, jobs)).run()
    assert played.starts["large"] == [15]
