"""A muster that has just begun ends nobody for what only the one before it knew."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.controller.plans import AGES
from scheduler.kube.api import ApiError
from scheduler.kube.objects import PLAN, Pod, ThingStatus
from scheduler.kube.watch import Change
from tests.scheduler.controller.rig import Rig, close, pod, tried

REPAIR_S = 60.0
INDEX = "batch.kubernetes.io/job-completion-index"
KUBEFLOW = "training.kubeflow.org/"
DIRECT = {"direct_schedulers": ["muster-direct"]}
KINDS = ("Job", "JobSet", "pod group", "numbered", "PyTorchJob", "tasks")


class Run:
    """A gang of some kind that grows, and whose ranks end well or are made anew."""

    def __init__(self, rig: Rig, kind: str, size: int) -> None:
        self.rig, self.kind, self.size = rig, kind, size
        self.uids: dict[int, str] = {}
        self.done: set[int] = set()
        self._num_made = 0

    def member(self, number: int, **more: Any) -> Pod:
        """Return a rank of the gang."""
        more = {"uid": self.uids[number], **more}
        match self.kind:
            case "Job":
                labels = {INDEX: str(number)}
                return pod(f"g-{number}", labels=labels, owner=("Job", "g", "uid-g"), **more)
            case "JobSet":
                said = {"jobset-name": "g", "replicatedjob-name": "w", "job-index": "0"}
                labels = {f"jobset.sigs.k8s.io/{key}": value for key, value in said.items()}
                labels[INDEX] = str(number)
                owner = ("Job", "g-w-0", "uid-g-w-0")
                return pod(f"g-{number}", labels=labels, owner=owner, **more)
            case "PyTorchJob":
                role, index = ("worker", number - 1) if number else ("master", 0)
                said = {"job-name": "g", "replica-type": role, "replica-index": str(index)}
                labels = {f"{KUBEFLOW}{key}": value for key, value in said.items()}
                return pod(f"g-{number}", labels=labels, owner=("PyTorchJob", "g", "uid-g"), **more)
            case "LeaderWorkerSet":
                said = {"name": "g", "group-index": "0", "worker-index": str(number)}
                labels = {
                    f"leaderworkerset.sigs.k8s.io/{key}": value for key, value in said.items()
                }
                size = {"leaderworkerset.sigs.k8s.io/size": str(self.size)}
                owner = ("StatefulSet", "g", "uid-of-a-set")
                return pod(f"g-{number}", labels=labels, annotations=size, owner=owner, **more)
            case "tasks":
                said = {"volcano.sh/task-spec": "worker", "scheduling.k8s.io/group-name": "g"}
                return pod(f"g-{number}", annotations=said, labels=said, **more)
            case _:
                labels = {"scheduling.x-k8s.io/pod-group": "g"}
                labels |= {INDEX: str(number)} if self.kind == "numbered" else {}
                return pod(f"g-{number}", labels=labels, **more)

    def _tell_done(self) -> None:
        job = self.rig.control.tables.things["Job", "n", "g"]
        indexes = ",".join(map(str, sorted(self.done)))
        status = ThingStatus(completed_indexes=indexes)
        said = msgspec.structs.replace(job, status=status)
        self.rig.control.on_thing("Job", Change.MODIFIED, said)

    def says(self, size: int) -> None:
        """Have the owner ask for so many ranks."""
        self.size = size
        match self.kind:
            case "Job":
                counts = {"parallelism": size, "completions": size, "completionMode": "Indexed"}
                self.rig.thing("Job", "g", counts)
                self._tell_done()
            case "JobSet":
                counts = {"parallelism": size, "completions": size, "completionMode": "Indexed"}
                part = {"name": "w", "replicas": 1, "template": {"spec": counts}}
                self.rig.thing("JobSet", "g", {"replicatedJobs": [part]})
            case "PyTorchJob":
                replicas = {"Master": {"replicas": 1}, "Worker": {"replicas": size - 1}}
                self.rig.thing("PyTorchJob", "g", {"pytorchReplicaSpecs": replicas})
            case "tasks":
                least = {"minMember": size, "minTaskMember": {"worker": size}}
                self.rig.thing("volcano", "g", least)
            case "LeaderWorkerSet":
                pass  # its pods say so
            case _:
                self.rig.thing("coscheduling", "g", {"minMember": size})

    async def make(self, *numbers: int) -> None:
        """Have pods made, anew if they were there."""
        for number in numbers:
            self._num_made += 1
            self.uids[number] = f"g-{number}-{self._num_made}"
        self.rig.see(*(self.member(number) for number in numbers))
        await self.rig.settle()

    async def bind(self, rig: Rig, *numbers: int) -> None:
        """Have kube-scheduler bind pods that were told of their nodes."""
        for one in rig.pods_written():
            number = int(one.metadata.name.rpartition("-")[2])
            if number in (numbers or self.uids) and not one.gated and not one.spec.node_name:
                _, slot = rig.control.slot_of[one.metadata.uid]
                item = msgspec.to_builtins(one)
                item["spec"]["nodeName"] = slot.node
                item["status"]["phase"] = "Running"
                rig.see(msgspec.convert(item, Pod))
        await rig.settle()

    async def start(self) -> None:
        """Have the gang made, and bound whole."""
        self.says(self.size)
        await self.make(*range(self.size))
        await self.bind(self.rig)

    async def lose(self, number: int) -> None:
        """Remove a pod."""
        self.rig.lose(self.rig.control.pods[self.uids.pop(number)])
        await self.rig.settle()

    async def end_well(self, number: int) -> None:
        """Have a rank end well, and its pod be removed."""
        one = msgspec.to_builtins(self.rig.control.pods[self.uids[number]])
        one["status"]["phase"] = "Succeeded"
        self.rig.see(msgspec.convert(one, Pod))
        self.done.add(number)
        if self.kind == "Job":
            self._tell_done()
        await self.rig.settle()
        await self.lose(number)


def made_at(one: Pod, minute: int) -> Pod:
    """Return a pod as if it was created later."""
    created = f"2026-01-01T00:{minute:02}:00Z"
    meta = msgspec.structs.replace(one.metadata, creation_timestamp=created)
    return msgspec.structs.replace(one, metadata=meta)


def of_an_earlier_version(rig: Rig) -> None:
    """Take from plans what earlier versions did not write."""
    for method, _, body in rig.api.requests:
        notes = ((body or {}).get("metadata") or {}).get("annotations") or {}
        if method == "PATCH" and PLAN in notes:
            notes[PLAN] = notes[PLAN].partition(" of ")[0]


async def passes(rig: Rig, seconds: float = 4 * REPAIR_S) -> list[str]:
    """Let time go by; return what was ended."""
    for _ in range(int(seconds // 20)):
        await rig.pass_s(20.0)
    return rig.evicted() + rig.deleted()


@pytest.mark.parametrize("version", ["this", "an earlier one"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gang_that_asks_to_grow_runs_on_after_a_restart(kind: str, version: str) -> None:
    async def story(rig: Rig) -> None:
        run = Run(rig, kind, 3)
        await run.start()
        run.says(4)
        await run.make(3)
        assert await passes(rig) == []
        if version != "this":
            of_an_earlier_version(rig)
        anew = rig.restarted()
        await anew.settle()
        assert await passes(anew) == []
        (gang,) = anew.control.gangs.values()
        assert gang.started_min == 3
        run.rig = anew
        await run.lose(1)
        assert sorted(await passes(anew)) == ["g-0", "g-2"], "this muster saw it run"

    tried(story, nodes=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_that_was_being_made_anew_says_nothing_of_those_that_had_ended(kind: str) -> None:
    async def story(rig: Rig) -> None:
        run = Run(rig, kind, 3)
        await run.start()
        await run.end_well(1)
        await run.lose(2)
        await run.make(2)
        assert rig.records_there()
        anew = rig.restarted()
        await anew.settle()
        await run.bind(anew)
        assert await passes(anew) == []

    tried(story)


KINDS_OF_STEPS = ["grow", "shrink", "end well", "lose", "make", "bind", "bind one", "wait"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS_OF_STEPS), st.integers(0, 9)), max_size=8)


async def lived(run: Run, steps: list[tuple[str, int]]) -> None:
    """Let a gang start, and live through some steps that end nobody."""
    await run.start()
    for step, number in steps:
        runs = sorted(run.uids)
        which = runs[number % len(runs)]
        is_bound = bool(run.rig.control.pods[run.uids[which]].spec.node_name)
        gone = sorted(set(range(run.size)) - run.done - set(runs))
        match step:
            case "grow" if run.size < 6:
                run.says(run.size + 1)
                await run.make(run.size - 1)
            case "shrink" if len(runs) > 1 and runs[-1] == run.size - 1:
                run.says(run.size - 1)
                await run.lose(run.size)
            case "end well" if len(runs) > 1 and is_bound:
                await run.end_well(which)
            case "lose" if len(runs) > 1:
                await run.lose(which)
            case "make" if gone:
                await run.make(gone[number % len(gone)])
            case "bind":
                await run.bind(run.rig)
            case "bind one":
                await run.bind(run.rig, which)
            case "wait":
                await run.rig.pass_s(10.0)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 4), st.integers(2, 5), STEPS)
@example("JobSet", 2, 3, [("lose", 0), ("grow", 0), ("bind", 0), ("end well", 1)])
@example(
    "JobSet",
    2,
    4,
    [("grow", 0), ("lose", 0), ("lose", 0), ("grow", 0), ("bind", 0), ("end well", 0)],
)
@example("JobSet", 4, 4, [("shrink", 0), ("end well", 0), ("lose", 0), ("make", 0), ("bind", 0)])
@example("numbered", 3, 2, [("end well", 0), ("lose", 0), ("grow", 0), ("bind", 0),
                            ("end well", 1)])  # fmt: skip
@example("PyTorchJob", 3, 2, [("shrink", 0), ("end well", 0)])
@example(
    "PyTorchJob",
    4,
    2,
    [("shrink", 0), ("shrink", 0), ("lose", 0), ("grow", 0), ("end well", 0), ("bind", 0)],
)
def test_nobody_is_ended_who_would_not_have_been_without_the_restart(
    kind: str, size: int, nodes: int, steps: list[tuple[str, int]]
) -> None:
    ended: list[list[str]] = []

    async def story(rig: Rig) -> None:
        run = Run(rig, kind, size)
        await lived(run, steps)
        before = rig.evicted() + rig.deleted()
        if not ended:
            ended.append((await passes(rig))[len(before) :])
            return
        anew = rig.restarted()
        await anew.settle()
        ended.append(await passes(anew))

    for _ in range(2):
        tried(story, nodes=max(size, nodes))
    without, with_one = map(set, ended)
    assert with_one <= without


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_gang_is_no_older_for_an_old_pod_that_its_user_has_ended_in_it(gpus: int) -> None:
    """Labels and annotations of a pod may be written while it ends."""

    async def story(rig: Rig) -> None:
        own = {"muster.dev/min-member": "1"}
        other = pod("other", node="node-00000", gpus=8 - gpus)
        rig.see(other, made_at(pod("w-0", annotations=own, labels={"muster.dev/group": "w"}), 10))
        await rig.settle()
        said = {**own, PLAN: "n/g/1/x of 1"}
        label = {"muster.dev/group": "g"}
        old = pod("old", gpus=gpus, node="node-00000", labels=label, annotations=said)
        old.metadata.creation_timestamp = "2020-01-01T00:00:00Z"
        old.metadata.deletion_timestamp = "2026-01-01T00:00:00Z"
        rig.see(old)
        await rig.settle()
        rig.lose(old)
        rig.see(made_at(pod("g-0", labels=label, annotations=own), 20))
        await rig.settle()
        rig.lose(other)
        await rig.settle()
        assert set(rig.placed()) == {"w-0"}

    tried(story, nodes=1)


MOMENTS = ["its pods end", "its pods are gone", "some are back", "all are back", "twice"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", [*KINDS, "LeaderWorkerSet"])
def test_a_gang_that_was_evicted_keeps_its_place_over_a_restart(kind: str, moment: str) -> None:
    async def story(rig: Rig) -> None:
        run = Run(rig, kind, 3)
        await run.start()
        said = {"muster.dev/group": "later", "muster.dev/min-member": "3"}
        rig.see(*(made_at(pod(f"later-{i}", annotations=said), 10) for i in range(3)))
        await run.lose(2)
        await passes(rig, 140.0)
        assert len(rig.evicted()) == 2
        gone = [rig.control.pods[uid] for uid in run.uids.values()]
        run.uids = {number: f"g-{number}-anew" for number in range(3)}
        back = [made_at(run.member(number), 20) for number in range(3)]
        # nobody gets the nodes before the pods are back
        others = [pod(f"o-{n}", node=f"node-{n:05d}", gated=False) for n in range(3)]
        rig.see(*others)
        if moment != "its pods end":
            rig.lose(*gone)
            await rig.settle()
            rig.see(*back[: {"some are back": 1, "all are back": 3}.get(moment, 0)])
        anew = rig.restarted()
        await anew.settle()
        if moment == "twice":
            anew = anew.restarted()
        if moment == "its pods end":
            anew.lose(*gone)
        await anew.settle()
        anew.see(*back)
        await anew.settle()
        anew.lose(*others)
        await anew.settle()
        assert sorted(anew.placed()) == ["g-0", "g-1", "g-2"]
        run.rig = anew
        await run.bind(anew)
        anew.lose(*(anew.control.pods[uid] for uid in run.uids.values()))
        await anew.settle()
        assert "later-0" in anew.placed()
        assert anew.api.records[AGES]["data"]["ages"] == "[]"

    tried(story, nodes=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gang_that_shrank_and_is_to_grow_again_runs_on_after_a_restart(kind: str) -> None:
    """What its pods were told when they started together is no longer what it needs."""

    async def story(rig: Rig) -> None:
        run = Run(rig, kind, 4)
        await run.start()
        run.says(2)
        for number in (3, 2):
            await run.lose(number)
        assert await passes(rig) == []
        rig.see(*(pod(f"other-{n}", node=f"node-{n:05d}", gated=False) for n in (2, 3)))
        run.says(4)
        await run.make(2, 3)
        assert await passes(rig) == [] and len(rig.control.gangs) == 1
        anew = rig.restarted()
        await anew.settle()
        assert await passes(anew) == []

    tried(story)


@pytest.mark.parametrize("lane", ["pinned", "direct"])
@pytest.mark.parametrize("kind", ["bare", "Job of one"])
def test_a_lone_pod_that_was_told_and_not_bound_is_a_gang_after_a_restart(
    lane: str, kind: str
) -> None:
    """It is gated no more, and only the record says that its node is kept for it."""

    async def story(rig: Rig) -> None:
        is_direct = lane == "direct"
        said = {"schedulerName": "muster-direct"} if is_direct else {}
        if kind == "Job of one":
            rig.thing("Job", "g", {"parallelism": 1, "completions": 1})
            said |= {"labels": {INDEX: "0"}, "owner": ("Job", "g", "uid-g")}
        if is_direct:
            rig.refuse("/binding", ApiError(0, "no answer"))
        rig.see(pod("lone", **said))
        await rig.settle()
        anew = rig.restarted(**DIRECT)
        anew.control.recovery.erase_left()
        await anew.settle()
        (slot,) = anew.control.gangs[anew.control.key_of_pod["lone"]].slots
        assert not slot.is_bound and anew.placed() == ({"lone": slot.node} if is_direct else {})
        group = {"labels": {"muster.dev/group": "x"}, "annotations": {"muster.dev/min-member": "2"}}
        anew.see(*(pod(f"x-{i}", **group) for i in range(2)))
        await anew.settle()
        assert not {"x-0", "x-1"} & anew.placed().keys(), "one of two nodes is the lone pod's"

    tried(story, nodes=2, **DIRECT)


def test_a_gang_that_its_user_ends_while_muster_restarts_is_a_new_one() -> None:
    """Its pods end as those of an evicted one do."""

    async def story(rig: Rig) -> None:
        run = Run(rig, "pod group", 3)
        await run.start()
        said = {"muster.dev/group": "later", "muster.dev/min-member": "3"}
        rig.see(*(made_at(pod(f"later-{i}", annotations=said), 10) for i in range(3)))
        for number in range(3):
            item = msgspec.to_builtins(rig.control.pods[run.uids[number]])
            item["metadata"]["deletionTimestamp"] = "2026-01-01T00:15:00Z"
            rig.see(msgspec.convert(item, Pod))
        anew = rig.restarted()
        anew.control.active = False
        await anew.settle()
        anew.lose(*(anew.control.pods[uid] for uid in run.uids.values()))
        await anew.settle()
        run.uids = {number: f"g-{number}-anew" for number in range(3)}
        anew.see(*(made_at(run.member(number), 20) for number in range(3)))
        anew.control.active = True
        await anew.settle()
        assert sorted(anew.placed()) == ["later-0", "later-1", "later-2"]

    tried(story, nodes=3)


@pytest.mark.parametrize("scheduler", ["default-scheduler", "muster-direct"])
@pytest.mark.parametrize("runs", [True, False])
def test_a_plan_that_was_given_up_before_anybody_knew_is_not_gone_on_with(
    scheduler: str, runs: bool
) -> None:
    """A node of it was closed while it was written down, and another gang has the others by now.

    The next muster looked at that gang first, and bound its pods to nodes on which others ran.
    """

    async def story(rig: Rig) -> None:
        take, stale = rig.api.persist, []

        async def closes(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            reply = await take(method, path, body, **more)
            if method == "POST" and path.endswith("/configmaps") and not stale:
                stale.extend(rig.records_there())
                close(rig, "node-00002")
            return reply

        rig.api.persist = closes  # type: ignore[method-assign]
        of_g = {"annotations": {"muster.dev/min-member": "3"}, "schedulerName": scheduler}
        rig.see(*(pod(f"g-{n}", labels={"muster.dev/group": "g"}, **of_g) for n in range(3)))
        await rig.settle()
        assert stale and not rig.placed() and not rig.records_there()
        of_x = {"annotations": {"muster.dev/min-member": "2"}, "schedulerName": scheduler}
        of_x |= {"labels": {"muster.dev/group": "x"}, "priority": 10}
        rig.see(*(pod(f"x-{n}", **of_x) for n in range(2)))
        await rig.settle()
        nodes = rig.placed()
        assert set(nodes) == {"x-0", "x-1"}
        if runs:
            rig.see(
                *(bound_to(one, nodes) for one in rig.pods_written() if one.metadata.name in nodes)
            )
            await rig.pass_s(1.0)
        close(rig, "node-00002", closed=False)
        anew = rig.restarted()
        anew.found(stale[0])  # it may also have been left by an earlier version
        for _ in anew.control.turns():  # others have their turn
            for _ in range(30):
                await asyncio.sleep(0)
        await anew.settle()
        held = [slot.node for gang in anew.control.gangs.values() for slot in gang.slots]
        assert len(held) == len(set(held))
        if runs or scheduler != "muster-direct":  # else nobody knows of either plan
            assert set(anew.placed().items()) <= set(nodes.items())
            assert sorted(held) == sorted(nodes.values())

    tried(story, nodes=3)


def bound_to(one: Pod, nodes: dict[str, str]) -> Pod:
    spec = msgspec.structs.replace(
        one.spec, node_name=nodes[one.metadata.name], scheduling_gates=[]
    )
    return msgspec.structs.replace(one, spec=spec)
