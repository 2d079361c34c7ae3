"""Requests between muster and the API server that go wrong. Numbers are failure modes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.controlplane.objects import node
from tests.chaos.proxy import Proxy, Rule
from tests.cluster.conftest import NODES, STALLED_S, Kube, gang, pod
from tests.cluster.test_failure_extender import Verbs, planned
from tests.cluster.test_failure_pods import bound, fill, reason, remove
from tests.cluster.test_failure_room import bind_by_hand, intrude
from tests.cluster.test_failures import kill_muster
from tests.cluster.watcher import Watcher

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

Lay = Callable[..., Rule]
RECORDS = "/api/v1/namespaces/muster-system-plans/configmaps"
#: the three writes by which a gang starts, with the scheduler that makes muster use them
WRITES = {
    "record": ("POST", RECORDS + "$", "default-scheduler"),
    "release": ("PATCH", "/namespaces/{space}/pods/one-0$", "default-scheduler"),
    "bind": ("POST", "/namespaces/{space}/pods/one-0/binding$", "muster-direct"),
}
writes = pytest.mark.parametrize("write", list(WRITES))


def lay_on(rules: Lay, space: str, write: str, **what: Any) -> Rule:
    """Lay down a rule for the first of a kind of writes."""
    method, path, _ = WRITES[write]
    return rules(method, path.format(space=space), **what)


def start(kube: Kube, space: str, write: str, size: int = 3) -> dict[str, str]:
    """Create the gang `one`, that starts with such writes; return its pods' uids."""
    kube.create(*gang(space, "one", size, schedulerName=WRITES[write][2]))
    return {name: one["metadata"]["uid"] for name, one in kube.pods(space).items()}


def runs_whole(kube: Kube, space: str, uids: dict[str, str]) -> None:
    """Wait until the gang runs, the very pods it began with, and nothing is left on record."""
    kube.until("one is bound whole", lambda: len(bound(kube, space, "one")) == len(uids))
    kube.until("muster knows", lambda: kube.explain(space, "one").get("phase") == "running")
    assert {n: p["metadata"]["uid"] for n, p in kube.pods(space).items()} == uids
    assert len(set(kube.bound(space).values())) == len(uids)
    kube.until("its record is erased", lambda: not record_of(kube, space, "one"))


def record_of(kube: Kube, space: str, name: str) -> dict[str, str]:
    """Return the node of each pod by a gang's plan record; empty if there is none."""
    for item in kube.call("GET", RECORDS)["items"]:
        plan = json.loads(item.get("data", {}).get("plan", "{}"))
        if plan.get("unit") == f"{space}/{name}":
            return {f"{name}-{number}": where for _, number, _, where, *_ in plan["slots"]}
    return {}


@writes
def test_11_retry_after_is_obeyed(kube: Kube, space: str, rules: Lay, write: str) -> None:
    rule = lay_on(rules, space, write, status=429, retry_after_s=2)
    runs_whole(kube, space, start(kube, space, write))
    first_s, second_s = rule.seen_s
    assert second_s - first_s >= 2.0


@writes
@pytest.mark.parametrize("code", [500, 503])
def test_12_errors_of_the_server_are_tried_again(
    kube: Kube, space: str, rules: Lay, write: str, code: int
) -> None:
    rule = lay_on(rules, space, write, status=code, times=2)
    runs_whole(kube, space, start(kube, space, write))
    first_s, second_s, third_s = rule.seen_s
    assert second_s - first_s >= 0.1
    assert third_s - second_s >= 0.2, "it waits longer each time"


def test_13_bind_without_an_answer_in_time_is_looked_up(kube: Kube, space: str, rules: Lay) -> None:
    binding = lay_on(rules, space, "bind", hold="answer")
    asked = rules("GET", f"/namespaces/{space}/pods/one-0$", times=0)
    uids = start(kube, space, "bind")
    assert binding.met.wait(30)
    kube.until("muster asks what became of it", lambda: asked.seen_s)
    runs_whole(kube, space, uids)
    assert (binding.codes, len(binding.seen_s)) == ([201], 1), "bound once"


def test_13_the_verb_answers_while_kube_scheduler_still_listens(
    kube: Kube, space: str, rules: Lay
) -> None:
    """kube-scheduler waits 10 s for the verb; an answer after that is worth nothing."""
    kube.create(*gang(space, "held", 1, schedulerName="nobody"))
    where = planned(kube, space, "held", 1)["held-0"]
    binding = rules("POST", f"/namespaces/{space}/pods/held-0/binding$", hold="answer")
    began_s = time.monotonic()
    assert Verbs(kube.cluster).bind(kube.pods(space)["held-0"], where) == ""
    assert time.monotonic() - began_s < 8.0
    assert binding.codes == [201]


@writes
def test_14_lost_answer_to_a_write_that_took_place(
    kube: Kube, space: str, rules: Lay, write: str
) -> None:
    rule = lay_on(rules, space, write, drop=True)
    uids = start(kube, space, write)
    assert rule.met.wait(30)
    assert rule.codes[0] in (200, 201), "it did take place"
    runs_whole(kube, space, uids)


def test_15_killed_before_the_plan_is_written_down(kube: Kube, space: str, rules: Lay) -> None:
    rule = lay_on(rules, space, "record", hold="request", drop=True)
    uids = start(kube, space, "record")
    assert rule.met.wait(30)
    kill_muster(kube)
    rule.let_go.set()
    assert record_of(kube, space, "one") == {}
    assert all(one["spec"].get("schedulingGates") for one in kube.pods(space).values())
    runs_whole(kube, space, uids)


