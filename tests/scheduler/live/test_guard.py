"""No failure in work that goes on for ever ends the process, and none is hidden."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scheduler.controller.metrics import Metrics
from scheduler.live import guard
from scheduler.live.guard import kept
from scheduler.live.service import Service
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.status.test_pages import service

OWN = {"labels": {"muster.dev/group": "g"}, "annotations": {"muster.dev/min-member": "1"}}


def failures(found: Metrics, work: str) -> float:
    return found.failures.labels(work=work)._value.get()


def test_work_that_fails_is_counted_and_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "FIRST_PAUSE_S", 0.0)
    metrics, tries = Metrics(), 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise [ValueError("odd"), RecursionError(), KeyError("name")][tries - 1]

    asyncio.run(asyncio.wait_for(kept("it", work, metrics.failures), 30.0))
    assert tries == 4
    assert failures(metrics, "it") == 3


@pytest.mark.parametrize("what", ["pending", "memory", "journal"])
def test_what_people_read_cannot_end_the_process(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(guard, "FIRST_PAUSE_S", 0.0)
    found = service(journal=str(tmp_path / "j.jsonl")) if what == "journal" else service()
    tries = 0

    async def fails(*_: object) -> None:
        fail()

    def fail(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise OverflowError("too many digits")

    if what == "pending":
        monkeypatch.setattr(found.tally, "settle", fails)
    elif what == "memory":
        monkeypatch.setattr(found.memory, "point", fail)
    else:
        monkeypatch.setattr(found.journal, "flush", fail)

    async def run(found: Service) -> None:
        async with asyncio.TaskGroup() as group:
            work = found._write_journal if what == "journal" else found._draw_curve
            found._keep(group, what, work)
            while tries < 3:
                await asyncio.sleep(0)
            for task in list(group._tasks):
                task.cancel()

    asyncio.run(asyncio.wait_for(run(found), 30.0))
    assert failures(found.metrics, what) >= 2


def test_a_muster_that_decides_nothing_is_not_called_healthy() -> None:
    found = service()
    control = found.controller
    control.active = True
    assert found.facts.alive() == (True, "ok")
    honest, found.ledger.ask = found.ledger.ask, lambda now_s: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    for _ in range(3):
        control.step()
    alive, said = found.facts.alive()
    assert not alive
    assert "last 3 steps failed" in said
    assert control.work.step_at_s < 10 + control.now_s(), "it tries again by itself"
    found.ledger.ask = honest  # type: ignore[method-assign]
    control.step()
    assert found.facts.alive() == (True, "ok")


def test_a_step_that_fails_outside_the_core_is_begun_anew() -> None:
    async def story(rig: Rig) -> None:
        rig.control._wake_refused = lambda now_s: 1 / 0  # type: ignore[method-assign,assignment]
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(rig.control.run(), 5.0)
        assert rig.control.num_failed == 1
        del rig.control._wake_refused
        rig.see(pod("a", **OWN))
        await rig.settle()
        assert set(rig.placed()) == {"a"}

    tried(story)
