"""Slots change by named steps alone; one that is none tells what led to it and harms no other."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.controller.slots import MOST_STEPS, IllegalStepError, Plan, Slot, SlotState
from scheduler.workloads.gangs import Rank
from tests.scheduler.controller.rig import Rig, pod, tried

RANK = Rank("worker", 3, "g-3")
STEPS: dict[str, Callable[[Slot, float], None]] = {
    "telling": lambda slot, now_s: slot.telling(now_s, "pinned"),
    "released": lambda slot, now_s: slot.released(now_s),
    "cleared": lambda slot, now_s: slot.cleared(now_s),
    "trusted": lambda slot, now_s: slot.trusted(now_s),
    "bound": lambda slot, now_s: slot.bound(now_s, slot.node),
    "vacated": lambda slot, now_s: slot.vacated(now_s),
    "filled": lambda slot, now_s: slot.filled(now_s, "anew", RANK),
    "ending": lambda slot, now_s: slot.ending(now_s),
    "stays": lambda slot, now_s: slot.stays(now_s),
    "gone": lambda slot, now_s: slot.gone(now_s, "given back"),
}
S = SlotState
#: where each step leads; what is not listed is illegal
LEADS: dict[tuple[SlotState, str], SlotState] = {
    (S.PLANNED, "telling"): S.TELLING,
    (S.PLANNED, "bound"): S.BOUND,
    (S.PLANNED, "vacated"): S.VACANT,
    (S.TELLING, "telling"): S.TELLING,
    (S.TELLING, "released"): S.RELEASED,
    (S.TELLING, "cleared"): S.PLANNED,
    (S.TELLING, "bound"): S.BOUND,
    (S.TELLING, "vacated"): S.VACANT,
    (S.RELEASED, "telling"): S.RELEASED,
    (S.RELEASED, "released"): S.RELEASED,
    (S.RELEASED, "cleared"): S.CLEARED,
    (S.RELEASED, "bound"): S.BOUND,
    (S.RELEASED, "vacated"): S.VACANT,
    (S.CLEARED, "telling"): S.RELEASED,
    (S.CLEARED, "trusted"): S.RELEASED,
    (S.CLEARED, "bound"): S.BOUND,
    (S.CLEARED, "vacated"): S.VACANT,
    (S.BOUND, "telling"): S.BOUND,
    (S.BOUND, "released"): S.BOUND,
    (S.BOUND, "bound"): S.BOUND,
    (S.BOUND, "vacated"): S.VACANT,
    (S.BOUND, "ending"): S.ENDING,
    (S.VACANT, "filled"): S.PLANNED,
    (S.ENDING, "bound"): S.ENDING,
    (S.ENDING, "stays"): S.BOUND,
    **{(state, "gone"): S.GONE for state in S if state is not S.GONE},
}


def slot(state: SlotState = S.PLANNED) -> Slot:
    made = Slot(RANK, "node-00001", "uid", Plan(1, 4), 1.0, state, "found there")
    if state is S.VACANT:
        made.uid = ""
    return made


@pytest.mark.parametrize(("state", "step"), list(itertools.product(S, STEPS)))
def test_every_step_leads_where_it_says_or_is_refused(state: SlotState, step: str) -> None:
    one = slot(state)
    to = LEADS.get((state, step))
    if to is not None:
        STEPS[step](one, 2.0)
        assert one.state is to
        return
    with pytest.raises(IllegalStepError, match=f"worker-3 on node-00001 is {state}"):
        STEPS[step](one, 2.0)
    assert one.state is state and len(one.story) == 1


def test_an_illegal_step_tells_the_story_that_led_there() -> None:
    one = slot()
    one.telling(2.0, "pinned")
    one.released(2.5)
    one.vacated(3.0)
    with pytest.raises(IllegalStepError) as error:
        one.ending(4.0)
    assert str(error.value) == (
        "slot of rank worker-3 on node-00001 is vacant and cannot be 'evicted with its gang'; "
        "its history: 1.000 s planned: found there; 2.000 s telling: pinned may bind it; 2.500 "
        "s released: the write succeeded; 3.000 s vacant: pod uid is gone"
    )


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=3 * MOST_STEPS))
def test_whatever_happens_a_slot_knows_its_pod_and_how_it_came_there(steps: list[str]) -> None:
    one = slot()
    for now_s, step in enumerate(steps, 2):
        before = one.state
        try:
            STEPS[step](one, float(now_s))
        except IllegalStepError:
            assert one.state is before
        assert one.story[-1].state is one.state
        assert len(one.story) <= MOST_STEPS
        assert bool(one.uid) == (one.state is not S.VACANT) or one.state is S.GONE
        assert one.is_held == (one.state not in (S.ENDING, S.GONE))
        assert not (one.is_bound and one.is_told)


def test_an_illegal_step_sets_its_gang_aside_and_the_others_go_on() -> None:
    async def story(rig: Rig) -> None:
        said = {"muster.dev/group": "odd", "muster.dev/min-member": "1"}
        one = pod("odd-0", annotations=said)
        rig.see(one)
        await rig.settle()
        (broken,) = rig.control.names["n/odd"].slots
        broken.state = S.ENDING  # as no code of muster does
        rig.lose(one)
        rig.see(pod("odd-0", annotations=said, uid="anew"))
        broken.state = S.GONE
        await rig.settle()
        assert "muster fails on it (IllegalStepError: slot of rank" in rig.problem("n/odd")
        assert "its history: " in rig.problem("n/odd")
        assert [reason for reason, _ in rig.events()] == ["NotUnderstood"]
        assert rig.control.metrics.set_aside.labels(where="mend")._value.get() == 1
        rig.see(pod("fine-0", annotations={"muster.dev/group": "fine"}, gpus=1))
        rig.see(pod("fine-1", annotations={**said, "muster.dev/group": "fine-too"}))
        await rig.settle()
        assert "fine-1" in rig.placed()

    tried(story)
