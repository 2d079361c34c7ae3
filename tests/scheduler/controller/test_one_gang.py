"""A gang is one gang of the core through its whole life, and for the next muster, too."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from scheduler.controller.slots import SlotState
from scheduler.core.events import (
    Admitted,
    CheckpointSaved,
    GangCancelled,
    GangResized,
    GangSubmitted,
    MemberAppeared,
    MemberLost,
)
from scheduler.core.model import Phase
from scheduler.core.queueing import GangState
from scheduler.kube.objects import SAVED, Pod
from scheduler.kube.watch import Change
from tests.scheduler.controller.rig import Rig, pod, tried

REPAIR_S = 60.0


def rank(number: int, least: int = 3, life: int = 0, **more: Any) -> Pod:
    """Return one rank of the gang `g`, in one of its lives; it fills a node."""
    said = {"muster.dev/group": "g", "muster.dev/min-member": str(least)}
    said |= more.pop("annotations", {})
    labels = {"training.kubeflow.org/replica-index": str(number)}
    return pod(f"g-{number}", annotations=said, labels=labels, uid=f"g-{number}-{life}", **more)


def rival(number: int = 0, **more: Any) -> Pod:
    """Return a gang of one pod that wants a whole node."""
    said = {"muster.dev/group": f"r{number}", "muster.dev/min-member": "1"}
    return pod(f"r-{number}", annotations=said, **more)


class Told:
    """What the core was told of the gang, since the last question."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._plain, self._items = rig, rig.ledger.record, []
        rig.ledger.record = self._record

    def _record(self, now_s: float, item: Any) -> None:
        self._plain(now_s, item)
        gang = getattr(item, "gang", None)
        if getattr(gang, "name", gang) == "n/g":
            self._items.append(item)

    def kinds(self) -> list[type]:
        """Return the kinds of events, in order."""
        found, self._items = self._items, []
        return [type(item) for item in found if type(item).__name__ not in ("Admit", "Wait")]


def core(rig: Rig) -> GangState:
    """Return the core's gang, of which there is one."""
    assert [name for name in rig.ledger.state.gangs if name.startswith("n/g")] == ["n/g"]
    return rig.ledger.state.gangs["n/g"]


def held(rig: Rig) -> int:
    return sum(piece.num_pods for piece in core(rig).held)


def missing(rig: Rig) -> int:
    return sum(role.count for role in core(rig).missing)


async def running(rig: Rig, size: int = 3) -> list[Pod]:
    """Return the gang, started and bound as planned."""
    rig.see(*(rank(i, size) for i in range(size)))
    await rig.settle()
    nodes = rig.placed()
    pods = [rank(i, size, node=nodes[f"g-{i}"]) for i in range(size)]
    rig.see(*pods)
    await rig.pass_s(1.0)
    return pods


# -- one life ------------------------------------------------------------------------------------


def test_pods_that_come_one_after_the_other_appear_in_one_gang() -> None:
    async def story(rig: Rig) -> None:
        told = Told(rig)
        rig.see(rank(0))
        await rig.settle()
        assert core(rig).phase is Phase.GATHERING and core(rig).present == 1
        rig.see(rank(1))
        await rig.settle()
        assert told.kinds() == [GangSubmitted, MemberAppeared]
        rig.see(rank(2))
        await rig.settle()
        assert told.kinds() == [MemberAppeared, Admitted]
        assert (held(rig), missing(rig)) == (3, 0)

    tried(story)


def test_a_pod_that_goes_before_the_others_come_is_not_counted() -> None:
    async def story(rig: Rig) -> None:
        rig.see(rank(0), rank(1))
        await rig.settle()
        rig.lose(rank(1))
        rig.see(rank(2))
        await rig.settle()
        assert (core(rig).present, core(rig).phase) == (2, Phase.GATHERING)
        assert rig.placed() == {}

    tried(story)


