"""What muster has heard counts at once: for each write, not only from the next step on.

Facts are looked at together, some 25 ms later, and writes may wait much longer for their turn.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from kubernetes.aio.client import Configuration

from scheduler.core.model import PodShape
from scheduler.extender.binds import BindArgs, Binds
from scheduler.extender.verbs import Extender, FilterArgs
from scheduler.kube.api import Api, ApiError
from scheduler.kube.objects import Pod
from scheduler.kube.watch import Change
from tests.scheduler.controller.rig import Rig, pod, tried

JOBSET = "jobset.sigs.k8s.io"
IGNORED = {"muster.dev/ignore": "yes"}


def member(rank: int, size: int = 2, **more: Any) -> Pod:
    """Return a pod of a gang, without a gate; one node has room for one of them."""
    said = {"muster.dev/group": "j", "muster.dev/min-member": str(size)}
    return pod(f"j-{rank}", annotations=said, **{"gated": False, **more})


def intruder(node: str, gpus: int = 8) -> Pod:
    """Return a pod that another scheduler put on a node."""
    return pod("intruder", node=node, gpus=gpus, annotations=IGNORED)


async def planned(rig: Rig, *pods: Pod) -> dict[str, str]:
    """Have pods planned; return the node of each."""
    rig.see(*pods)
    await rig.settle()
    return {uid: slot.node for uid, (_, slot) in rig.control.slot_of.items()}


class Asks:
    """Bind calls, as kube-scheduler makes them."""

    def __init__(self, rig: Rig) -> None:
        self._binds = Binds(rig.control)

    async def __call__(self, name: str, node: str) -> str:
        """Return why muster did not bind, or nothing."""
        loop = asyncio.get_running_loop()
        args = BindArgs(name, "n", name, node)
        return (await self._binds.bind(args, loop.time(), loop.create_future())).error


def bound(rig: Rig) -> list[str]:
    """Return the pods of which a Binding was written."""
    return [path.split("/")[-2] for _, path, _ in rig.api.requests if path.endswith("/binding")]


# -- a bind whose node was taken -----------------------------------------------------------------


def test_a_node_that_a_foreign_pod_took_is_not_bound_to() -> None:
    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0, 1))
        rig.see(intruder(nodes["j-0"]))  # and no step since
        assert await Asks(rig)("j-0", nodes["j-0"]) == f"there is no room left on {nodes['j-0']}"
        assert bound(rig) == []

    tried(story)


def test_a_foreign_pod_that_leaves_room_is_in_nobodys_way() -> None:
    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0, 1))
        rig.see(intruder(nodes["j-0"], gpus=0))
        assert await Asks(rig)("j-0", nodes["j-0"]) == ""

    tried(story)


@pytest.mark.parametrize("how", ["a pod of another gang", "fewer GPUs"])
def test_a_node_without_room_is_not_bound_to(how: str) -> None:
    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0, 1))
        if how == "fewer GPUs":
            rig.node(int(nodes["j-0"][-5:]), 4, Change.MODIFIED)
        else:
            other = {"muster.dev/group": "x", "muster.dev/min-member": "1"}
            rig.see(pod("x-0", node=nodes["j-0"], annotations=other))
        assert await Asks(rig)("j-0", nodes["j-0"])
        rig.control.step()
        assert await Asks(rig)("j-0", nodes["j-0"])
        assert bound(rig) == []

    tried(story)


def test_a_node_that_shrank_and_still_has_room_is_bound_to() -> None:
    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0, 1, gpus=4))
        rig.node(int(nodes["j-0"][-5:]), 4, Change.MODIFIED)
        assert await Asks(rig)("j-0", nodes["j-0"]) == ""

    tried(story)


def test_what_a_pod_does_not_ask_for_may_be_short() -> None:
    """A master without a GPU may go where a GPU broke under another's pod."""

    async def story(rig: Rig) -> None:
        own = {"muster.dev/group": "a", "muster.dev/min-member": "1"}
        rig.see(pod("a-0", node="node-00000", annotations=own))
        rig.node(0, 7, Change.MODIFIED)
        rig.see(member(0, gated=True, gpus=0), member(1, gated=True))
        await rig.settle()
        assert rig.placed().keys() == {"j-0", "j-1"}

    tried(story, nodes=2)