def test_16_killed_as_soon_as_the_plan_is_written_down(kube: Kube, space: str, rules: Lay) -> None:
    rule = lay_on(rules, space, "record", hold="answer")
    uids = start(kube, space, "record")
    assert rule.met.wait(30)
    kill_muster(kube)
    rule.let_go.set()
    promised = record_of(kube, space, "one")
    assert len(promised) == 3
    assert all(one["spec"].get("schedulingGates") for one in kube.pods(space).values())
    runs_whole(kube, space, uids)
    assert kube.bound(space) == promised


@pytest.mark.parametrize("write", ["release", "bind"])
def test_17_killed_while_it_commits(kube: Kube, space: str, rules: Lay, write: str) -> None:
    """Of four pods two are told; the next muster tells the others, by the same plan."""
    method, path, _ = WRITES[write]
    path = path.format(space=space).replace("one-0", r"one-\d")
    rule = rules(method, path, skip=1, times=2, hold="request", drop=True)
    uids = start(kube, space, write, size=4)
    assert rule.met.wait(30)
    kube.until("the two others went through", lambda: len(rule.seen_s) == 4)
    promised = record_of(kube, space, "one")
    kill_muster(kube)
    rule.let_go.set()
    assert len(promised) == 4
    assert len(bound(kube, space, "one")) <= 2
    runs_whole(kube, space, uids)
    assert kube.bound(space) == promised


def test_59_a_node_that_another_took_is_not_bound_to_by_muster_itself(
    kube: Kube, space: str, rules: Lay
) -> None:
    commit = rules("PATCH", f"{RECORDS}/", hold="request")
    start(kube, space, "bind", size=1)
    assert commit.met.wait(30)
    taken = record_of(kube, space, "one")["one-0"]
    intrude(kube, space, taken)
    commit.let_go.set()
    kube.until("one is bound elsewhere", lambda: len(bound(kube, space, "one")) == 1)
    assert kube.bound(space)["intruder"] == taken != kube.bound(space)["one-0"]


def pods_unheard(kube: Kube, space: str, proxy: Proxy) -> None:
    """Let a gang wait for fillers of which muster does not hear that they are gone."""
    fillers = fill(kube, space)
    kube.create(*gang(space, "waits", 3))
    reason(kube, space, "waits", "capacity")
    assert proxy.hush("/api/v1/pods")
    remove(kube, space, *fillers[:3])
    kube.until("three nodes are free", lambda: len(kube.bound(space)) == NODES - 3)
    assert kube.explain(space, "waits")["reason"] == "capacity"


def test_37_what_an_expired_watch_did_not_say_is_read_anew(
    kube: Kube, space: str, proxy: Proxy, watcher: Watcher
) -> None:
    pods_unheard(kube, space, proxy)

    async def expire() -> None:
        proxy.expire()

    watcher.call(expire())
    kube.until("waits is bound", lambda: len(bound(kube, space, "waits")) == 3)


def test_38_one_silent_watch_is_opened_anew(kube: Kube, space: str, proxy: Proxy) -> None:
    pods_unheard(kube, space, proxy)
    began_s = time.monotonic()
    kube.until("waits is bound", lambda: len(bound(kube, space, "waits")) == 3)
    assert time.monotonic() - began_s < 3 * STALLED_S


def test_39_bound_pods_are_seen_before_their_binds_are_answered(
    kube: Kube, space: str, rules: Lay
) -> None:
    path = f"/namespaces/{space}/pods/one-[0-9]/binding$"
    rule = rules("POST", path, times=3, hold="answer")
    uids = start(kube, space, "bind")
    assert rule.met.wait(30)
    kube.until("all are seen", lambda: kube.explain(space, "one").get("pods_bound") == 3)
    rule.let_go.set()
    runs_whole(kube, space, uids)
    assert rule.codes == [201] * 3 and len(rule.seen_s) == 3


def test_39_a_pod_is_seen_before_the_node_that_it_runs_on(
    kube: Kube, space: str, proxy: Proxy, watcher: Watcher
) -> None:
    late = proxy.hush("/api/v1/nodes")
    assert late
    more = node(NODES, 8)
    name = more["metadata"]["name"]
    kube.create(more)
    try:
        kube.create(pod(space, "stranger", schedulerName="another"))
        bind_by_hand(kube, space, "stranger", name)
        kube.create(*gang(space, "all", NODES + 1))
        kube.until("muster saw later pods", lambda: kube.explain(space, "all").get("reason"))
        watcher.call(proxy.tell(late))
        kube.until(
            "the node is known, and taken",
            lambda: (
                kube.explain(space, "all").get("free_gpus") == 8 * NODES
                and kube.explain(space, "all")["reason"] == "capacity"
            ),
        )
        assert set(kube.bound(space)) == {"stranger"}
        kube.delete(f"/api/v1/namespaces/{space}/pods/stranger")
        kube.until("all is bound", lambda: len(bound(kube, space, "all")) == NODES + 1)
    finally:
        for one in kube.pods(space):
            kube.delete(f"/api/v1/namespaces/{space}/pods/{one}")
        kube.delete(f"/api/v1/nodes/{name}")