def test_a_lost_rank_is_missing_in_its_gang_and_comes_back_at_the_gangs_old_place() -> None:
    """Its node is kept, given back after a while, and taken by another; then another ends."""

    async def story(rig: Rig) -> None:
        pods = await running(rig)
        admitted_us = core(rig).admitted_us
        rig.see(rival(0), rival(1))
        await rig.settle()
        told = Told(rig)
        rig.lose(pods[1])
        rig.control.mending._judge = lambda *_: None  # nobody is evicted here
        await rig.pass_s(1.0)
        assert held(rig) == 3 and told.kinds() == [], "the node is kept for its successor"
        await rig.pass_s(REPAIR_S)
        assert told.kinds() == [MemberLost, GangResized]
        assert (held(rig), missing(rig)) == (2, 0)
        assert set(rig.placed()) == {"g-0", "g-1", "g-2", "r-0"}
        rig.see(rank(1, life=1))
        await rig.settle()
        assert told.kinds() == [GangResized]
        assert (held(rig), missing(rig)) == (2, 1)
        assert [m.gang.name for m in rig.ledger.state.queue.in_order()] == ["n/g", "n/r1"]
        rig.lose(rival(0))
        await rig.settle()
        assert told.kinds() == [Admitted]
        assert (held(rig), missing(rig)) == (3, 0)
        assert core(rig).admitted_us == admitted_us, "it ran all the time"
        assert "r-1" not in rig.placed()

    tried(story, nodes=3)


def test_two_lost_ranks_wait_until_both_are_there() -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig)
        rig.control.mending._judge = lambda *_: None
        rig.lose(*pods[1:])
        await rig.pass_s(1.0)
        await rig.pass_s(REPAIR_S)
        rig.see(rank(1, life=1))
        await rig.settle()
        assert (held(rig), missing(rig), core(rig).phase) == (1, 2, Phase.GATHERING)
        rig.see(rank(2, life=1))
        await rig.settle()
        assert (held(rig), missing(rig), core(rig).phase) == (3, 0, Phase.RUNNING)

    tried(story, nodes=3)


def test_pods_beyond_the_minimum_join_their_gang_one_by_one_as_there_is_room() -> None:
    async def story(rig: Rig) -> None:
        told = Told(rig)
        pods = [rank(i, 1) for i in range(5)]
        rig.see(*pods)
        await rig.settle()
        assert set(rig.placed()) == {"g-0", "g-1", "g-2"}
        assert (held(rig), missing(rig)) == (3, 1), "one asks, the next after it"
        assert told.kinds() == [GangSubmitted, Admitted] + 2 * [GangResized, Admitted] + [
            GangResized
        ]
        assert [plan.unit for plan in rig.records_written()] == ["n/g"]
        rig.see(*(rank(i, 1, node=rig.placed()[f"g-{i}"]) for i in range(3)))
        rig.lose(rank(0, 1))
        await rig.settle()
        await rig.pass_s(REPAIR_S)
        assert set(rig.placed()) == {"g-0", "g-1", "g-2", "g-3"}

    tried(story, nodes=3)


def test_pods_of_several_shapes_are_one_gang_whatever_their_order() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(rank(i, 4, gpus=(2, 8, 2, 8)[i]) for i in (3, 2, 1)))
        await rig.settle()
        assert core(rig).phase is Phase.GATHERING
        rig.see(rank(0, 4, gpus=2))
        await rig.settle()
        assert sorted((r.count, r.pod.gpus) for r in core(rig).gang.roles) == [(2, 2), (2, 8)]
        assert len(rig.placed()) == 4

    tried(story, nodes=3)


def test_what_still_ends_of_an_evicted_gang_is_in_the_way_as_any_pod() -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig)
        told = Told(rig)
        rig.lose(pods[1])
        await rig.pass_s(1.0)
        await rig.pass_s(REPAIR_S + 1.0)
        assert sorted(rig.evicted()) == ["g-0", "g-2"]
        assert told.kinds()[-1] is GangCancelled, "it holds nothing, and asks for nothing yet"
        free = rig.ledger.state.capacity.free_on_each()
        assert sorted(each.gpus for each in free) == [0, 0, 8]
        rig.see(*(rank(i, life=1) for i in range(3)))
        await rig.settle()
        assert (missing(rig), core(rig).phase) == (3, Phase.WAITING), "it is no larger than it was"
        rig.lose(pods[0], pods[2])
        rig.api.requests.clear()
        await rig.settle()
        assert len(set(rig.placed().values())) == 3

    tried(story, nodes=3)


def test_a_gang_is_admitted_when_it_is_however_often_it_was_looked_at_before() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(rival(i, node=f"node-0000{i}") for i in range(3)))
        rig.see(*(rank(i) for i in range(3)))
        for _ in range(3):
            await rig.pass_s(10.0)
            rig.control.work.touch(rig.control.names["n/g"].key)
        rig.lose(*(rival(i) for i in range(3)))
        await rig.settle()
        gang = rig.control.names["n/g"]
        assert gang.admitted_s == rig.control.now_s() == core(rig).admitted_us / 1e6
        await rig.pass_s(5.0)
        rig.ledger.begin_anew()
        await rig.settle()
        assert core(rig).admitted_us / 1e6 == gang.admitted_s == rig.control.now_s() - 5.0

    tried(story, nodes=3)