def test_what_a_foreign_pod_takes_too_much_of_need_not_be_asked_for() -> None:
    async def story(rig: Rig) -> None:
        rig.see(intruder("node-00000", gpus=9))
        rig.see(member(0, gated=True, gpus=0), member(1, gated=True))
        await rig.settle()
        assert rig.placed().keys() == {"j-0", "j-1"}

    tried(story, nodes=2)


# -- what happens while others of the gang are awaited -------------------------------------------


@pytest.mark.parametrize("steps", [0, 1])
def test_a_node_taken_while_the_others_are_awaited_binds_nobody(steps: int) -> None:
    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0), member(1))
        ask = Asks(rig)
        first = asyncio.create_task(ask("j-0", nodes["j-0"]))
        await asyncio.sleep(0)
        rig.see(intruder(nodes["j-0"]))
        for _ in range(steps):
            rig.control.step()
        answers = await asyncio.gather(first, ask("j-1", nodes["j-1"]))
        assert all(answers), answers
        assert bound(rig) == []

    tried(story)


@pytest.mark.parametrize("ends", ["gone", "going"])
def test_a_pod_that_goes_while_the_others_are_awaited_binds_nobody(ends: str) -> None:
    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0), member(1))
        ask = Asks(rig)
        first = asyncio.create_task(ask("j-0", nodes["j-0"]))
        await asyncio.sleep(0)
        if ends == "gone":
            rig.lose(member(0))
        else:
            rig.see(going(member(0)))
        answers = await asyncio.gather(first, ask("j-1", nodes["j-1"]))
        assert all(answers), answers
        assert bound(rig) == []

    tried(story)


def test_a_pod_that_is_going_is_not_bound() -> None:
    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0, 1))
        rig.see(going(member(0, 1)))
        assert await Asks(rig)("j-0", nodes["j-0"]) == "this pod is gone"

    tried(story)


def going(one: Pod) -> Pod:
    """Return a pod that was deleted and is still there, held by a finalizer."""
    meta = msgspec.structs.replace(one.metadata, deletion_timestamp="2026-01-01T00:00:00Z")
    return msgspec.structs.replace(one, metadata=meta)


@pytest.mark.parametrize("num_nodes", [2, 3])
def test_a_plan_that_lost_a_node_starts_only_with_all_of_its_gang(num_nodes: int) -> None:
    """Without a third node nobody starts; with one the rest goes there, and all start."""

    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0), member(1))
        rig.node(int(nodes["j-1"][-5:]), change=Change.DELETED)
        await rig.settle()
        assert (await Asks(rig)("j-0", nodes["j-0"]) == "") is (num_nodes == 3)
        assert bound(rig) == (["j-0"] if num_nodes == 3 else [])

    tried(story, nodes=num_nodes)


# -- pods of no gang -----------------------------------------------------------------------------


def test_a_lone_pod_is_not_bound_where_a_gang_went_since_it_was_let_pass() -> None:
    async def story(rig: Rig) -> None:
        lone = pod("lone", gated=False)
        rig.see(lone)
        names = msgspec.Raw(b'["node-00000"]')
        assert not msgspec.json.decode(
            msgspec.json.encode(Extender(rig.control).filter(FilterArgs(lone, names)))
        )["FailedNodes"]
        rig.see(member(0, 1, schedulerName="muster-direct"))
        await rig.settle()
        assert bound(rig) == ["j-0"]
        assert await Asks(rig)("lone", "node-00000") == "node-00000 is reserved for a gang"
        assert bound(rig) == ["j-0"]

    tried(story, nodes=1)


def test_a_lone_pod_counts_as_soon_as_it_is_being_bound() -> None:
    async def story(rig: Rig) -> None:
        rig.see(pod("lone", gated=False))
        assert await Asks(rig)("lone", "node-00000") == ""
        rig.see(member(0, 1, schedulerName="muster-direct"))
        await rig.settle()
        assert bound(rig) == ["lone"]

    tried(story, nodes=1)


