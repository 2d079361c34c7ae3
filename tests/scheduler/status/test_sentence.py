"""What people read of a waiting gang names what is short, and the words that nodes have."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.controller.mirror import Ledger
from scheduler.status.status import sentence
from tests.scheduler.status.test_way_out import book, node, request


def said(ledger: Ledger, of: Any) -> str:
    """Submit a request and return why it waits."""
    ledger.set_gang(of)
    list(ledger.decide(0.0))
    found = ledger.explain(of.name)
    assert found is not None
    return sentence(ledger, of, found)


def labelled() -> Ledger:
    """Two nodes of one pool and model, and one of others."""
    ledger = book()
    for number, gpus, pool, model, team in (
        (0, 8, "h100", "H100", "a"),
        (1, 8, "h100", "H100", "b"),
        (2, 4, "v100", "V100", "b"),
    ):
        labels = {"muster.dev__pool": pool, "nvidia.com__gpu.product": model, "team": team}
        ledger.set_node(node(number, gpus, **labels))
    return ledger


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (
            {"nvidia.com/gpu.product": "H200"},
            "asks for GPU model 'H200'; models here: H100, V100",
        ),
        ({"muster.dev/pool": "x"}, "asks for pool 'x'; pools here: h100, v100"),
        ({"team": "z"}, "asks for nodes with team=z; values here: a, b"),
        ({"disk": "fast"}, "asks for nodes with disk=fast; no node has the label disk"),
        (
            {"muster.dev/pool": "v100", "team": "a"},
            "asks for muster.dev/pool=v100, team=a; no node has all of these labels",
        ),
        (
            {"muster.dev/pool": "x", "team": "z"},
            "asks for pool 'x'; pools here: h100, v100; and for nodes with team=z; "
            "values here: a, b",
        ),
    ],
)
def test_labels_that_no_node_has_are_named(selector: dict[str, str], text: str) -> None:
    wanted = request("w", 1, 1, spec={"nodeSelector": selector})
    assert said(labelled(), wanted) == text


def test_many_values_are_counted() -> None:
    ledger = book()
    for number in range(9):
        ledger.set_node(node(number, 8, team=f"t{number}"))
    wanted = request("w", 1, 1, spec={"nodeSelector": {"team": "z"}})
    assert said(ledger, wanted) == (
        "asks for nodes with team=z; values here: t0, t1, t2, t3, t4 and 4 more"
    )


def test_an_affinity_that_no_node_matches_is_told_from_a_taint() -> None:
    ledger = book(8)
    terms = [{"matchExpressions": [{"key": "team", "operator": "In", "values": ["z"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    wanted = request("w", 1, 1, spec={"affinity": {"nodeAffinity": required}})
    assert said(ledger, wanted) == "no node matches its required node affinity"


def test_taints_that_it_does_not_tolerate_are_named() -> None:
    ledger = book()
    tainted = node(0, 8)
    tainted.spec.taints = [_taint("dedicated", "research")]
    ledger.set_node(tainted)
    assert said(ledger, request("w", 1, 1)) == (
        "does not tolerate the taints of any node that it may use; taints there: "
        "dedicated=research:NoSchedule"
    )


def _taint(key: str, value: str) -> Any:
    from scheduler.kube.objects import Taint

    return Taint(key=key, value=value, effect="NoSchedule")


def test_a_pod_larger_than_any_node_names_the_largest() -> None:
    assert said(labelled(), request("w", 1, 16)) == (
        "needs 16 GPUs per pod, the largest node has 8 (pool 'h100')"
    )
    in_pool = request("v", 1, 8, spec={"nodeSelector": {"muster.dev/pool": "v100"}})
    assert said(labelled(), in_pool) == (
        "needs 8 GPUs per pod, the largest node that it may use has 4 (pool 'v100')"
    )
    assert said(labelled(), request("w", 9, 4)) == (
        "needs 9 pods of 4 GPUs; empty, the 3 nodes that it may use hold 5"
    )


def test_cpus_that_bind_are_named_with_their_numbers() -> None:
    ledger = book(8)
    cpus = int(str(ledger.nodes["node-00000"].status.allocatable["cpu"]))
    ledger.set_gang(request("runs", 1, 1, (0,), cpu=cpus - 2))
    assert said(ledger, request("waits", 2, 1, cpu=2)) == (
        "needs 4 CPUs for 2 pods; 2 are free on nodes it may use"
    )
    assert said(ledger, request("larger", 1, 8, cpu=1)) == (
        "needs 8 GPUs for 1 pod; 7 are free on nodes it may use"
    )