# -- what is saved -------------------------------------------------------------------------------


def saved(one: Pod, *, text: str) -> Pod:
    """Return the pod with what its trainer says of its last checkpoint."""
    meta = one.metadata
    said = {**meta.annotations, SAVED: text}
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(meta, annotations=said))


def at(rig: Rig, now_s: float) -> str:
    """Return a time of RFC 3339 by the rig's clock, in whole milliseconds."""
    from datetime import UTC, datetime

    unix_s = rig.control.zero_unix_s + now_s
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")


def test_the_latest_time_that_pods_of_a_gang_say_is_what_it_saved() -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig)
        told = Told(rig)
        await rig.pass_s(100.0)
        rig.see(saved(pods[0], text=at(rig, 50.0)))
        await rig.settle()
        rig.see(saved(pods[1], text=at(rig, 70.0)), saved(pods[2], text=at(rig, 60.0)))
        await rig.settle()
        assert told.kinds() == [CheckpointSaved, CheckpointSaved]
        assert core(rig).saved_us == pytest.approx(70e6, abs=1e3)
        rig.see(saved(pods[1], text=at(rig, 40.0)))
        await rig.settle()
        assert core(rig).saved_us == pytest.approx(70e6, abs=1e3), "nothing is unsaved by it"
        rig.ledger.begin_anew()
        await rig.settle()
        assert core(rig).saved_us == pytest.approx(70e6, abs=1e3)

    tried(story)


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-01-01", "2026-01-01T00:00:00", "-1", "9999-12-31T23:59:59Z"]
)
def test_what_is_no_time_since_the_admission_is_not_believed(text: str) -> None:
    async def story(rig: Rig) -> None:
        rig.clock_s += 10.0
        pods = await running(rig)
        await rig.pass_s(5.0)
        never_us = core(rig).saved_us
        for said in (text, at(rig, 3.0), at(rig, 1000.0)):
            rig.see(saved(pods[0], text=said))
            await rig.settle()
            assert core(rig).saved_us == never_us, said

    tried(story)


# -- the next muster -----------------------------------------------------------------------------


class Stops:
    """An API server that does not answer the requests after the first so many to pods."""

    def __init__(self, rig: Rig, answers: int) -> None:
        plain, self.left = rig.api.call, answers

        async def call(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if "/pods/" in path:
                if not self.left:
                    await asyncio.Future()
                self.left -= 1
            return await plain(method, path, body, **more)

        rig.api.call = rig.api.persist = call  # type: ignore[method-assign]


@pytest.mark.parametrize("num_told", range(4))
def test_a_plan_that_was_half_carried_out_is_gone_on_with(num_told: int) -> None:
    async def story(rig: Rig) -> None:
        Stops(rig, num_told)
        rig.see(*(rank(i) for i in range(3)))
        rig.control.step()
        for _ in range(100):
            await asyncio.sleep(0)
        (plan,) = rig.records_written()
        assert sum(not one.gated for one in rig.pods_written()) == num_told
        anew = rig.restarted()
        anew.see(rival())  # who would like the nodes
        await anew.settle()
        assert (held(anew), missing(anew)) == (3, 0)
        promised = {slot.pod: slot.node for slot in plan.slots}
        assert {**rig.placed(), **anew.placed()}.items() >= promised.items()
        assert len(anew.placed()) == 3 - num_told
        assert not anew.deleted() and not anew.evicted()
        anew.see(*(rank(i, node=promised[f"g-{i}"]) for i in range(3)))
        await anew.settle()
        assert not anew.records_written() and not core(anew).missing
        anew.replay()

    tried(story, nodes=3)


@pytest.mark.parametrize("record", ["the gang's", "as earlier versions wrote it", "none"])
def test_pods_that_were_told_keep_their_nodes_whatever_is_on_record(record: str) -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(rank(i, 2) for i in range(2)))
        await rig.settle()
        nodes = rig.placed()
        rig.see(*(rank(i, 2, node=nodes[f"g-{i}"]) for i in range(2)))
        await rig.settle()
        rig.see(rank(2, 2))
        await rig.settle()
        nodes = rig.placed()
        anew = rig.restarted()
        ((plan,),) = anew.control.old_plans.values()
        if record == "none":
            anew.control.old_plans.clear()
        elif record != "the gang's":
            alone = [slot for slot in plan.slots if slot.pod == "g-2"]
            old = msgspec.structs.replace(plan, unit="n/g+1", generation=1, slots=alone)
            anew.control.old_plans.clear()
            anew.found(old)
        anew.see(rival())
        await anew.settle()
        assert (held(anew), missing(anew)) == (3, 0)
        assert anew.control.slot_of["g-2-0"][1].node == nodes["g-2"]
        assert not anew.deleted() and not anew.evicted() and "g-2" not in anew.placed()
        anew.see(rank(2, 2, node=nodes["g-2"]))
        await anew.settle()
        assert core(anew).phase is Phase.RUNNING and not core(anew).missing
        anew.replay()

    tried(story, nodes=3)


