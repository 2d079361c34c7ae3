"""A head that no end of gangs makes room for lets others pass, and comes back. Facts alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec
import pytest

from scheduler.controller import standing
from scheduler.controller.standing import Standing
from scheduler.controlplane.objects import node as played
from scheduler.core.model import Gang, Node, NodeStatus, Phase, PodShape, Role, Selector
from scheduler.core.placement import pack
from scheduler.core.queueing import Family, GangState
from scheduler.kube.objects import NodeObject, Pod
from scheduler.kube.watch import Change
from scheduler.status.status import explain, view
from tests.scheduler.controller.rig import Rig, pod, tried

HOST = "kubernetes.io/hostname"
SAID_H = {"muster.dev/group": "h", "muster.dev/min-member": "4"}


def lone(name: str, gpus: int = 8, at: str = "00", cpu: str = "", **spec: Any) -> Pod:
    """Return a pod that is a gang of its own, created at a second of one minute."""
    said = {"muster.dev/group": name, "muster.dev/min-member": "1"}
    made = pod(name, annotations=said, gpus=gpus, **spec)
    made.metadata.creation_timestamp = f"2026-01-01T00:00:{at}Z"
    if cpu:
        made.spec.containers[0].resources.requests = {"cpu": cpu}
    return made


def node(rig: Rig, number: int, *, cordoned: bool = False, ready: bool = True, **more: Any) -> None:
    """Tell of a node with its name as a label."""
    item = played(number, 8)
    item["metadata"].setdefault("labels", {})[HOST] = item["metadata"]["name"]
    item["spec"] = {"unschedulable": cordoned}
    item["status"]["conditions"] = [{"type": "Ready", "status": "True" if ready else "Unknown"}]
    item["status"]["allocatable"] |= more
    rig.control.on_node(Change.MODIFIED, msgspec.convert(item, NodeObject))


def daemon(number: int, cpu: str = "100m", ending: bool = False, **spec: Any) -> Pod:
    """Return a pod of a DaemonSet on a node."""
    where = f"node-{number:05d}"
    made = pod(f"daemon-{number}", node=where, gpus=0, owner=("DaemonSet", "d", "uid-d"), **spec)
    made.spec.containers[0].resources.requests = {"cpu": cpu}
    if ending:
        gone = datetime.now(UTC) + timedelta(seconds=20)
        made.metadata.deletion_timestamp = gone.isoformat(timespec="seconds")
    return made


async def wait_behind_big(rig: Rig) -> None:
    """Let a gang run on one node, one that needs all four wait for it, and a later one behind."""
    rig.see(lone("runs"))
    await rig.settle()
    rig.see(lone("runs", node=rig.placed()["runs"]))
    said = {"muster.dev/group": "big", "muster.dev/min-member": "4"}
    rig.see(*(pod(f"big-{n}", annotations=said, gpus=8) for n in range(4)))
    late = lone("late")
    late.metadata.creation_timestamp = "2026-01-02T00:00:00Z"
    rig.see(late)


def text(rig: Rig, gang: str) -> str:
    return view(rig.control.names[f"n/{gang}"], rig.ledger, rig.control.now_s()).text


@pytest.mark.parametrize("closed", [{"cordoned": True}, {"ready": False}], ids=["cordoned", "lost"])
def test_a_pod_for_a_closed_node_blocks_nobody_and_goes_there_once_it_opens(
    closed: dict[str, bool],
) -> None:
    async def story(rig: Rig) -> None:
        for number in range(4):
            node(rig, number)
        node(rig, 0, **closed)
        rig.see(lone("bad", 0, nodeSelector={HOST: "node-00000"}))
        await rig.settle()
        rig.see(lone("b", at="01"), lone("c", at="02"))
        await rig.settle()
        assert set(rig.placed()) == {"b", "c"}
        assert rig.ledger.state.gangs["n/bad"].phase is Phase.ASIDE
        word = "cordoned" if "cordoned" in closed else "not ready"
        assert f"no node that it may use takes pods: node-00000 is {word}" in text(rig, "bad")
        assert "others may pass it" in text(rig, "bad")
        seen = explain(rig.control.names["n/bad"], rig.ledger, rig.control.now_s())
        assert seen.aside and any("node-00000" in line for line in seen.advice)
        node(rig, 0)
        await rig.settle()
        assert rig.placed()["bad"] == "node-00000"
        assert len([p for m, p, _ in rig.api.requests if m == "PATCH" and p.endswith("bad")]) == 1

    tried(story)


def test_what_daemons_leave_on_each_node_counts() -> None:
    """All of a node's CPUs, of which a DaemonSet has a tenth of one everywhere."""

    async def story(rig: Rig) -> None:
        for number in range(4):
            node(rig, number, cpu="96")
        rig.see(*(daemon(number) for number in range(4)))
        rig.see(lone("mistake", cpu="96"), lone("b", at="01"))
        await rig.settle()
        assert set(rig.placed()) == {"b"}
        said = (
            "the 4 nodes that it may use hold 0 of its 1 pods beside the pods that belong to no "
            "gang"
        )
        assert said in text(rig, "mistake")
        rig.lose(daemon(3))
        await rig.settle()
        assert rig.placed()["mistake"] == "node-00003"

    tried(story)


