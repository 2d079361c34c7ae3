"""What is free for a head at its promised start, where pods without GPUs and lost ranks meddle."""

from __future__ import annotations

from scheduler.core.decisions import Admit
from scheduler.core.events import Admitted, GangSubmitted, NodeLost
from scheduler.core.model import Gang, Node, PodShape, Role, Selector, Slice
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_us
from scheduler.policies import catalog
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import let_pass

EASY = catalog.policy(PolicySpec(discipline="easy"))


def submit(
    state: ClusterState, name: str, roles: tuple[Role, ...], at_s: int, limit_s: int
) -> None:
    apply(state, GangSubmitted(Gang(name, roles, to_us(at_s), to_us(limit_s))))


def started(state: ClusterState, now_s: float) -> set[str]:
    return {d.gang for d in let_pass(state, EASY, now_s) if isinstance(d, Admit)}


def test_a_pod_without_gpus_takes_no_cpus_that_the_head_was_promised() -> None:
    whole = PodShape(8, 96_000)
    state = ClusterState([Node("n1", whole), Node("n2", whole)], EASY.order)
    submit(state, "run", (Role(1, whole),), 0, 100)
    assert started(state, 0.0) == {"run"}
    submit(state, "head", (Role(2, whole),), 1, 100)
    submit(state, "short", (Role(1, PodShape(8, 50_000)),), 2, 50)
    submit(state, "long", (Role(1, PodShape(0, 10_000)),), 3, 1000)
    assert started(state, 5.0) == {"short"}, "beside `short`, `long` would keep n2 from the head"


def test_a_head_without_gpus_keeps_its_promise() -> None:
    state = ClusterState([Node("n1", PodShape(0, 8000)), Node("n2", PodShape(0, 8000))], EASY.order)
    submit(state, "run", (Role(1, PodShape(0, 8000)),), 0, 100)
    assert started(state, 0.0) == {"run"}
    submit(state, "head", (Role(4, PodShape(0, 4000)),), 1, 100)
    submit(state, "short", (Role(1, PodShape(0, 7000)),), 2, 50)
    submit(state, "long", (Role(1, PodShape(0, 1000)),), 3, 1000)
    assert started(state, 5.0) == {"short"}


def test_ranks_that_the_head_still_holds_are_no_room_for_it() -> None:
    def role(gpus: int, name: str = "worker") -> tuple[Role, ...]:
        return (Role(1, PodShape(gpus), Selector(), name),)

    state = ClusterState([Node("n1", PodShape(8)), Node("n2", PodShape(4))], EASY.order)
    at = state.capacity.index_of
    n1, n2 = (Slice(0, at[name], at[name] + 1, 1) for name in ("n1", "n2"))
    for name, roles, limit_s, placement in (
        ("stays", role(3), 10_000, (n1,)),
        ("run", role(3), 100, (n1,)),
        ("head", role(1, "master") + role(4), 50, (n1, n2._replace(role=1))),
    ):
        submit(state, name, roles, 0, limit_s)
        apply(state, Admitted(name, placement, 0, to_us(limit_s)))
    apply(state, NodeLost("n2"))
    submit(state, "long", role(1), 5, 1000)
    assert started(state, 6.0) == set(), "`long` takes the GPU that the head's worker needs at 100"


def test_a_node_that_fills_up_leaves_what_comes_back_on_its_neighbours() -> None:
    def role(count: int, gpus: int) -> tuple[Role, ...]:
        return (Role(count, PodShape(gpus)),)

    state = ClusterState([Node(f"n{i}", PodShape(8)) for i in range(3)], EASY.order)
    submit(state, "run", role(1, 8), 0, 1000)
    assert started(state, 0.0) == {"run"}
    submit(state, "head", role(3, 8), 1, 100)
    submit(state, "short", role(4, 3), 2, 500)  # on two nodes, the first of which
    submit(state, "short too", role(1, 2), 3, 500)  # this one fills
    submit(state, "long", role(1, 2), 4, 5000)
    assert started(state, 5.0) == {"short", "short too"}, "`long` would keep a node from the head"


def test_a_role_that_fills_one_node_of_another_role_leaves_the_rest_to_come_back() -> None:
    state = ClusterState([Node(f"n{i}", PodShape(8)) for i in range(3)], EASY.order)
    submit(state, "run", (Role(1, PodShape(8)),), 0, 1000)
    assert started(state, 0.0) == {"run"}
    submit(state, "head", (Role(3, PodShape(8)),), 1, 100)
    submit(state, "short", (Role(2, PodShape(5)), Role(1, PodShape(3), name="evaluator")), 2, 500)
    submit(state, "long", (Role(1, PodShape(3)),), 3, 5000)
    assert started(state, 5.0) == {"short"}, "`long` would keep a node from the head"
