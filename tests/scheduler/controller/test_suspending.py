"""A gang that muster ends is one whose job resumes, whatever its ranks exit with."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from scheduler.kube.api import ApiError
from scheduler.kube.objects import SUSPENDED, Condition, Pod
from scheduler.kube.watch import Change
from scheduler.workloads.gangs import JOB_INDEX, JOBSET, JOBSET_ATTEMPT, JOBSET_INDEX, JOBSET_ROLE
from tests.scheduler.controller.rig import Rig, pod, tried

REPAIR_S = 60.0
SIZE = 3
REPLICAS = {"Master": {"replicas": 1}, "Worker": {"replicas": SIZE - 1}}
JOB = {"parallelism": SIZE, "completions": SIZE, "completionMode": "Indexed"}


def see_job(rig: Rig, kind: str, *, suspend: bool = False, **meta: Any) -> None:
    """Tell of the job as it is now."""
    spec: dict[str, Any] = dict(JOB)
    if kind == "Job":
        spec["suspend"] = suspend
    else:
        spec = {"pytorchReplicaSpecs": REPLICAS, "runPolicy": {"suspend": suspend}}
    rig.thing(kind, "j", spec, **meta)


def member(kind: str, number: int, **more: Any) -> Pod:
    owner = (kind, "j", "uid-j")
    if kind == "Job":
        labels = {"batch.kubernetes.io/job-completion-index": str(number)}
        return pod(f"j-{number}", labels=labels, owner=owner, **more)
    role, index = ("master", 0) if not number else ("worker", number - 1)
    labels = {
        "training.kubeflow.org/job-name": "j",
        "training.kubeflow.org/replica-type": role,
        "training.kubeflow.org/replica-index": str(index),
    }
    return pod(f"j-{number}", labels=labels, owner=owner, **more)


def writes(rig: Rig) -> list[tuple[Any, Any]]:
    """Return what was written to jobs: whether it is suspended, and for which gang."""
    found = []
    for method, path, body in rig.api.requests:
        if method == "PATCH" and path.endswith("s/j"):
            assert body["metadata"]["uid"] == "uid-j"
            spec = body["spec"]
            spec = spec.get("runPolicy", spec)
            found.append((spec["suspend"], body["metadata"]["annotations"][SUSPENDED]))
    return found


async def in_part(rig: Rig, kind: str, **meta: Any) -> list[Pod]:
    """Let a gang run, and lose a rank for longer than it is waited for; return the rest."""
    see_job(rig, kind, **meta)
    rig.see(*(member(kind, i) for i in range(SIZE)))
    await rig.settle()
    nodes = rig.placed()
    pods = [member(kind, i, node=nodes[f"j-{i}"]) for i in range(SIZE)]
    rig.see(*pods)
    await rig.pass_s(1.0)
    rig.lose(pods.pop())
    await rig.settle()
    await rig.pass_s(REPAIR_S + 1.0)
    return pods


NOTE = {SUSPENDED: "uid-j"}
EARLIER = {"Job": "Job/j", "PyTorchJob": "Kubeflow job/j"}  #: notes of earlier versions


@pytest.mark.parametrize("kind", EARLIER)
@pytest.mark.parametrize("by", ["this muster", "the next"])
def test_a_job_is_suspended_until_its_pods_are_gone(kind: str, by: str) -> None:
    async def story(rig: Rig) -> None:
        pods = await in_part(rig, kind)
        assert writes(rig) == [(True, "uid-j")]
        order = [path for _, path, _ in rig.api.requests if path.endswith(("/eviction", "s/j"))]
        assert order[len(pods)].endswith("s/j"), "after all were asked for, before any goes"
        assert sorted(rig.evicted()) == ["j-0", "j-1"]
        now = rig if by == "this muster" else rig.restarted()
        see_job(now, kind, suspend=True, annotations=NOTE)
        await now.pass_s(30.0)
        now.lose(pods[0])
        await now.pass_s(30.0)
        assert (False, None) not in writes(now), "one is still there"
        now.lose(pods[1])
        await now.settle()
        assert (False, None) not in writes(now), "its controller may hear of that later"
        await now.pass_s(1.5)
        assert writes(now)[-1] == (False, None)
        see_job(now, kind)
        before = len(writes(now))
        await now.pass_s(30.0)
        assert len(writes(now)) == before
        now.see(*(member(kind, i, uid=f"anew-{i}") for i in range(SIZE)))
        await now.settle()
        assert len(now.placed()) == SIZE

    tried(story)


def test_a_job_whose_budget_forbids_it_is_not_suspended() -> None:
    async def story(rig: Rig) -> None:
        rig.refuse("j-1/eviction", ApiError(429, "its budget forbids it"))
        await in_part(rig, "PyTorchJob")
        assert writes(rig) == [] and rig.evicted() == [], "all of them, or none"
        assert [reason for reason, _ in rig.events()][-1] == "NotEvicted"
        rig.see(member("PyTorchJob", 2, uid="again"))
        await rig.settle()
        assert "j-2" in rig.placed(), "the lost rank joins the others"

    tried(story)


TIGHT = {"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "k", "operator": "Exists"}]}


@pytest.mark.parametrize(
    ("allowed", "selector", "matching", "suspends", "evicts"),
    [
        (1, TIGHT, ["j-0", "j-1"], False, False),
        (1, {}, ["j-0", "j-1", "other"], False, False),
        (1, TIGHT, ["j-0", "other"], True, True),
        (1, None, [], True, True),
        (2, {}, [], True, True),
        (0, TIGHT, ["j-0", "j-1"], False, True),  # the API server judges each by itself
        (403, TIGHT, [], False, True),
        (500, TIGHT, [], False, False),
    ],
)
def test_a_job_is_suspended_only_if_its_budgets_allow_that_all_its_pods_go(
    allowed: int,
    selector: dict[str, Any] | None,
    matching: list[str],
    suspends: bool,
    evicts: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each dry run passes: it asks for one pod, and a suspension asks no budget."""

    async def story(rig: Rig) -> None:
        take = rig.api.call

        async def answer(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith("/namespaces/n/poddisruptionbudgets"):
                if allowed >= 403:
                    raise ApiError(allowed, "not to be read")
                spec = {"selector": selector, "minAvailable": 1}
                status = {"disruptionsAllowed": allowed}
                found = [{"metadata": {"name": "b"}, "spec": spec, "status": status}]
                return msgspec.json.encode({"items": found})
            if "/namespaces/n/pods?" in path:
                asked = parse_qs(path.partition("?")[2]).get("labelSelector", [""])
                assert asked == ["app=x,k" if selector else ""]
                return msgspec.json.encode({"items": [{"metadata": {"uid": m}} for m in matching]})
            return await take(method, path, body, **more)

        monkeypatch.setattr(rig.api, "call", answer)
        await in_part(rig, "Job")
        assert writes(rig) == [(True, "uid-j")] * suspends
        assert sorted(rig.evicted()) == ["j-0", "j-1"] * evicts
        if allowed == 1 and not suspends:
            reason, text = rig.events()[-1]
            assert reason == "NotEvicted"
            assert "disruption budget b allows 1 disruptions, of 2 pods" in text

    tried(story)


@pytest.mark.parametrize("own", [0, 1, 3_000])
def test_many_budgets_cost_few_requests(own: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those whose selectors may be for its pods a gang can have one: the server takes no two."""
    asked: list[str] = []

    async def story(rig: Rig) -> None:
        take = rig.api.call

        async def answer(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith("/namespaces/n/poddisruptionbudgets"):
                asked.append(path)
                others = [{"matchLabels": {"app": f"a{n}"}} for n in range(3_000)]
                found = [{"spec": {"selector": s}} for s in [*others, *[TIGHT] * own]]
                meta = {"metadata": {"name": "b", "uid": "b"}, "status": {"disruptionsAllowed": 1}}
                return msgspec.json.encode({"items": [{**meta, **one} for one in found]})
            if "/namespaces/n/pods?" in path:
                asked.append(path)
                labels = {"app": "x", "k": ""}
                pods = [{"metadata": {"uid": f"j-{n}", "labels": labels}} for n in range(SIZE)]
                return msgspec.json.encode({"items": pods})
            return await take(method, path, body, **more)

        monkeypatch.setattr(rig.api, "call", answer)
        await in_part(rig, "Job")
        assert len(asked) == 2
        assert writes(rig) == [(True, "uid-j")] * (own == 0)
        assert sorted(rig.evicted()) == ["j-0", "j-1"] * (own != 1)

    tried(story)


@pytest.mark.parametrize("second", ["a job", "no job"])
def test_two_gangs_of_one_budget_do_not_take_more_than_it_allows_together(
    second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are judged before the budget knows of either."""

    allowed = 3

    def one(gang: str, number: int, **more: Any) -> Pod:
        if gang == "k" and second == "no job":
            said = {"muster.dev/group": "k", "muster.dev/min-member": str(SIZE)}
            return pod(f"k-{number}", annotations=said, **more)
        labels = {"batch.kubernetes.io/job-completion-index": str(number)}
        return pod(f"{gang}-{number}", labels=labels, owner=("Job", gang, f"uid-{gang}"), **more)

    async def story(rig: Rig) -> None:
        nonlocal allowed
        take = rig.api.call
        # muster asks for pods of a suspended job, too, but whoever runs it may be the first

        async def answer(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            nonlocal allowed
            if path.endswith("/eviction") and second == "no job" and "/k-" in path:
                if not allowed:
                    raise ApiError(429, "its budget forbids it")
                allowed -= "dryRun" not in body["deleteOptions"]
            if path.endswith("/poddisruptionbudgets"):
                await asyncio.sleep(0)
                status = {"disruptionsAllowed": allowed}
                meta = {"name": "b", "uid": "uid-b"}
                found = [{"metadata": meta, "spec": {"selector": {}}, "status": status}]
                return msgspec.json.encode({"items": found})
            if "/namespaces/n/pods?" in path:
                there = [{"metadata": {"uid": uid}} for uid in rig.control.pods]
                return msgspec.json.encode({"items": there})
            return await take(method, path, body, **more)

        monkeypatch.setattr(rig.api, "call", answer)
        gangs = ("j", "k")
        for gang in gangs:
            rig.thing("Job", gang, JOB)
        rig.see(*(one(gang, i) for gang in gangs for i in range(SIZE)))
        await rig.settle()
        at = rig.placed()
        there = [one(gang, i, node=at[f"{gang}-{i}"]) for gang in gangs for i in range(SIZE)]
        rig.see(*there)
        await rig.pass_s(1.0)
        for rank in (there[SIZE - 1], there[-1]):
            rig.lose(rank)
            await rig.pass_s(3.0 if second == "no job" else 0.0)
        for _ in range(int(REPAIR_S) + 1):
            await rig.pass_s(1.0)
        assert len(rig.evicted()) == 2 and len({name[0] for name in rig.evicted()}) == 1
        if second == "a job":
            assert sum(path.endswith(("s/j", "s/k")) for _, path, _ in rig.api.requests) == 1
        said = [text for reason, text in rig.events() if reason == "NotEvicted"]
        assert len(said) == 1
        if second == "a job":
            assert "of 2 pods, and 2 more were evicted a moment ago" in said[0]
        allowed = 3
        for _ in range(5):
            await rig.pass_s(20.0)
        assert len({name[0] for name in rig.evicted()}) == 2, "the budget knows by now"

    tried(story, nodes=2 * SIZE)


@pytest.mark.parametrize("why", ["owned", "suspended", "of another uid", "forbidden"])
def test_what_cannot_be_suspended_is_evicted_all_the_same(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(rig: Rig) -> None:
        meta: dict[str, Any] = {}
        if why == "owned":  # its owner says whether it runs
            meta["ownerReferences"] = [{"kind": "Workflow", "uid": "c", "controller": True}]
        elif why == "of another uid":
            meta["uid"] = "its successor"
        take = rig.api.persist

        async def forbid(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith("s/j"):
                raise ApiError(403, "muster may not")
            return await take(method, path, body, **more)

        if why == "forbidden":
            monkeypatch.setattr(rig.api, "persist", forbid)
        if why == "suspended":
            see_job(rig, "Job")
            suspend = Rig.pass_s

            async def first(self: Rig, seconds: float) -> None:
                see_job(self, "Job", suspend=True)
                await suspend(self, seconds)

            monkeypatch.setattr(Rig, "pass_s", first)
        await in_part(rig, "Job", **meta)
        assert writes(rig) == []
        assert sorted(rig.evicted()) == ["j-0", "j-1"]

    tried(story)


def test_a_job_of_a_cron_job_is_suspended() -> None:
    """A CronJob says nothing of a Job once it has made it."""

    async def story(rig: Rig) -> None:
        made_by = [{"kind": "CronJob", "uid": "c", "controller": True}]
        await in_part(rig, "Job", ownerReferences=made_by)
        assert writes(rig) == [(True, "uid-j")]

    tried(story)


IGNORED = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}
OTHERS = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "Own"}]}]}


