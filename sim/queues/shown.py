"""A queue tree as the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.queues import Cohort, Queue, Queues
from scheduler.core.quota import NO_LIMIT, NO_PARENT, QuotaTree
from scheduler.policies.queuesfile import UNITS

HEADER = ("queue", "flavor", "resource", "nominal", "borrow", "lend", "with below", "at most", "")
#: columns of text
LEFT = (0, 1, 2, 8)
#: words that a table shows where they are not the usual ones
_WORDS = ("weight", "discipline", "flavors", "within", "reclaim", "borrow_within", "max_priority")
_WORDS_OF_FLAVORS = ("when_can_borrow", "when_can_preempt", "preference")


def rows(queues: Queues) -> list[tuple[str, ...]]:
    """Return a header, and for each node of the tree a row per flavor and resource.

    "with below" adds what queues below lend; "at most" is all that the node could have if nobody
    else ran. Amounts are in the units of the file.
    """
    tree = QuotaTree(queues)
    roots = [node for node, above in enumerate(tree.parent) if above == NO_PARENT]
    # cohorts first: they explain what the queues below have
    ordered = sorted(roots, key=lambda node: (node < tree.num_queues, node))
    return [HEADER, *(row for root in ordered for row in _rows(queues, tree, root, 0))]


def _rows(queues: Queues, tree: QuotaTree, node: int, depth: int) -> Iterator[tuple[str, ...]]:
    is_queue = node < tree.num_queues
    one: Queue | Cohort = (
        queues.queues[node] if is_queue else queues.cohorts[node - tree.num_queues]
    )
    first = True
    for (flavor, resource), cell in tree.cells.items():
        quota = one.quota.get(flavor, {}).get(resource)
        if quota is None and (is_queue or not tree.potential[node][cell]):
            continue
        amounts = [tree.nominal[node][cell], tree.borrow[node][cell]]
        amounts += [NO_LIMIT if quota is None or quota.lend is None else quota.lend]
        amounts += [tree.subtree[node][cell], tree.potential[node][cell]]
        name, units = _in_file(resource)
        yield (
            f"{'  ' * depth}{one.name}" if first else "",
            flavor,
            name,
            *("-" if amount == NO_LIMIT else f"{amount / units:,.6g}" for amount in amounts),
            _words(one) if first else "",
        )
        first = False
    if first:
        yield (f"{'  ' * depth}{one.name}", *"-------", _words(one))
    for child in tree.children[node]:
        yield from _rows(queues, tree, child, depth + 1)


def _in_file(resource: str) -> tuple[str, int]:
    return next(((name, n) for name, (core, n) in UNITS.items() if core == resource), (resource, 1))


def _words(one: Queue | Cohort) -> str:
    """Return the words of a node that are not the usual ones."""
    usual = Queue("") if isinstance(one, Queue) else Cohort("")
    told = []
    for word in (*_WORDS, *_WORDS_OF_FLAVORS):
        value = getattr(one, word, None)
        if value != getattr(usual, word, None):
            text = (
                ", ".join(value)
                if isinstance(value, tuple)
                else f"{value:g}"
                if isinstance(value, float)
                else str(value)
            )
            told.append(f"{word.replace('_', ' ')} {text}")
    return "; ".join(told)