def test_pods_that_are_about_to_end_are_waited_for() -> None:
    async def story(rig: Rig) -> None:
        for number in range(2):
            node(rig, number, cpu="96")
        rig.see(daemon(0, ending=True), daemon(1, ending=True))
        rig.see(lone("first", cpu="96"), lone("b", at="01"))
        await rig.settle()
        assert rig.placed() == {}, "b behind the head"
        rig.lose(daemon(1))
        await rig.settle()
        assert rig.placed()["first"] == "node-00001"

    tried(story, nodes=2)


def test_a_pod_that_should_be_gone_and_is_not_is_waited_for_no_longer() -> None:
    async def story(rig: Rig) -> None:
        node(rig, 0, cpu="96")
        node(rig, 1, cpu="95")
        rig.see(daemon(0, ending=True))
        rig.see(lone("first", cpu="96"), lone("b", cpu="95", at="01"))
        await rig.settle()
        assert rig.placed() == {}
        await rig.pass_s(51.0)  # its 20 s, and the time to bind
        assert rig.placed() == {}
        await rig.pass_s(30.0)
        assert set(rig.placed()) == {"b"}

    tried(story, nodes=2)


def test_a_grace_period_is_waited_for_no_longer_than_a_bind_whatever_it_says() -> None:
    """Whoever deletes a pod may give it ten years, and may change it as often as they like."""

    async def story(rig: Rig) -> None:
        node(rig, 0, cpu="96")
        node(rig, 1, cpu="95")
        stays = daemon(0)
        gone = datetime.now(UTC) + timedelta(days=3650)
        stays.metadata.deletion_timestamp = gone.isoformat(timespec="seconds")
        stays.metadata.deletion_grace_period_seconds = 3650 * 86400
        rig.see(stays, lone("first", cpu="96"), lone("b", cpu="95", at="01"))
        for number in range(100):
            rig.clock_s += 0.5
            again = msgspec.convert(msgspec.to_builtins(stays), Pod)
            again.metadata.annotations["muster.dev/saved"] = f"{number}"
            rig.see(again)
            await rig.settle()
        assert rig.placed() == {}
        assert len(rig.control._leaving._due) == 1
        for _ in range(2):  # its grace is believed for so long, and the head is patient
            await rig.pass_s(31.0)
        assert set(rig.placed()) == {"b"}
        rig.see(stays)
        await rig.settle()
        assert rig.ledger.state.gangs["n/first"].phase is Phase.ASIDE
        rig.lose(stays)
        assert not rig.control._leaving._gone_by_s

    tried(story, nodes=2)


def test_pods_that_leave_one_after_the_other_hold_a_head_up_no_longer_than_one() -> None:
    """Somebody tells a pod to go that stays, and the next as soon as it is overdue."""
    num = 8

    async def story(rig: Rig) -> None:
        for number in range(num + 1):
            node(rig, number, cpu="96" if number < num else "95")
        rig.see(*(daemon(number) for number in range(num)))
        rig.see(lone("first", cpu="96"), lone("b", 0, cpu="1", at="01"))
        late = iter(range(100))
        for number in range(num):
            rig.see(daemon(number, ending=True))
            await rig.settle()
            if number > 1:
                fresh = f"c-{next(late)}"
                rig.see(lone(fresh, 0, cpu="1", at="02"))
                await rig.settle()
                assert fresh in rig.placed(), "blocked once, and not by each anew"
            for _ in range(4):
                await rig.pass_s(10.0)
            assert ("b" in rig.placed()) == (number > 0)
        rig.lose(daemon(0))
        await rig.settle()
        assert rig.placed()["first"] == "node-00000"

    tried(story, nodes=num + 1)