def test_a_lone_pod_goes_on_counting_whatever_else_happens_to_it() -> None:
    """Other news of it, or a second call that fails, say nothing of the bind under way."""

    async def story(rig: Rig) -> None:
        rig.see(pod("lone", gated=False))
        slow = Slow(rig, "/lone/binding")
        first = asyncio.create_task(Asks(rig)("lone", "node-00000"))
        await slow.met.wait()
        slow.error = ApiError(403, "a quota")
        assert "a quota" in await Asks(rig)("lone", "node-00000")
        rig.see(pod("lone", gated=False, labels={"seen": "again"}))
        rig.see(member(0, 1, schedulerName="muster-direct"))
        await rig.settle()
        assert bound(rig) == []
        slow.error = None
        assert await Asks(rig)("lone", "node-00000") == ""
        slow.first_error = ApiError(403, "another quota")
        slow.go_on.set()
        assert "another quota" in await first
        await rig.settle()
        assert bound(rig) == ["lone"]
        rig.see(pod("lone", node="node-00000"))
        rig.lose(pod("lone", node="node-00000"))
        await rig.settle()
        assert bound(rig) == ["lone", "j-0"]
        assert not rig.control.being_bound

    tried(story, nodes=1)


def test_a_lone_pod_that_is_bound_counts_only_there() -> None:
    async def story(rig: Rig) -> None:
        rig.see(pod("lone", node="node-00001"))
        assert await Asks(rig)("lone", "node-00000") == "it is bound to node-00001"
        assert await Asks(rig)("lone", "node-00001") == ""
        rig.see(member(0, 1, schedulerName="muster-direct"))
        await rig.settle()
        assert rig.placed() == {"j-0": "node-00000"}

    tried(story, nodes=2)


def test_a_lone_pod_that_is_being_bound_is_not_bound_elsewhere() -> None:
    async def story(rig: Rig) -> None:
        rig.see(pod("lone", gated=False))
        assert await Asks(rig)("lone", "node-00000") == ""
        assert await Asks(rig)("lone", "node-00001") == "it is being bound to node-00000"
        rig.see(member(0, 1, schedulerName="muster-direct"))
        await rig.settle()
        assert rig.placed() == {"lone": "node-00000", "j-0": "node-00001"}

    tried(story, nodes=2)


@pytest.mark.parametrize("promised", [True, False])
def test_what_is_promised_beside_a_foreign_pod_is_not_given_away(promised: bool) -> None:
    """kube-scheduler counts who is bound; muster alone knows who else will be."""

    async def story(rig: Rig) -> None:
        rig.see(intruder("node-00000", gpus=4))
        lone = pod("lone", gated=False, gpus=4)
        rig.see(lone)
        if promised:
            rig.see(member(0, 1, gated=True, gpus=4))
        await rig.settle()
        answer = Extender(rig.control).filter(FilterArgs(lone, msgspec.Raw(b'["node-00000"]')))
        assert (b"node-00000" in msgspec.json.encode(answer.failed_nodes)) is promised

    tried(story, nodes=1)


def test_a_pod_that_turns_out_to_be_a_gangs_counts_once() -> None:
    async def story(rig: Rig) -> None:
        labels = {"batch.kubernetes.io/job-completion-index": "0"}
        one = pod("w-0", labels=labels, owner=("Job", "w", "uid-w"), node="node-00000", gpus=4)
        rig.thing("Job", "w", {"parallelism": 1, "completions": 9})
        rig.see(one)
        await rig.settle()
        rig.thing("Job", "w", {"parallelism": 2, "completions": 2})
        rig.see(one)
        await rig.settle()
        assert [free.gpus for free in rig.ledger.state.capacity.free_on_each()] == [4]
        assert not rig.ledger.overfull("node-00000", PodShape(4))

    tried(story, nodes=1)


