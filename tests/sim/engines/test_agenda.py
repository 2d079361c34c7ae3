"""The clock of gang mode, and that a run leaves nothing to the collector of cycles."""

from __future__ import annotations

import gc

import pytest

from scheduler.policies import catalog
from sim.engines.agenda import Agenda
from sim.engines.gangs import GangSimulation
from sim.engines.workload import Workload
from sim.schema import planes
from sim.schema.cluster import Cluster
from sim.schema.config import RunConfig
from traces.synthetic import generate


def test_acts_come_by_time_then_urgency_then_in_the_order_noted() -> None:
    agenda = Agenda()
    seen: list[tuple[int, object]] = []

    def act(value: object) -> None:
        seen.append((agenda.now_us, value))
        if value == "b":
            agenda.at(3, act, "in the past")
            agenda.at(7, act, "again")

    agenda.at(7, act, "c")
    agenda.at(5, act, "a")
    agenda.at(5, act, "b")
    agenda.at(7, act, "urgent", urgent=True)
    assert agenda.next_us() == 5
    agenda.run()
    assert seen == [
        (5, "a"),
        (5, "b"),
        (5, "in the past"),
        (7, "urgent"),
        (7, "c"),
        (7, "again"),
    ]
    assert agenda.now_us == 7


def test_a_series_takes_its_turn_among_the_others() -> None:
    agenda = Agenda()
    seen: list[tuple[int, object]] = []
    times_us = [2, 4, 4, 9]

    def act(value: object) -> None:
        seen.append((agenda.now_us, value))

    def arrive(_: object) -> None:
        act("arrival")
        agenda.at(agenda.now_us, act, "noted before the next one")
        if times_us:
            agenda.at_next(times_us.pop(0), arrive)

    agenda.at(4, act, "early")
    agenda.at_next(times_us.pop(0), arrive)
    assert agenda.next_us() == 2
    agenda.run(9)
    assert agenda.next_us() == 9
    agenda.run()
    assert seen == [
        (2, "arrival"),
        (2, "noted before the next one"),
        (4, "early"),
        (4, "arrival"),
        (4, "noted before the next one"),
        (4, "arrival"),
        (4, "noted before the next one"),
        (9, "arrival"),
        (9, "noted before the next one"),
    ]


def test_a_run_until_a_time_leaves_what_is_due_then() -> None:
    agenda = Agenda()
    seen: list[object] = []
    for time_us in (1, 4, 5):
        agenda.at(time_us, seen.append, time_us)
    agenda.run(4)
    assert seen == [1]
    assert agenda.now_us == 4
    agenda.run()
    assert seen == [1, 4, 5]


def test_the_end_lets_the_present_instant_happen() -> None:
    agenda = Agenda()
    seen: list[object] = []

    def end(value: object) -> None:
        seen.append(value)
        agenda.end()

    agenda.at(2, end, "ends")
    agenda.at(2, seen.append, "same instant")
    agenda.at(3, seen.append, "later")
    agenda.run()
    assert seen == ["ends", "same instant"]
    assert agenda.now_us == 2


def test_the_collector_pauses_only_during_a_run() -> None:
    agenda = Agenda()
    during: list[object] = []

    def fails(_: object) -> None:
        during.append(gc.isenabled())
        raise ValueError("as it must")

    agenda.at(1, fails)
    with pytest.raises(ValueError, match="as it must"):
        agenda.run()
    assert during == [False]
    assert gc.isenabled()


@pytest.mark.parametrize("backfill", ["none", "easy"])
def test_a_run_makes_no_cycles(backfill: str) -> None:
    work = Workload(generate("openai_like", num_gpus=400, days=3.0, load=1.1, seed=0))
    config = RunConfig(
        policy=catalog.read({"backfill": backfill}), control_plane=planes.load("kubernetes")
    )
    simulation = GangSimulation(work, Cluster.uniform(50, 8).build(), config, [])
    gc.collect()
    gc.disable()
    try:
        simulation.simulate()
        left = gc.collect()
    finally:
        gc.enable()
    assert work.num_jobs > 300
    assert left < 50, "each gang or pass must not leave any; these stay in memory until the end"