def test_records_of_an_earlier_version_are_erased_once_what_they_say_is_written_down() -> None:
    """A minimum of one, and a pod beyond it: two plans of which nobody was told."""

    async def story(rig: Rig) -> None:
        Stops(rig, 0)
        rig.see(rank(0, 1), rank(1, 1))
        rig.control.step()
        for _ in range(100):
            await asyncio.sleep(0)
        anew = rig.restarted()
        ((plan,),) = anew.control.old_plans.values()
        (slot,) = plan.slots
        other = msgspec.structs.replace(slot, number=1, pod="g-1", node="node-00002", uid="g-1-0")
        second = msgspec.structs.replace(plan, unit="n/g+1", slots=[other])
        anew.found(second)
        await anew.settle()
        assert anew.placed() == {"g-0": slot.node, "g-1": "node-00002"}
        written = [(m, p.rpartition("/")[2][:12]) for m, p, _ in anew.api.requests]
        assert written.index(("PATCH", "muster-plan-")) < written.index(("DELETE", "muster-plan-"))
        assert [plan.unit for plan in anew.records_written()] == ["n/g"]
        assert held(anew) == 2

    tried(story, nodes=3)


@pytest.mark.parametrize("moment", ["waits", "gathers", "runs", "runs in part", "lost a rank"])
def test_the_next_muster_has_the_same_one_gang(moment: str) -> None:
    async def story(rig: Rig) -> None:
        if moment == "waits":
            rig.see(*(rival(i, node=f"node-0000{i}") for i in range(3)))
        if moment in ("waits", "gathers"):
            rig.see(*(rank(i) for i in range(3 if moment == "waits" else 2)))
        else:
            pods = await running(rig)
            rig.see(rival(9))
            if moment == "lost a rank":
                rig.lose(pods[2])
            if moment == "runs in part":
                rig.see(msgspec.structs.replace(pods[2], spec=rank(2).spec))
        await rig.settle()
        before = core(rig)
        anew = rig.restarted()
        await anew.settle()
        after = core(anew)
        assert not anew.evicted() and not anew.deleted()
        assert (held(anew), after.missing) == (held(rig), before.missing)
        assert after.phase is before.phase
        anew.replay()

    tried(story, nodes=3)


def test_the_next_muster_knows_since_when_a_gang_runs_and_what_it_saved() -> None:
    async def story(rig: Rig) -> None:
        rig.clock_s += 1000.0
        since = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(rig, 900.0)}
        for number in range(2):
            one = msgspec.to_builtins(rank(number, 2, node=f"node-0000{number}"))
            one["status"]["conditions"] = [since]
            rig.see(saved(msgspec.convert(one, Pod), text=at(rig, 950.0)))
        await rig.settle()
        assert core(rig).admitted_us == pytest.approx(900e6, abs=1e3)
        assert core(rig).saved_us == pytest.approx(950e6, abs=1e3)

    tried(story)


def test_a_lost_node_is_no_loss_of_its_gang() -> None:
    """The core's state is made anew without it; the gang holds the rest, and is whole again."""

    async def story(rig: Rig) -> None:
        pods = await running(rig)
        name = pods[1].spec.node_name
        rig.node(int(name[-5:]), change=Change.DELETED)
        await rig.settle()
        assert (held(rig), missing(rig)) == (2, 0)
        rig.lose(pods[1])
        rig.see(rank(1, life=1))
        await rig.settle()
        assert (held(rig), missing(rig)) == (3, 0)
        states = {slot.state for slot in rig.control.names["n/g"].slots}
        assert states == {SlotState.BOUND, SlotState.RELEASED}

    tried(story)