class Slow:
    """Keeps the first request of a kind until it may go on; fails later ones if it shall."""

    def __init__(self, rig: Rig, ending: str) -> None:
        self.met, self.go_on = asyncio.Event(), asyncio.Event()
        self.error: ApiError | None = None
        self.first_error: ApiError | None = None
        plain = rig.api.call

        async def call(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if not path.endswith(ending):
                return await plain(method, path, body, **more)
            if not self.met.is_set():
                self.met.set()
                await self.go_on.wait()
                if self.first_error is not None:
                    raise self.first_error
            elif self.error is not None:
                raise self.error
            return await plain(method, path, body, **more)

        rig.api.call = rig.api.persist = call  # type: ignore[method-assign]


def test_a_lone_pod_that_was_not_bound_does_not_count() -> None:
    async def story(rig: Rig) -> None:
        rig.see(pod("lone", gated=False))

        async def refuse(*_: Any, **__: Any) -> bytes:
            raise ApiError(403, "a quota")

        works, rig.api.call = rig.api.call, refuse  # type: ignore[method-assign]
        assert "a quota" in await Asks(rig)("lone", "node-00000")
        rig.api.call = works  # type: ignore[method-assign]
        rig.see(member(0, 1, schedulerName="muster-direct"))
        await rig.settle()
        assert bound(rig) == ["j-0"]

    tried(story, nodes=1)


# -- writes that wait for their turn -------------------------------------------------------------


def hooked(rig: Rig, method: str, ending: str, then: Any) -> None:
    """Have something happen once such a request was answered."""
    plain = rig.api.persist

    async def persist(asked: str, path: str, body: Any = None, **more: Any) -> bytes:
        reply = await plain(asked, path, body, **more)
        if asked == method and path.endswith(ending):
            rig.api.persist = plain  # type: ignore[method-assign]
            then()
        return reply

    rig.api.persist = persist  # type: ignore[method-assign]


def test_a_node_taken_between_two_writes_of_the_direct_lane_is_not_bound_to() -> None:
    async def story(rig: Rig) -> None:
        def take() -> None:
            ((_, slot),) = rig.control.slot_of.values()
            rig.see(intruder(slot.node))

        hooked(rig, "PATCH", "/pods/j-0", take)  # its gate is off
        rig.see(member(0, 1, gated=True, schedulerName="muster-direct"))
        await rig.settle()
        assert bound(rig) == []

    tried(story)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("lane", ["muster-direct", "default-scheduler"])
def test_a_node_lost_while_the_plan_is_written_down_starts_nobody(lane: str, steps: int) -> None:
    """Pods that nobody told yet are all planned anew: a part of the gang must not start."""

    async def story(rig: Rig) -> None:
        lost = []

        def lose() -> None:
            slot = rig.control.slot_of["j-1"][1]
            lost.append(slot.node)
            rig.node(int(slot.node[-5:]), change=Change.DELETED)
            for _ in range(steps):
                rig.control.step()

        hooked(rig, "POST", "/configmaps", lose)
        rig.see(*(member(i, gated=True, schedulerName=lane) for i in range(2)))
        await rig.settle()
        assert lost
        assert rig.placed() == {}
        rig.node(int(lost[0][-5:]))
        await rig.settle()
        assert len(set(rig.placed().values())) == 2
        assert_no_record_is_left(rig, but=1)

    tried(story, nodes=2)


@pytest.mark.parametrize("code", [0, 409])
def test_a_plan_that_was_given_up_takes_nothing_from_the_next(code: int) -> None:
    """Its record could not be written, and meanwhile its pods were planned anew."""

    async def story(rig: Rig) -> None:
        slow = Slow(rig, "/configmaps")
        slow.first_error = ApiError(code, "no")
        rig.see(*(member(i, gated=True) for i in range(2)))
        rig.control.step()
        await slow.met.wait()
        rig.node(int(rig.control.slot_of["j-1"][1].node[-5:]), change=Change.DELETED)
        rig.control.step()
        slow.go_on.set()
        await rig.settle()
        assert rig.placed() == {u: slot.node for u, (_, slot) in rig.control.slot_of.items()}
        assert len(set(rig.placed().values())) == 2
        assert len(rig.ledger.requests) == 1

    tried(story, nodes=5)


@pytest.mark.parametrize("code", [None, 0, 409])
def test_a_plan_of_a_gang_that_is_gone_takes_nothing_from_the_next_of_its_name(
    code: int | None,
) -> None:
    async def story(rig: Rig) -> None:
        slow = Slow(rig, "/configmaps")
        slow.first_error = None if code is None else ApiError(code, "no")
        rig.see(*(member(i, gated=True) for i in range(2)))
        rig.control.step()
        await slow.met.wait()
        rig.lose(*(member(i, gated=True) for i in range(2)))
        rig.control.step()
        rig.see(*(member(i, gated=True, uid=f"new-{i}") for i in range(2)))
        await rig_steps(rig)
        slow.go_on.set()
        await rig.settle()
        rival = {"muster.dev/group": "r", "muster.dev/min-member": "2"}
        rig.see(*(pod(f"r-{i}", annotations=rival) for i in range(2)))
        await rig.settle()
        assert rig.placed().keys() == {"j-0", "j-1"}
        assert not any(method == "DELETE" for method, _, _ in rig.api.requests)

    tried(story, nodes=2)


async def rig_steps(rig: Rig, num: int = 3) -> None:
    """Make steps while a write is held, and let other writes go on."""
    for _ in range(num):
        rig.control.step()
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.mark.parametrize("lane", ["muster-direct", "default-scheduler"])
def test_a_plan_whose_node_was_taken_starts_nobody_though_a_pod_is_gone(lane: str) -> None:
    async def story(rig: Rig) -> None:
        slow = Slow(rig, "/configmaps")
        rig.see(*(member(i, 3, gated=True, schedulerName=lane) for i in range(3)))
        rig.control.step()
        await slow.met.wait()
        rig.lose(member(0, 3, gated=True))
        rig.see(intruder(rig.control.slot_of["j-1"][1].node))
        rig.control.step()
        slow.go_on.set()
        await rig.settle()
        assert rig.placed() == {}

    tried(story, nodes=3)


def test_a_second_attempt_whose_node_was_taken_starts_nobody() -> None:
    """The pods of the first are still there when those of the second come."""

    def rank(number: int, attempt: int, **more: Any) -> Pod:
        labels = {
            f"{JOBSET}/jobset-name": "js",
            f"{JOBSET}/jobset-uid": "uid-js",
            f"{JOBSET}/restart-attempt": str(attempt),
            f"{JOBSET}/replicatedjob-name": "w",
            f"{JOBSET}/job-index": str(number),
        }
        owner = ("Job", f"js-w-{number}", f"j{number}-{attempt}")
        uid = f"{attempt}-{number}"
        return pod(f"js-w-{number}", labels=labels, owner=owner, uid=uid, **more)

    async def story(rig: Rig) -> None:
        job = {"name": "w", "replicas": 3, "template": {"spec": {"completions": 1}}}
        rig.thing("JobSet", "js", {"replicatedJobs": [job]})
        rig.see(*(rank(i, 0) for i in range(3)))
        await rig.settle()
        at = rig.placed()
        rig.see(*(rank(i, 0, node=at[f"js-w-{i}"]) for i in range(3)))
        await rig.pass_s(100.0)
        rig.api.requests.clear()
        slow = Slow(rig, "/configmaps")
        rig.see(*(rank(i, 0, node=at[f"js-w-{i}"], phase="Failed") for i in range(3)))
        rig.see(*(rank(i, 1) for i in range(3)))
        rig.control.step()
        await slow.met.wait()
        rig.see(intruder(rig.control.slot_of["1-1"][1].node))
        rig.control.step()
        slow.go_on.set()
        await rig.settle()
        assert rig.placed() == {}

    tried(story, nodes=3)


def test_a_successors_node_is_kept_while_it_is_being_told() -> None:
    """The time of its predecessor is over; what the API server says may change with the answer."""

    async def story(rig: Rig) -> None:
        rig.see(*(member(i, gated=True) for i in range(2)))
        await rig.settle()
        at = rig.placed()
        rig.see(*(member(i, node=at[f"j-{i}"]) for i in range(2)))
        await rig.settle()
        rival = {"muster.dev/group": "r", "muster.dev/min-member": "1"}
        rig.see(pod("r-0", annotations=rival))
        await rig.pass_s(200.0)
        rig.lose(member(1, node=at["j-1"]))
        rig.control.step()
        slow = Slow(rig, "/pods/j-1")
        rig.see(member(1, gated=True, uid="anew"))
        rig.control.step()
        await slow.met.wait()
        rig.see(member(1, gated=True, uid="anew", labels={"seen": "again"}))
        await rig_steps(rig)
        assert rig.control.slot_of["anew"][1].node == at["j-1"]
        slow.go_on.set()
        await rig.settle()
        assert rig.placed() == at

    tried(story, nodes=2)


def test_a_pod_that_is_ending_when_muster_starts_holds_its_node() -> None:
    async def story(rig: Rig) -> None:
        other = {"muster.dev/group": "x", "muster.dev/min-member": "1"}
        ends = going(pod("x-0", node="node-00000", annotations=other))
        rig.see(member(0, 1, schedulerName="muster-direct"), ends)
        await rig.settle()
        assert bound(rig) == []
        rig.see(pod("x-0", uid="anew", annotations=other))
        await rig.settle()
        rig.lose(ends)
        await rig.settle()
        assert rig.placed() == {"j-0": "node-00000"}, "nobody comes after it: first come"

    tried(story, nodes=1)


def test_a_plan_whose_node_was_taken_is_not_made_anew_at_once() -> None:
    async def story(rig: Rig) -> None:
        slow = Slow(rig, "/configmaps")
        rig.see(*(member(i, gated=True) for i in range(2)))
        rig.control.step()
        await slow.met.wait()
        rig.see(intruder(rig.control.slot_of["j-1"][1].node))
        slow.go_on.set()
        await rig.settle()
        assert rig.placed() == {}
        await rig.pass_s(15.0)
        assert len(set(rig.placed().values())) == 2

    tried(story)


def test_the_nodes_of_a_gang_that_starts_again_whole_are_kept_for_all_of_it() -> None:
    """The time of its first start is long over, and says nothing of those that come now."""

    async def story(rig: Rig) -> None:
        rig.see(*(member(i, 3, gated=True) for i in range(3)))
        await rig.settle()
        at = rig.placed()
        rig.see(*(member(i, 3, node=at[f"j-{i}"]) for i in range(3)))
        await rig.settle()
        rival = {"muster.dev/group": "r", "muster.dev/min-member": "3"}
        rig.see(*(pod(f"r-{i}", annotations=rival) for i in range(3)))
        await rig.pass_s(200.0)
        for i in range(3):
            rig.see(member(i, 3, node=at[f"j-{i}"], phase="Failed"))
        slow = Slow(rig, "/configmaps")
        rig.api.requests.clear()
        for i in range(2):
            rig.see(member(i, 3, gated=True, uid=f"anew-{i}"))
            await rig.settle()
            assert rig.placed() == {}, "nobody is told before all are there"
        rig.see(member(2, 3, gated=True, uid="anew-2"))
        rig.control.step()
        await slow.met.wait()
        rig.control.step()
        slow.go_on.set()
        await rig.settle()
        assert rig.placed() == at
        slots = rig.control.slot_of
        assert {f"j-{i}": slots[f"anew-{i}"][1].node for i in range(3)} == at

    tried(story, nodes=3)


def test_records_left_by_an_outage_are_removed_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scheduler.controller.plans.ERASE_AGAIN_S", 0.01)

    async def story(rig: Rig) -> None:
        plain, asked, most, down = rig.api.call, 0, 0, True

        async def call(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            nonlocal asked, most
            asked += 1
            most = max(most, asked)
            await asyncio.sleep(0.001)
            asked -= 1
            if down:
                raise ApiError(0, "down")
            return await plain(method, path, body, **more)

        rig.api.call = call  # type: ignore[method-assign]
        rig.control.plans._versions |= {f"n/g+{i}": str(i) for i in range(20)}
        tasks = [
            asyncio.create_task(rig.control.plans.erase(f"n/g+{i}", lambda: True))
            for i in range(20)
        ]
        await asyncio.sleep(0.1)
        most = 0
        await asyncio.sleep(0.1)
        assert most == 1
        down = False
        await asyncio.gather(*tasks)
        assert sum(method == "DELETE" for method, _, _ in rig.api.requests) == 20

    tried(story)


def assert_no_record_is_left(rig: Rig, but: int = 0) -> None:
    made = sum(m == "POST" and p.endswith("/configmaps") for m, p, _ in rig.api.requests)
    gone = sum(m == "DELETE" and "/configmaps/" in p for m, p, _ in rig.api.requests)
    assert made - gone == but


def test_a_slot_is_not_given_away_while_its_bind_may_still_be_made() -> None:
    """A try is under way or comes soon: that the API server has not got it yet says nothing."""

    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0, 1))
        plain, met, go_on = rig.api.call, asyncio.Event(), asyncio.Event()

        async def call(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith("/binding"):
                met.set()
                await go_on.wait()
            return await plain(method, path, body, **more)

        rig.api.call = call  # type: ignore[method-assign]
        asked = asyncio.create_task(Asks(rig)("j-0", nodes["j-0"]))
        await met.wait()
        await rig.pass_s(31.0)  # its time is over
        await rig.pass_s(1.0)
        assert "j-0" in rig.control.slot_of
        go_on.set()
        assert await asked == ""
        await rig.pass_s(20 * 30.0)
        assert "j-0" not in rig.control.slot_of, "nobody heard that it is bound"

    tried(story)


def test_a_bind_is_not_tried_again_for_a_plan_that_was_given_up() -> None:
    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0, 1))
        plain = rig.api.call

        async def busy(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if not path.endswith("/binding"):
                return await plain(method, path, body, **more)
            rig.api.call = plain  # type: ignore[method-assign]
            rig.see(intruder(nodes["j-0"]))
            raise ApiError(429, "too many requests")

        rig.api.call = busy  # type: ignore[method-assign]
        assert f"no room left on {nodes['j-0']}" in await Asks(rig)("j-0", nodes["j-0"])
        assert bound(rig) == []

    tried(story)


def test_a_successor_is_told_though_the_answer_for_its_predecessor_came_late() -> None:
    async def story(rig: Rig) -> None:
        def succeed() -> None:
            rig.lose(member(0, 1, gated=True))
            rig.see(member(0, 1, gated=True, uid="anew"))
            rig.control.step()

        hooked(rig, "PATCH", "/pods/j-0", succeed)
        rig.see(member(0, 1, gated=True))
        await rig.settle()
        told = [b["metadata"]["uid"] for m, p, b in rig.api.requests if p.endswith("/pods/j-0")]
        assert told == ["j-0", "anew"]

    tried(story)


def test_a_record_that_may_have_been_written_is_removed() -> None:
    async def story(rig: Rig) -> None:
        plain = rig.api.persist

        async def persist(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            reply = await plain(method, path, body, **more)
            if path.endswith("/configmaps"):
                rig.api.persist = plain  # type: ignore[method-assign]
                raise ApiError(0, "no answer")
            return reply

        rig.api.persist = persist  # type: ignore[method-assign]
        rig.see(member(0, 1, gated=True))
        await rig.settle()
        assert rig.placed(), "planned anew"
        assert_no_record_is_left(rig, but=1)

    tried(story)


def test_a_write_is_not_tried_again_by_who_does_not_lead_any_more() -> None:
    api, leads, tries = Api(Configuration()), [True], []

    async def call(method: str, *_: Any, **__: Any) -> bytes:
        tries.append(method)
        leads[0] = False
        raise ApiError(503, "busy")

    api.call = call  # type: ignore[method-assign]
    api.may_write = lambda: leads[0]
    with pytest.raises(ApiError, match="no longer leads"):
        asyncio.run(api.persist("POST", "/x", within_s=5.0))
    assert tries == ["POST"]
    with pytest.raises(ApiError, match="busy"):  # who only reads may
        asyncio.run(api.persist("GET", "/x", within_s=0.3))
    assert tries.count("GET") > 1


# -- an old word ---------------------------------------------------------------------------------


def test_a_bound_pod_does_not_lose_its_node_to_an_older_event() -> None:
    async def story(rig: Rig) -> None:
        nodes = await planned(rig, member(0, 1))
        rig.see(member(0, 1, node=nodes["j-0"]))
        rig.see(member(0, 1))
        await rig.pass_s(60.0)
        assert rig.control.slot_of["j-0"][1].bound

    tried(story)