@pytest.mark.parametrize("how", ["deleted", "evicted", "unreadable", "restarted"])
def test_a_pod_of_a_gang_that_should_be_gone_and_is_not_is_waited_for_no_longer(how: str) -> None:
    """A finalizer keeps one: the head needs its node, and all others are behind the head."""

    def member(number: int, where: str = "", *, ending: bool = False) -> Pod:
        said = {"muster.dev/group": "g", "muster.dev/min-member": "2"}
        made = pod(f"g-{number}", annotations=said, node=where)
        if ending:
            gone = datetime.now(UTC) + timedelta(seconds=20)
            made.metadata.deletion_timestamp = gone.isoformat(timespec="seconds")
        if ending and how == "unreadable":
            made.metadata.annotations["muster.dev/min-member"] = "many"
        return made

    async def story(rig: Rig) -> None:
        rig.see(member(0), member(1))
        await rig.settle()
        at = rig.placed()
        rig.see(member(0, at["g-0"]), member(1, at["g-1"]))
        await rig.pass_s(1.0)
        head = [pod(f"h-{n}", annotations=SAID_H) for n in range(4)]
        for one in head:
            one.metadata.creation_timestamp = "2026-01-01T00:10:00Z"
        behind = lone("k")
        behind.metadata.creation_timestamp = "2026-01-01T00:20:00Z"
        rig.see(*head, behind)
        rig.lose(member(1))
        await rig.settle()
        if how == "evicted":
            await rig.pass_s(61.0)
            assert rig.evicted() == ["g-0"]
        stuck = member(0, at["g-0"], ending=True)
        rig.see(stuck)
        await rig.settle()
        assert "k" not in rig.placed()
        if how == "restarted":
            await rig.pass_s(200.0)
            rig = rig.restarted()
            await rig.settle()
            rig.see(stuck)
        for _ in range(4):
            await rig.pass_s(31.0)
        assert "k" in rig.placed()
        assert rig.ledger.state.gangs["n/h"].phase is Phase.ASIDE
        rig.lose(stuck)
        gone = lone("k", node=rig.placed()["k"])
        rig.see(gone)
        rig.lose(gone)
        await rig.settle()
        assert set(rig.placed()) >= {"h-0", "h-1", "h-2", "h-3"}

    asyncio.run(story(Rig()))


