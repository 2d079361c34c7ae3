"""What muster says of waiting gangs, and how often: without a cluster, on a clock of the test's."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from math import inf
from typing import Any

import msgspec
import pytest

from scheduler.controller.membership import LiveGang
from scheduler.core.decisions import Shortage
from scheduler.kube.api import Api, ApiError
from scheduler.kube.objects import Pod, Thing
from scheduler.status.publish import BURST, LATE_S, PER_MINUTE, Publisher
from scheduler.status.status import GangView
from scheduler.workloads.gangs import GangKey, Source


class Heard(Publisher):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__(Api.__new__(Api), "test")
        self.active = True
        self.events: list[dict[str, Any]] = []
        self.conditions: list[str] = []

    def _put(self, path: str, body: bytes, method: str) -> None:
        if method == "POST":
            self.events.append(msgspec.json.decode(body))
        else:
            self.conditions.append(path)


def gang(
    name: str, source: Source = Source.COSCHEDULING, space: str = "n", **meta: Any
) -> LiveGang:
    found = LiveGang(GangKey(space, name, source), f"{space}/{name}", "nvidia.com/gpu")
    add(found, f"{name}-0", **meta)
    return found


def add(to: LiveGang, uid: str, **meta: Any) -> None:
    to.pods[uid] = msgspec.convert(
        {"metadata": {"name": uid.split("~")[0], "namespace": "n", "uid": uid, **meta}}, Pod
    )


def viewed(
    reasons: dict[str, str], phase: str = "waiting", waited_s: float = LATE_S
) -> Callable[[LiveGang], GangView]:
    """Return what `view` returns; the text carries a number that changes all the time."""
    numbers = iter(range(10**6))

    def view(of: LiveGang) -> GangView:
        blank: dict[str, Any] = dict.fromkeys(GangView.__struct_fields__, 0)
        blank |= {"gang": of.name, "phase": phase, "reason": reasons.get(of.key.name, "capacity")}
        blank |= {"text": f"{next(numbers)} are free", "waited_s": waited_s}
        return GangView(**blank)

    return view


def look(publisher: Publisher, gangs: list[LiveGang], view: Any, now_s: float) -> float:
    return asyncio.run(publisher.look(gangs, view, now_s))


def test_another_resource_that_is_short_is_told() -> None:
    publisher, one = Heard(), gang("a")
    view = viewed({})
    short = Shortage("gpus", asked=8, need=8, free=0, most=0)

    def said(of: LiveGang) -> GangView:
        return msgspec.structs.replace(view(of), short=short)

    assert look(publisher, [one], said, 0.0) == inf
    short = dataclasses.replace(short, free=4)
    assert look(publisher, [one], said, 20.0) == inf
    assert len(publisher.events) == 1, "a number is no news"
    short = dataclasses.replace(short, resource="cpu")
    look(publisher, [one], said, 40.0)
    assert len(publisher.events) == 2


def test_a_number_that_changes_is_not_told_again() -> None:
    publisher, one = Heard(), gang("a")
    view = viewed({})
    assert look(publisher, [one], view, 0.0) == inf
    for second in range(1, 200):
        assert look(publisher, [one], view, float(second)) == inf
    assert (len(publisher.events), len(publisher.conditions)) == (1, 1)
    assert publisher.events[0]["reason"] == "Capacity"


def test_a_gang_that_has_just_come_is_not_told_of() -> None:
    publisher, one = Heard(), gang("a")
    wait_s = look(publisher, [one], viewed({}, waited_s=2.0), 0.0)
    assert wait_s == pytest.approx(LATE_S - 2.0) and not publisher.events


def test_reasons_that_flap_are_told_ever_more_rarely() -> None:
    publisher, one = Heard(), gang("a")
    for second in range(24 * 3600 // 5):
        look(
            publisher, [one], viewed({"a": ("capacity", "fragmentation")[second % 2]}), 5.0 * second
        )
    assert 20 < len(publisher.events) < 200


def test_changes_cost_tokens_that_come_back_with_time_and_not_with_looks() -> None:
    publisher = Heard()
    gangs = [gang(f"g{number}") for number in range(1000)]
    look(publisher, gangs, viewed({}), 0.0)
    assert len(publisher.events) == 1000, "each is told of once"
    turned = viewed(dict.fromkeys((g.key.name for g in gangs), "behind_head"))
    for _ in range(50):  # many looks within one second
        wait_s = look(publisher, gangs, turned, 100.0)
    assert len(publisher.events) == 1000 + BURST
    assert 0 < wait_s <= 60 / PER_MINUTE
    for minute in range(5):
        look(publisher, gangs, turned, 160.0 + 60 * minute)
    assert len(publisher.events) == 1000 + BURST + 5 * PER_MINUTE


def test_a_namespace_whose_reasons_flap_silences_no_other() -> None:
    publisher = Heard()
    gangs = [*(gang(f"g{number}") for number in range(1000)), gang("honest", space="other")]
    look(publisher, gangs, viewed({}), 0.0)
    for turn in range(60):
        flaps = dict.fromkeys(
            (g.key.name for g in gangs[:-1]), ("behind_head", "capacity")[turn % 2]
        )
        look(publisher, gangs, viewed(flaps), 100.0 + 60.0 * turn)
    publisher.events.clear()
    look(publisher, gangs, viewed({"honest": "never_fits"}), 4000.0)
    assert "NeverFits" in [event["reason"] for event in publisher.events]


def test_messages_that_a_namespace_refuses_hold_no_other_up() -> None:
    """A tenant may forbid Events by a quota; each was tried for seconds, one after the other."""
    sent: list[str] = []

    class Refuses(Api):
        def __init__(self) -> None:
            pass

        async def persist(self, method: str, path: str, body: Any = None, **more: Any) -> bytes:
            sent.append(path)
            if "/namespaces/n/" in path:
                raise ApiError(403, "exceeded quota")
            return b"{}"

    async def story() -> None:
        publisher = Publisher(Refuses(), "test")
        publisher.active = True
        for _ in range(20):
            publisher.event(gang("a"), "Started", "it runs")
        publisher.event(gang("b", space="other"), "Started", "it runs")
        sending = asyncio.create_task(publisher.send())
        while not any("/namespaces/other/" in path for path in sent):
            await asyncio.sleep(0)
        sending.cancel()

    asyncio.run(story())
    assert len(sent) == 2


def test_the_condition_follows_the_first_pod() -> None:
    publisher, one = Heard(), gang("a")
    look(publisher, [one], viewed({}), 0.0)
    one.forget("a-0")
    add(one, "a-0~again")
    look(publisher, [one], viewed({}), 1000.0)
    assert (len(publisher.events), len(publisher.conditions)) == (1, 2)


def test_admission_turns_the_condition_once_and_only_if_it_was_told() -> None:
    publisher, told, quick = Heard(), gang("told"), gang("quick")
    look(publisher, [told], viewed({}), 0.0)
    for second, phase in enumerate(("starting", "running", "running")):
        look(publisher, [told, quick], viewed({}, phase), 1000.0 + second)
    assert publisher.conditions == ["/api/v1/namespaces/n/pods/told-0/status"] * 2


def owner(kind: str, name: str) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "name": name, "uid": f"{kind}/{name}", "apiVersion": "v", "controller": True}
    ]


def test_events_are_about_what_the_user_made() -> None:
    publisher = Heard()
    things = {
        ("Job", "j-node-0"): {"uid": "Job/j-node-0", "ownerReferences": owner("JobSet", "j")},
        ("JobSet", "j"): {
            "uid": "JobSet/j",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": owner("TrainJob", "j"),
        },
        ("LeaderWorkerSet", "llama"): {"name": "llama", "uid": "LeaderWorkerSet/llama"},
        ("coscheduling", "bare"): {"uid": "group"},
    }

    def find(kind: str, namespace: str, name: str) -> Thing | None:
        meta = things.get((kind, name))
        return None if meta is None else msgspec.convert({"metadata": meta}, Thing)

    publisher.find = find
    publisher.event(gang("j", ownerReferences=owner("Job", "j-node-0")), "Started", "x")
    publisher.event(gang("p", ownerReferences=owner("PyTorchJob", "p")), "Started", "x")
    publisher.event(gang("bare"), "Started", "x")
    publisher.event(gang("alone", Source.OWN), "Started", "x")
    said = {"labels": {"leaderworkerset.sigs.k8s.io/name": "llama"}}
    said["ownerReferences"] = owner("StatefulSet", "llama-0")  # type: ignore[assignment]
    publisher.event(gang("llama-0", Source.LEADER_WORKER_SET, **said), "Started", "x")
    about = [(e["regarding"]["kind"], e["regarding"]["name"]) for e in publisher.events]
    assert about == [
        ("TrainJob", "j"),
        ("PyTorchJob", "p"),
        ("PodGroup", "bare"),
        ("Pod", "alone-0"),
        ("LeaderWorkerSet", "llama"),
    ]
