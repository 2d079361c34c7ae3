"""Classes of nodes: as pods tell them apart, at a bounded price."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from scheduler.controlplane.objects import node as played
from scheduler.kube.objects import NodeObject, Pod
from scheduler.workloads.eligibility import clause_matches, may_use, term_matches
from scheduler.workloads.limits import MOST_CLAUSES, MOST_LISTED, MOST_VALUES, excess
from scheduler.workloads.nodeclasses import MOST_RECENT, NodeClasses

HOST = "kubernetes.io/hostname"


def node(number: int, taints: Any = (), **labels: str) -> NodeObject:
    made = played(number, 8)
    made["metadata"]["labels"].update(labels)
    made["spec"] = {"taints": list(taints)}
    return msgspec.convert(made, NodeObject)


def pod(**spec: Any) -> Pod:
    return msgspec.convert({"metadata": {"name": "p"}, "spec": {"containers": [], **spec}}, Pod)


def near(*terms: Any) -> dict[str, Any]:
    """Return a required node affinity."""
    required = {"nodeSelectorTerms": list(terms)}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def sort(nodes: list[NodeObject], *pods: Pod, old: NodeClasses | None = None) -> NodeClasses:
    *_, found = (old or NodeClasses()).sorted_anew(nodes, [(one, frozenset()) for one in pods])
    return found


def some_pod(draw: random.Random) -> Pod:
    """Return a pod with any kinds of constraints."""
    spec: dict[str, Any] = {}
    keys = ["zone", "rack", "size", HOST, "none"]
    if draw.random() < 0.3:
        spec["nodeSelector"] = {draw.choice(keys): draw.choice("0123")}
    if draw.random() < 0.6:
        terms = []
        for _ in range(draw.randrange(3)):
            operator = draw.choice(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"])
            values = [draw.choice("012x") for _ in range(draw.randrange(1, 3))]
            clause = {"key": draw.choice(keys), "operator": operator, "values": values}
            name = f"node-{draw.randrange(40):05d}"
            by_name = {"key": "metadata.name", "operator": "NotIn", "values": [name]}
            terms.append(draw.choice([
                {"matchExpressions": [clause]}, {"matchExpressions": [clause, clause]},
                {"matchFields": [by_name]}, {},
            ]))  # fmt: skip
        spec["affinity"] = near(*terms)
    if draw.random() < 0.5:
        effect = draw.choice(["", "NoSchedule", "NoExecute"])
        one = {"key": draw.choice(["", "gpu", "odd"]), "effect": effect}
        if draw.random() < 0.5:
            one |= {"operator": "Exists"}
        else:
            one |= {"value": draw.choice(["", "a"])}
        spec["tolerations"] = [one]
    return pod(**spec)


def some_node(draw: random.Random, number: int) -> NodeObject:
    labels = {key: draw.choice("0123") for key in ("zone", "rack", "size") if draw.random() < 0.8}
    taints = [
        {"key": draw.choice(["gpu", "odd"]), "value": draw.choice(["", "a"]), "effect": effect}
        for effect in ("NoSchedule", "NoExecute", "PreferNoSchedule")
        if draw.random() < 0.2
    ]
    return node(number, taints, **labels)


@pytest.mark.parametrize("seed", range(30))
def test_a_selector_lets_a_pod_to_the_very_nodes_that_it_may_use(seed: int) -> None:
    draw = random.Random(seed)
    nodes = [some_node(draw, number) for number in range(30)]
    pods = [some_pod(draw) for _ in range(8)]
    classes = sort(nodes, *pods)
    for number in range(30, 40):  # some come later, and one changes
        nodes.append(some_node(draw, number))
        classes.class_of(nodes[-1])
    nodes[7] = some_node(draw, 7)
    classes.class_of(nodes[7])
    late = [some_pod(draw) for _ in range(4)]
    known = [*pods, *(one for one in late if not classes.learn(one))]
    if len(known) < 12:
        classes = sort(nodes, *pods, *late, old=classes)
        known = [*pods, *late]
    for one in known:
        pools = classes.selector(one).pool
        allowed = {n.metadata.name for n in nodes if may_use(one, n)}
        found = {
            n.metadata.name
            for n in nodes
            if not pools or classes.class_of(n)[0] in pools.split("|")
        }
        assert found == allowed, one.spec


def test_a_list_of_nodes_to_keep_off_makes_two_classes_and_not_one_of_each() -> None:
    hosts = [f"node-{number:05d}" for number in range(100)]
    clause = {"key": HOST, "operator": "NotIn", "values": hosts}
    nodes = [node(number) for number in range(300)]
    assert sort(nodes, pod(affinity=near({"matchExpressions": [clause]}))).num_classes == 2


def test_values_that_no_node_has_tell_no_nodes_apart() -> None:
    classes = sort([node(number) for number in range(100)], pod())
    for number in range(500):
        assert not classes.learn(pod(nodeSelector={"job": f"j{number}"}))
        assert classes.selector(pod(nodeSelector={"job": f"j{number}"})).pool == "none"
    assert classes.num_classes == 1


def test_what_no_waiting_pod_asks_for_is_forgotten() -> None:
    nodes = [node(number) for number in range(300)]
    gone = [pod(nodeSelector={HOST: f"node-{number:05d}"}) for number in range(200)]
    classes = sort(nodes, *gone)
    assert classes.num_classes == 201
    classes = sort(nodes, pod(), old=classes)
    assert classes.num_known == MOST_RECENT + 1
    assert classes.num_classes == MOST_RECENT + 1


def test_what_is_learnt_without_a_sorting_is_not_kept_for_ever() -> None:
    classes = sort([node(0)], pod())
    asked = (pod(nodeSelector={"job": f"j{number}"}) for number in range(5000))
    assert next(number for number, one in enumerate(asked) if classes.learn(one)) < 1500


class Looks(dict[str, str]):
    """Labels that count how often they are looked at."""

    num = 0

    def get(self, key: str, default: Any = None) -> Any:
        Looks.num += 1
        return super().get(key, default)


def test_what_a_pod_lists_is_not_looked_for_on_every_node() -> None:
    nodes = [node(number) for number in range(1000)]
    for one in nodes:
        one.metadata.labels = Looks(one.metadata.labels)
    classes = sort(nodes, pod())
    terms = [
        {"matchExpressions": [{"key": HOST, "operator": "In", "values": [f"node-{number:05d}"]}]}
        for number in range(1000)
    ]
    monster = pod(affinity=near(*terms), nodeSelector={f"k{number}": "v" for number in range(1000)})
    Looks.num = 0
    classes.learn(monster)
    assert Looks.num <= 2 * len(nodes), "a label of each node is read once, for all terms and keys"


@pytest.mark.parametrize(
    ("taints", "labels", "num_looks"),
    [
        ([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}], {}, 0),
        ([], {"version": "new"}, 0),
        ([], {"zone": "new"}, 1),
        ([{"key": "broken", "effect": "NoSchedule"}], {}, 0),  # for whom does not tolerate it
    ],
)
def test_a_node_that_changes_is_looked_at_for_those_alone_who_ask_for_what_changed(
    taints: Any, labels: dict[str, str], num_looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    monkeypatch.setattr(
        "scheduler.workloads.nodeclasses.term_matches",
        lambda term, labels: looks.append(term) or term_matches(term, labels),
    )
    lists = [{"key": HOST, "operator": "NotIn", "values": [f"v{number}"]} for number in range(50)]
    lists.append({"key": "zone", "operator": "NotIn", "values": ["old"]})
    asked = [pod(affinity=near({"matchExpressions": [clause]})) for clause in lists]
    classes = sort([node(number) for number in range(10)], *asked)
    looks.clear()
    classes.class_of(node(3, taints, **labels))
    assert len(looks) == num_looks


@pytest.mark.parametrize("seed", range(20))
def test_after_changes_of_nodes_a_pod_may_use_what_it_may_use(seed: int) -> None:
    draw = random.Random(seed)
    asked = [some_pod(draw) for _ in range(20)]
    nodes = {number: node(number) for number in range(20)}
    classes = sort(list(nodes.values()), *asked)
    for _ in range(60):
        number = draw.randrange(24)
        labels = {
            key: draw.choice("0123x") for key in ("zone", "rack", "size") if draw.random() < 0.5
        }
        taints = [{"key": key, "effect": "NoSchedule"} for key in "ab" if draw.random() < 0.2]
        nodes[number] = node(number, taints, **labels)
        classes.class_of(nodes[number])
    for one in asked:
        pool = classes.selector(one).pool
        fits = {
            at
            for at, name in nodes.items()
            if not pool or classes.class_of(name)[0] in pool.split("|")
        }
        assert fits == {at for at, name in nodes.items() if may_use(one, name)}


def test_between_two_turns_few_nodes_are_sorted() -> None:
    nodes = [node(number) for number in range(1000)]
    pods = [pod(nodeSelector={HOST: f"node-{number:05d}"}) for number in range(100)]
    turns = list(NodeClasses().sorted_anew(nodes, [(one, frozenset()) for one in pods]))
    assert len(turns) > 2 * len(pods) + len(nodes) // 100


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"nodeSelector": {f"k{n}": "v" for n in range(5000)}}, "5,000 node selector keys"),
        ({"tolerations": [{"key": f"k{n}"} for n in range(9999)]}, "9,999 tolerations"),
        ({"containers": [{}] * 300}, "300 containers"),
        ({"initContainers": [{}] * 300}, "300 containers"),
        ({"containers": [{"ports": [{"hostPort": 1}] * 300}]}, "300 ports"),
        ({"volumes": [{"name": "v"}] * 300}, "300 volumes"),
        ({"resourceClaims": [{}] * 100}, "100 resource claims"),
        ({"topologySpreadConstraints": [{}] * 100}, "100 topology spread constraints"),
        ({"schedulingGates": [{"name": "g"}] * 100}, "100 scheduling gates"),
        (
            {"containers": [{"resources": {"limits": {f"x/{n}": 1 for n in range(100)}}}]},
            "100 resources",
        ),
        (
            {"affinity": {"podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{}] * 100}}},
            "100 terms of podAntiAffinity",
        ),
        ({"affinity": near(*[{}] * 7500)}, "7,500 node affinity terms"),
        (
            {"affinity": near({"matchExpressions": [{"key": "k"}] * 300})},
            "300 node affinity expressions",
        ),
        (
            {"affinity": near({"matchExpressions": [{"key": "k", "values": ["v"] * 3000}]})},
            "3,000 node affinity values",
        ),
    ],
)  # fmt: skip
def test_a_pod_with_too_much_is_told_what_and_how_to_mend_it(spec: Any, said: str) -> None:
    found = excess(pod(**spec))
    assert said in found
    assert found.endswith("; use fewer")


def test_what_real_pods_have_is_not_too_much() -> None:
    hosts = {"key": HOST, "operator": "NotIn", "values": [f"n{n}" for n in range(MOST_VALUES)]}
    real = pod(
        nodeSelector={f"k{n}": "v" for n in range(MOST_LISTED)},
        affinity=near(*[{"matchExpressions": [{"key": "k", "operator": "Exists"}]}] * 50,
                      {"matchExpressions": [hosts]}),
        tolerations=[{"operator": "Exists"}] * 50,
        containers=[{"ports": [{"hostPort": 1}]}] * 20,
    )  # fmt: skip
    assert MOST_CLAUSES > 50
    assert not excess(real)


@pytest.mark.parametrize(
    ("label", "matches"), [("1000", True), ("+1000", True), ("1_000", False), (" 7", False),
                           ("\u0667", False), ("9223372036854775808", False), ("4", False)],
)  # fmt: skip
def test_numbers_in_labels_are_read_as_kube_scheduler_reads_them(label: str, matches: bool) -> None:
    clause = {"key": "memory", "operator": "Gt", "values": ["5"]}
    assert clause_matches(clause, {"memory": label}) == matches