def test_gangs_set_aside_have_their_turn_however_often_there_is_more_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first two that are asked for can go nowhere; each step a pod of no gang comes or goes."""
    monkeypatch.setattr(standing, "MOST_LOOKED_AT", 2)

    async def story(rig: Rig) -> None:
        for number in range(4):
            node(rig, number, cordoned=number == 0, cpu="96")
        where = {HOST: "node-00000"}
        rig.see(*(lone(f"bad-{n}", 0, nodeSelector=where) for n in range(7)), daemon(1))
        node(rig, 2, cordoned=True)
        node(rig, 3, cordoned=True)
        rig.see(lone("large", cpu="96", at="01"))
        await rig.settle()
        assert len(rig.ledger.standing.aside) == 8
        rig.lose(daemon(1))
        for number in range(4):
            rig.see(daemon(2, cpu=f"{900 - number}m"))
            rig.control.step()
        assert rig.ledger.state.gangs["n/large"].phase is not Phase.ASIDE
        await rig.settle()
        assert rig.placed() == {"large": "node-00001"}

    tried(story)


def test_a_head_that_waits_for_gangs_alone_keeps_its_turn() -> None:
    async def story(rig: Rig) -> None:
        await wait_behind_big(rig)
        await rig.pass_s(1000.0)
        assert set(rig.placed()) == {"runs"}

    tried(story)


def test_a_node_that_blinks_costs_the_head_nothing() -> None:
    """It is as large as the cluster, and may start once what runs has ended."""

    async def story(rig: Rig) -> None:
        for number in range(4):
            node(rig, number)
        await wait_behind_big(rig)
        await rig.settle()
        for _ in range(2):
            node(rig, 3)
            await rig.settle()
            node(rig, 3, ready=False)
            await rig.settle()
            await rig.pass_s(9.0)
        assert set(rig.placed()) == {"runs"}
        await rig.pass_s(1.0)
        assert set(rig.placed()) == {"runs", "late"}, "blocked for 10 s, and no longer"

    tried(story, timeouts={"bind_s": 10.0})


def test_many_that_can_go_nowhere_block_nobody_together() -> None:
    async def story(rig: Rig) -> None:
        for number in range(4):
            node(rig, number, cordoned=number == 0)
        where = {HOST: "node-00000"}
        rig.see(*(lone(f"bad-{n}", 0, f"{n % 60:02}", nodeSelector=where) for n in range(1200)))
        rig.see(lone("honest", at="59"))
        await rig.settle()
        assert set(rig.placed()) == {"honest"}
        assert sum(b'"GangSetAside"' in line for line in rig.lines) == 1200
        begun = len(rig.lines)
        rig.ledger.begin_anew()
        rig.see(lone("next", at="59"))
        rig.control.step()
        made = [line[:60] for line in rig.lines[begun:]]
        first_pass = next(at for at, line in enumerate(made) if b'"Considered"' in line)
        set_aside = [at for at, line in enumerate(made) if b'"GangSetAside"' in line]
        assert len(set_aside) == 1200 and set_aside[-1] < first_pass
        assert not any(b'"GangTakenUp"' in line for line in made)
        await rig.settle()
        assert set(rig.placed()) == {"honest", "next"}
        node(rig, 0)
        for _ in range(10):  # 200 are looked at in each pass
            await rig.settle()
        assert len(rig.placed()) > 100, "a node takes 110 pods"

    tried(story)


def test_a_running_gang_whose_lost_rank_has_nowhere_to_go_blocks_nobody() -> None:
    async def story(rig: Rig) -> None:
        for number in range(3):
            node(rig, number)
        said = {"muster.dev/group": "g", "muster.dev/min-member": "2"}
        both = [pod(f"g-{n}", annotations=said, gpus=8) for n in range(2)]
        rig.see(*both)
        await rig.settle()
        where = rig.placed()
        at = [pod(f"g-{n}", annotations=said, gpus=8, node=where[f"g-{n}"]) for n in range(2)]
        rig.see(*at)
        await rig.settle()
        lost = int(where["g-1"][-1])
        other = next(n for n in range(3) if f"node-{n:05d}" not in where.values())
        node(rig, lost, cordoned=True)
        node(rig, other, cordoned=True)
        rig.lose(at[1])
        rig.see(pod("g-1", uid="anew", annotations=said, gpus=8))
        await rig.settle()
        rig.see(lone("small", gpus=0, at="30"))
        await rig.pass_s(30.0)
        assert "small" in rig.placed()
        assert rig.ledger.state.gangs["n/g"].phase is Phase.ASIDE

    tried(story, nodes=3)


def test_a_muster_that_starts_anew_knows_it_at_once() -> None:
    async def story(rig: Rig) -> None:
        for number in range(4):
            node(rig, number, cordoned=number == 0)
        rig.see(lone("bad", 0, nodeSelector={HOST: "node-00000"}), lone("b", at="01"))
        await rig.settle()
        anew = rig.restarted()
        anew.see(lone("c", at="02"))
        await anew.settle()
        assert "c" in anew.placed()
        assert anew.ledger.state.gangs["n/bad"].phase is Phase.ASIDE
        anew.replay()

    tried(story)


def test_an_event_tells_it_once() -> None:
    async def story(rig: Rig) -> None:
        for number in range(4):
            node(rig, number, cordoned=number == 0)
        rig.see(lone("bad", 0, nodeSelector={HOST: "node-00000"}))
        await rig.settle()
        gangs = list(rig.control.gangs.values())
        for at_s in (10.0, 1000.0):
            await rig.publisher.look(
                gangs, lambda gang: view(gang, rig.ledger, rig.control.now_s()), at_s
            )
        ((reason, said),) = rig.events()
        assert reason == "SetAside" and "node-00000 is cordoned" in said

    tried(story)


def most_counted_in_one_turn(rig: Rig, ask: bool = False) -> tuple[int, int]:
    """Make a step; return how many nodes were counted between two turns at most, and in all."""
    counted, most, in_all = [0], 0, 0
    honest = rig.ledger.standing._lasting

    def lasting(name: str) -> PodShape:
        counted[0] += 1
        return honest(name)

    rig.ledger.standing._lasting = lasting
    for _ in rig.control.turns():
        if ask and "n/bad" in rig.control.names:
            text(rig, "bad")
        most, in_all, counted[0] = max(most, counted[0]), in_all + counted[0], 0
    rig.ledger.standing._lasting = honest
    return max(most, counted[0]), in_all + counted[0]


def test_nodes_are_counted_bit_by_bit_also_in_the_middle_of_a_pass() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(daemon(number) for number in range(20)))
        await rig.settle()
        said = {"muster.dev/group": "big", "muster.dev/min-member": "20"}
        rig.see(lone("first"), *(pod(f"big-{n}", annotations=said, gpus=8) for n in range(20)))
        rig.see(lone("late", at="30"))
        most, in_all = most_counted_in_one_turn(rig)
        assert in_all >= 20 and most <= 1
        await rig.settle()
        assert set(rig.placed()) == {"first"}, "big waits for it, and late for its turn"
        rig.replay()

    tried(story, nodes=20)


def test_nodes_are_counted_bit_by_bit_also_for_those_set_aside_and_while_people_ask() -> None:
    async def story(rig: Rig) -> None:
        for number in range(20):
            node(rig, number, cordoned=number == 0)
        rig.see(lone("bad", 0, nodeSelector={HOST: "node-00000"}))
        await rig.settle()
        told = text(rig, "bad")
        assert "node-00000 is cordoned" in told
        for ask in (False, True):
            rig.ledger.begin_anew()
            most, in_all = most_counted_in_one_turn(rig, ask)
            assert in_all >= 20 and most <= 1
            assert text(rig, "bad") == told
        node(rig, 0)
        await rig.settle()
        assert rig.placed() == {"bad": "node-00000"}
        assert not rig.ledger.standing._causes

    tried(story, nodes=20)


@pytest.mark.parametrize("most", [3, 500], ids=["anew", "one by one"])
def test_what_was_told_bit_by_bit_is_what_a_fresh_look_says(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "MOST_CHANGED", most)
    monkeypatch.setattr(standing, "MOST_TOLD", 40)
    chance = Random(7)
    nodes = {f"n{i}": Node(f"n{i}", PodShape(8, 96), "ab"[i % 2]) for i in range(12)}
    takes = dict.fromkeys(nodes, PodShape(0))
    known = Standing(nodes, takes.__getitem__, pack)
    for step in range(200):
        for name in chance.sample(sorted(nodes), chance.randint(1, 5)):
            if chance.random() < 0.3:
                closed = chance.choice(list(NodeStatus))
                nodes[name] = replace(nodes[name], status=closed)
            takes[name] = PodShape(chance.randint(0, 9), chance.randint(0, 99))
            known.change(name)
        fresh = Standing(nodes, takes.__getitem__, pack)
        for pool, gpus, cpu in (("", 8, 1), ("a", 4, 90), ("b", 0, 50)):
            role = Role(1, PodShape(gpus, cpu), Selector(pool))
            family = Family((role.pod, role.selector), (role,), 12)
            for count in (1, 3, 6):
                asks = Gang("g", (replace(role, count=count),))
                member = GangState(asks, count, family, count)
                assert known.holds(member) == fresh.holds(member), step


@pytest.mark.parametrize("discipline", ["strict", "skip", "easy"])
def test_a_node_whose_places_are_taken_is_used_as_soon_as_one_is_free(discipline: str) -> None:
    async def story(rig: Rig) -> None:
        for number in range(2):
            node(rig, number, pods="2")
        rig.see(*(daemon(0), daemon(1)))
        taken = [pod(f"cpu-{n}", gpus=0, node="node-00000", annotations=OTHER) for n in range(1)]
        rig.see(*taken)
        rig.see(lone("first", nodeSelector={HOST: "node-00000"}), lone("b", at="01"))
        await rig.settle()
        assert set(rig.placed()) == {"b"}
        assert view(rig.control.names["n/first"], rig.ledger, 0.0).reason == "capacity"
        rig.lose(*taken)
        await rig.settle()
        assert rig.placed()["first"] == "node-00000"

    policy = {"order": "priority", "discipline": discipline, "placement": "pack"}
    tried(story, nodes=2, policy=policy)


OTHER = {"muster.dev/ignore": "yes"}
