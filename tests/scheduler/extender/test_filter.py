"""filter for pods that belong to no gang: answers are kept, and must not outlive the facts."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from scheduler.extender import verbs
from scheduler.extender.verbs import RESERVED, Extender, FilterArgs
from scheduler.kube.objects import Pod
from scheduler.kube.watch import Change
from scheduler.workloads.requests import pod_shape
from tests.scheduler.controller.rig import RESOURCE, Rig, pod, tried

NODES = 6


def answer(extender: Extender, one: Pod, names: list[str] | None) -> dict[str, Any]:
    args = FilterArgs(one, msgspec.Raw(msgspec.json.encode(names)))
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(extender.filter(args)))
    return found


def expected(rig: Rig, one: Pod, names: list[str]) -> dict[str, Any]:
    """Return the answer by a look at each name."""
    shape = pod_shape(one, RESOURCE)
    rooms = {name: rig.ledger.room_beside_gangs(name) for name in names}
    refused = {name for name, room in rooms.items() if room is not None and not room.holds(shape)}
    if rig.ledger.all_have_room(shape):
        refused = set()
    kept = [name for name in names if name not in refused]
    return {"NodeNames": kept, "FailedNodes": dict.fromkeys(refused, RESERVED), "Error": ""}


@pytest.mark.parametrize("seed", range(20))
def test_a_kept_answer_is_that_of_the_facts(seed: int) -> None:
    rng = random.Random(seed)

    async def story(rig: Rig) -> None:
        extender = Extender(rig.control)
        names = [*sorted(rig.ledger.nodes), "unknown"]
        singles = [pod(f"single-{gpus}", gpus=gpus, gated=False) for gpus in (1, 4, 8)]
        there: list[Pod] = []
        for number in range(60):
            match rng.randrange(5):
                case 0:
                    gpus = rng.choice([1, 4, 8])
                    label = {"muster.dev/group": f"g-{number}"}
                    there.append(pod(f"g-{number}", labels=label, gpus=gpus))
                    rig.see(there[-1])
                case 1 if there:
                    rig.lose(there.pop(rng.randrange(len(there))))
                case 2:
                    where = rng.choice(names[:NODES])
                    there.append(pod(f"f-{number}", gpus=rng.choice([1, 4]), node=where))
                    rig.see(there[-1])
                case 3:
                    rig.node(rng.randrange(NODES), rng.choice([0, 8, 8]), Change.MODIFIED)
                case _:
                    pass
            await rig.settle()
            some = [*names] if rng.random() < 0.7 else rng.sample(names, rng.randrange(1, 7))
            for one in rng.sample(singles, 2):
                assert answer(extender, one, some) == expected(rig, one, some)

    tried(story, nodes=NODES)


def test_no_candidates_are_no_nodes() -> None:
    async def story(rig: Rig) -> None:
        extender = Extender(rig.control)
        for names in ([], None):
            assert answer(extender, pod("x", gpus=1, gated=False), names)["NodeNames"] == []

    tried(story)


def test_the_names_are_looked_at_once_while_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(rig: Rig) -> None:
        extender, looks = Extender(rig.control), []
        left = extender._left
        monkeypatch.setattr(extender, "_left", lambda *some: (looks.append(some), left(*some))[1])
        names = sorted(rig.ledger.nodes)
        for number in range(5):
            answer(extender, pod(f"x-{number}", gpus=1, gated=False), names)
        assert len(looks) == 1
        rig.see(pod("f", gpus=1, node=names[0]))
        await rig.settle()
        answer(extender, pod("x-9", gpus=1, gated=False), names)
        assert len(looks) == 2

    tried(story)


def test_pods_that_are_gone_before_the_watch_tells_of_them_are_not_kept_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verbs, "MOST_REFUSED", 10)

    async def story(rig: Rig) -> None:
        extender = Extender(rig.control)
        rig.see(*(pod(f"there-{n}", node=f"node-{n:05d}", gated=False) for n in range(4)))
        said = {"muster.dev/group": "g", "muster.dev/min-member": "4"}
        rig.see(*(pod(f"g-{n}", annotations=said) for n in range(4)))
        rig.lose(*(pod(f"there-{n}") for n in range(4)))
        await rig.settle()
        for number in range(100):
            answer(extender, pod(f"gone-{number}", gated=False), list(rig.ledger.nodes))
        assert list(rig.control.refused) == [f"gone-{n}" for n in range(90, 100)]

    tried(story)
