"""Kueue's quota arithmetic and dominant shares: every number of every node."""

from __future__ import annotations

from math import ceil, inf
from typing import Any

from scheduler.core.quota import QuotaTree
from tests.golden import kueue_words
from tests.golden.scenarios import Scenario

Fields = dict[str, Any]
KINDS = ("quota", "shares")


def quota(fields: Fields) -> Fields:
    """Return what a tree says before and after each operation."""
    tree = kueue_words.tree(fields)
    steps = [_state(tree, fields)]
    for op in fields["ops"]:
        change = tree.take if op["op"] == "add" else tree.give_back
        change(tree.index_of[op["queue"]], kueue_words.amounts(tree, op["amount"]))
        steps.append(_state(tree, fields))
    static = _by_node_and_key(fields, tree, tree.subtree, tree.local, tree.potential)
    return {"static": static, "steps": steps}


def _state(tree: QuotaTree, fields: Fields) -> Fields:
    available = [
        [tree.available(node, cell) for cell in range(len(tree.cells))]
        for node in range(len(tree.names))
    ]
    return _by_node_and_key(fields, tree, tree.usage, available)


def _by_node_and_key(fields: Fields, tree: QuotaTree, *tables: list[list[int]]) -> Fields:
    """Return the values of tables; a key that nobody has quota for is 0 everywhere."""
    cell_of = {
        f"{flavor}/{resource}": tree.cells.get((flavor, resource))
        for flavor in fields["flavors"]
        for resource in fields["resources"]
    }
    return {
        name: {
            key: [0 if cell is None else table[node][cell] for table in tables]
            for key, cell in cell_of.items()
        }
        for name, node in tree.index_of.items()
    }


def shares(fields: Fields) -> Fields:
    """Return the share of every node."""
    tree = kueue_words.tree(fields)
    for name, used in fields["usage"].items():
        tree.take(tree.index_of[name], kueue_words.amounts(tree, used))
    found: Fields = {}
    for name, node in tree.index_of.items():
        share = tree.share(node)
        endless = share.weighted == inf
        found[name] = {
            "share": "inf" if endless else share.weighted,
            "unweighted": share.unweighted,
            "resource": share.resource,
            "borrowing": share.borrows,
            "rounded": "inf" if endless else ceil(share.weighted),
        }
    return found


def told(fields: Fields) -> Fields:
    """Return what the tree of a scenario says."""
    return quota(fields) if "ops" in fields else shares(fields)


def test_every_number_is_kueues(scenario: Scenario) -> None:
    assert told(scenario.fields) == scenario.fields["expect"]