@pytest.mark.parametrize("by", ["Kueue", "nobody"])
@pytest.mark.parametrize(
    ("limits", "goes"),
    [
        ({}, True),  # half of 6, of which one is the lost rank's
        ({"backoffLimit": 3}, False),
        ({"backoffLimit": 0}, False),
        ({"backoffLimitPerIndex": 1}, False),
        ({"backoffLimit": 0, "podFailurePolicy": IGNORED}, True),
        ({"backoffLimit": 0, "podFailurePolicy": OTHERS}, False),
    ],
)
def test_a_job_that_may_not_be_suspended_keeps_pods_that_it_would_count_as_failed(
    limits: dict[str, Any], goes: bool, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail for good, and its work with it."""

    async def story(rig: Rig) -> None:
        for name, limit in limits.items():
            monkeypatch.setitem(JOB, name, limit)
        meta: dict[str, Any] = {}
        if by == "Kueue":
            meta["labels"] = {"kueue.x-k8s.io/queue-name": "q"}
        else:
            take = rig.api.persist

            async def forbid(method: str, path: str, body: Any = None, **more: Any) -> bytes:
                if path.endswith("s/j"):
                    raise ApiError(403, "muster may not")
                return await take(method, path, body, **more)

            monkeypatch.setattr(rig.api, "persist", forbid)
        await in_part(rig, "Job", **meta)
        for _ in range(10):
            await rig.pass_s(REPAIR_S)
        assert sorted(rig.evicted()) == ["j-0", "j-1"] * goes
        if goes:
            return
        reason, text = rig.events()[-1]
        assert reason == "NotEvicted" and "backoffLimit" in text
        rig.see(member("Job", 2, uid="again"))
        await rig.settle()
        assert "j-2" in rig.placed(), "the lost rank joins the others"

    tried(story)


@pytest.mark.parametrize("said", ["", "x", "Job/j/k", "no source/j", "/", "Job/k", "uid-k"])
@pytest.mark.parametrize("kind", ["Job", "PyTorchJob"])
def test_who_suspends_a_job_himself_has_his_way(kind: str, said: str) -> None:
    """So does who copies a job with muster's note on it: that one has another uid."""

    async def story(rig: Rig) -> None:
        rig.see(member("Job", 0))
        see_job(rig, kind, suspend=True, annotations={SUSPENDED: said})
        see_job(rig, "JobSet", suspend=True, annotations=NOTE)
        await rig.settle()
        await rig.pass_s(600.0)
        assert writes(rig) == []
        assert rig.evicted() == []

    tried(story)


def test_a_job_of_kube_system_is_left_alone_whatever_is_noted_on_it() -> None:
    """muster may not change it, and would try for ever."""

    async def story(rig: Rig) -> None:
        rig.thing("Job", "j", {"suspend": True}, annotations=NOTE, namespace="kube-system")
        await rig.pass_s(600.0)
        assert not rig.api.requests

    tried(story)


@pytest.mark.parametrize("kind", EARLIER)
def test_a_job_that_an_earlier_version_suspended_is_resumed(kind: str) -> None:
    async def story(rig: Rig) -> None:
        see_job(rig, kind, suspend=True, annotations={SUSPENDED: EARLIER[kind]})
        await rig.settle()
        await rig.pass_s(1.5)
        assert writes(rig) == [(False, None)]

    tried(story)


@pytest.mark.parametrize("kind", EARLIER)
def test_a_job_that_somebody_resumed_is_not_resumed_again_when_he_suspends_it(kind: str) -> None:
    async def story(rig: Rig) -> None:
        see_job(rig, kind, suspend=False, annotations=NOTE, resourceVersion="7")
        rig.see(member(kind, 0, node="node-0"))
        await rig.settle()
        assert writes(rig) == [(False, None)], "the note goes at once"
        body = next(body for _, path, body in rig.api.requests if path.endswith("s/j"))
        assert body["metadata"]["resourceVersion"] == "7", "unless he suspended it meanwhile"
        see_job(rig, kind, suspend=True)
        await rig.pass_s(600.0)
        assert len(writes(rig)) == 1

    tried(story)


def test_a_job_that_changed_meanwhile_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may have suspended it: what is noted on it then would resume it."""

    async def story(rig: Rig) -> None:
        take = rig.api.persist
        versions = []

        async def changed(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith("s/j"):
                versions.append(msgspec.json.decode(body)["metadata"]["resourceVersion"])
                raise ApiError(409, "the object has been modified")
            return await take(method, path, body, **more)

        monkeypatch.setattr(rig.api, "persist", changed)
        await in_part(rig, "Job", resourceVersion="7")
        assert versions == ["7"] and rig.evicted() == []
        see_job(rig, "Job", suspend=True, resourceVersion="8")  # by its user
        await rig.pass_s(3.0)
        assert versions == ["7"] and sorted(rig.evicted()) == ["j-0", "j-1"]

    tried(story)


@pytest.mark.parametrize("by", ["Kueue", "a manager", "a JobSet"])
def test_a_job_that_others_suspend_is_not_resumed_for_a_note_on_it(by: str) -> None:
    async def story(rig: Rig) -> None:
        meta: dict[str, Any] = {"annotations": NOTE}
        if by == "Kueue":
            meta["labels"] = {"kueue.x-k8s.io/queue-name": "q"}
        elif by == "a manager":
            monkey.setitem(JOB, "managedBy", "kueue.x-k8s.io/multikueue")
        else:
            owner = {"kind": "JobSet", "name": "s", "uid": "uid-s", "controller": True}
            meta["ownerReferences"] = [owner]
        see_job(rig, "Job", suspend=True, **meta)
        await rig.pass_s(600.0)
        assert writes(rig) == []

    with pytest.MonkeyPatch.context() as monkey:
        tried(story)


@pytest.mark.parametrize("kind", EARLIER)
@pytest.mark.parametrize("noted", ["before muster begins to lead", "since"])
def test_a_job_is_no_older_for_a_note_that_its_user_wrote(kind: str, noted: str) -> None:
    async def story(rig: Rig) -> None:
        rig.node(1, change=Change.DELETED)
        rig.node(2, change=Change.DELETED)
        rig.node(3, change=Change.DELETED)
        rig.see(pod("first", node="node-00000"))
        waits = {"labels": {"muster.dev/group": "w"}, "annotations": {"muster.dev/min-member": "1"}}
        waiting = pod("w-0", **waits)
        waiting.metadata.creation_timestamp = "2026-03-01T00:00:00Z"
        rig.see(waiting)
        await rig.settle()
        rig.control.active = noted == "since"
        old = {"creationTimestamp": "2025-01-01T00:00:00Z"}
        see_job(rig, kind, suspend=True, annotations=NOTE, **old)
        rig.control.active = True
        await rig.pass_s(5.0)
        assert writes(rig) == [(False, None)]
        see_job(rig, kind, suspend=False, **old)
        pods = [member(kind, number, gpus=2) for number in range(SIZE)]
        for one in pods:
            one.metadata.creation_timestamp = "2026-05-01T00:00:00Z"
        rig.see(*pods)
        await rig.settle()
        rig.lose(rig.control.pods["first"])
        await rig.settle()
        assert set(rig.placed()) - {"first"} == {"w-0"}

    tried(story)


@pytest.mark.parametrize("by", ["Kueue", "a manager"])
def test_a_job_that_others_suspend_and_resume_is_left_to_them(by: str) -> None:
    async def story(rig: Rig) -> None:
        meta: dict[str, Any] = {}
        if by == "Kueue":
            meta["labels"] = {"kueue.x-k8s.io/queue-name": "q"}
        else:
            monkey.setitem(JOB, "managedBy", "kueue.x-k8s.io/multikueue")
        await in_part(rig, "Job", **meta)
        assert writes(rig) == []
        assert sorted(rig.evicted()) == ["j-0", "j-1"]

    with pytest.MonkeyPatch.context() as monkey:
        tried(story)


def test_a_resume_that_is_refused_is_tried_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(rig: Rig) -> None:
        tries = 0

        async def refuse(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            nonlocal tries
            tries += 1
            raise ApiError(422, "no")

        monkeypatch.setattr(rig.api, "persist", refuse)
        for number in range(50):
            uid = f"uid-{number}"
            rig.thing(
                "Job", f"k-{number}", {"suspend": True}, annotations={SUSPENDED: uid}, uid=uid
            )
        for _ in range(120):
            await rig.pass_s(1.0)
        assert 50 < tries <= 50 * 8
        before = tries
        for _ in range(20):
            await rig.pass_s(30.0)
        assert before < tries <= before + 50 * 5, "and never given up"

    tried(story)


def test_a_pod_that_is_long_overdue_or_of_another_does_not_keep_a_job_suspended() -> None:
    """Its node may be lost for good; anybody may name the job in a label."""

    async def story(rig: Rig) -> None:
        see_job(rig, "PyTorchJob")
        pods = await in_part(rig, "PyTorchJob")
        rig.see(pod("x", labels=dict(pods[1].metadata.labels), node="node-3", uid="x"))
        see_job(rig, "PyTorchJob", suspend=True, annotations=NOTE)
        for one in pods:
            one.metadata.deletion_timestamp = "2026-01-01T00:00:30Z"
        rig.see(*pods)
        await rig.pass_s(200.0)
        assert (False, None) not in writes(rig)
        await rig.pass_s(101.0)
        await rig.pass_s(1.5)
        assert writes(rig)[-1] == (False, None)

    tried(story)


@pytest.mark.parametrize("clock", ["right", "an hour ahead"])
def test_a_pod_on_a_lost_node_keeps_no_job_suspended_once_it_is_due(clock: str) -> None:
    """It is not deleted until its node is back; the others need not wait for that."""

    async def story(rig: Rig) -> None:
        see_job(rig, "PyTorchJob")
        pods = await in_part(rig, "PyTorchJob")
        see_job(rig, "PyTorchJob", suspend=True, annotations=NOTE)
        for one in pods:
            one.metadata.deletion_timestamp = "2026-01-01T00:00:30Z"
            if clock != "right":  # the API server's
                ahead = datetime.fromtimestamp(rig.control.zero_unix_s + 4000.0, UTC)
                one.metadata.deletion_timestamp = f"{ahead:%Y-%m-%dT%H:%M:%SZ}"
                one.metadata.deletion_grace_period_seconds = 30
        rig.see(*pods)
        await rig.settle()
        for name in {one.spec.node_name for one in pods}:
            node = rig.control.ledger.nodes[name]
            said = [Condition("Ready", "Unknown")]
            status = msgspec.structs.replace(node.status, conditions=said)
            lost = msgspec.structs.replace(node, status=status)
            rig.control.on_node(Change.MODIFIED, lost)
        await rig.pass_s(100.0)
        await rig.pass_s(1.5)
        assert writes(rig)[-1] == (False, None)

    tried(story)


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_a_pod_that_ended_does_not_keep_its_job_suspended(phase: str) -> None:
    """Job pods stay once they ended, of tries before this one too."""

    async def story(rig: Rig) -> None:
        see_job(rig, "Job")
        rig.see(member("Job", 0, uid="old", phase=phase, node="node-0"))
        pods = await in_part(rig, "Job")
        see_job(rig, "Job", suspend=True, annotations=NOTE)
        await rig.pass_s(30.0)
        assert (False, None) not in writes(rig)
        rig.lose(*pods)
        await rig.settle()
        await rig.pass_s(1.5)
        assert writes(rig)[-1] == (False, None)

    tried(story)


@pytest.mark.parametrize("kind", EARLIER)
def test_a_pod_that_ended_as_it_was_told_keeps_its_job_suspended_until_it_is_gone(
    kind: str,
) -> None:
    """Its owner would take its exit with 0 for the end of the work once it is resumed."""

    async def story(rig: Rig) -> None:
        pods = await in_part(rig, kind)
        see_job(rig, kind, suspend=True, annotations=NOTE)
        rig.lose(*pods[1:])
        item = msgspec.to_builtins(pods[0])
        item["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        item["status"]["phase"] = "Succeeded"
        rig.see(msgspec.convert(item, Pod))
        await rig.settle()
        await rig.pass_s(30.0)
        assert (False, None) not in writes(rig)
        rig.lose(pods[0])
        await rig.settle()
        await rig.pass_s(1.5)
        assert writes(rig)[-1] == (False, None)

    tried(story)


@pytest.mark.parametrize("runs", [False, True])
def test_a_job_that_may_not_fail_is_suspended_where_its_pods_lost_their_nodes(runs: bool) -> None:
    """They are pinned there, and to delete them would end it; but not at once, nor beside others.

    A gang that runs without them is judged by that.
    """

    async def story(rig: Rig) -> None:
        rig.thing("Job", "j", {**JOB, "backoffLimit": 0})
        pods = [member("Job", i) for i in range(SIZE)]
        rig.see(*pods)
        await rig.settle()
        where = rig.placed()
        rig.see(*rig.pods_written())
        if runs:
            rig.see(member("Job", 0, node=where["j-0"]))
        gone = where["j-1"]
        rig.node(int(gone[-5:]), change=Change.DELETED)
        await rig.pass_s(0.0)
        await rig.pass_s(29.0)
        assert writes(rig) == []
        await rig.pass_s(1.0)
        assert rig.deleted() == []
        assert writes(rig) == ([] if runs else [(True, "uid-j")])
        if runs:
            return
        rig.thing("Job", "j", {**JOB, "backoffLimit": 0, "suspend": True}, annotations=NOTE)
        rig.lose(*pods)
        await rig.pass_s(2.0)
        assert writes(rig)[-1] == (False, None)
        rig.thing("Job", "j", {**JOB, "backoffLimit": 0})
        rig.see(*(member("Job", i, uid=f"anew-{i}") for i in range(SIZE)))
        await rig.settle()
        placed = {slot.node for _, slot in rig.control.slot_of.values()}
        assert len(placed) == SIZE and gone not in placed

    tried(story)


@pytest.mark.parametrize(
    ("size", "policy", "attempt", "goes"),
    [
        (3, {}, 0, True),
        (8, {}, 0, False),
        (8, {"maxRestarts": 4}, 1, True),  # it starts again with all its ranks
        (8, {"maxRestarts": 4}, 2, False),
        (8, {"maxRestarts": 4, "rules": [{"action": "FailJobSet"}]}, 0, False),
    ],
)
def test_a_rank_of_a_jobset_is_evicted_only_within_what_its_job_may_fail(
    size: int, policy: dict[str, Any], attempt: int, goes: bool
) -> None:
    """muster suspends no JobSet."""

    def rank(number: int, **more: Any) -> Pod:
        labels = {JOBSET: "s", JOBSET_ROLE: "w", JOBSET_INDEX: "0", JOB_INDEX: str(number)}
        labels[JOBSET_ATTEMPT] = str(attempt)
        return pod(f"s-{number}", labels=labels, owner=("Job", "s-w-0", "uid-s-w-0"), **more)

    async def story(rig: Rig) -> None:
        job = {"parallelism": size, "completions": size, "completionMode": "Indexed"}
        part = {"name": "w", "replicas": 1, "template": {"spec": job}}
        rig.thing("JobSet", "s", {"replicatedJobs": [part], "failurePolicy": policy})
        made_by = [{"kind": "JobSet", "name": "s", "uid": "uid-s", "controller": True}]
        rig.thing("Job", "s-w-0", job | {"backoffLimit": 6}, ownerReferences=made_by)
        rig.see(*(rank(i) for i in range(size)))
        await rig.settle()
        at = rig.placed()
        pods = [rank(i, node=at[f"s-{i}"]) for i in range(size)]
        rig.see(*pods)
        await rig.pass_s(1.0)
        rig.lose(pods.pop())
        for _ in range(5):
            await rig.pass_s(REPAIR_S + 1.0)
        assert len(rig.evicted()) == len(pods) * goes
        assert ("NotEvicted" in [reason for reason, _ in rig.events()]) != goes

    tried(story, nodes=size)
