"""Classes of nodes that are equal for every waiting pod.

The core knows pools, not labels and taints. For the core, a class is a pool; a pod's constraints
become the list of classes that it may use. A set of nodes is a number with a bit for each node, so
that a list of values or terms costs one step per value, not one per node.

Classes differ by which nodes the pods want, not by what they name: a list of a hundred nodes to
avoid makes two classes. When nodes are sorted again, constraints that no waiting pod has are
dropped, except the latest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from scheduler.core.model import Selector
from scheduler.kube.objects import NodeObject, Pod, Taint
from scheduler.workloads.eligibility import (
    NAME_FIELD,
    Avoid,
    Tolerated,
    clause_matches,
    clauses_of,
    digest_of,
    hard_taints,
    required_terms,
    term_matches,
)

#: always told apart, because people ask for free GPUs by them
USUAL_KEYS = ("muster.dev/pool", "nvidia.com/gpu.product")
#: what pods asked for that do not wait any more; it comes again, and costs no sorting then
MOST_RECENT = 64
TAINTS = ""  #: no label is called that
#: nodes or selectors that are looked at before others get their turn
SLICE = 64
#: of what was asked for since the last sorting; with more it is time to forget some: things, each
#: KiB of which counts as another
MOST_LEARNT = 1024

_encode = msgspec.json.Encoder(order="deterministic").encode


class Asked(NamedTuple):
    """What a pod asks of the nodes that it may use."""

    selector: dict[str, str]
    terms: list[dict[str, Any]]
    tolerated: Tolerated
    avoid: Avoid
    keys: frozenset[str]  #: of the labels that it names

    def wants(self, node: NodeObject) -> bool:
        """True if a node serves."""
        labels = {**node.metadata.labels, NAME_FIELD: node.metadata.name}
        return (
            all(labels.get(key) == value for key, value in self.selector.items())
            and all(self.tolerated.has(taint) for taint in hard_taints(node))
            and self.avoid.isdisjoint(labels.items())
            and (not self.terms or any(term_matches(term, labels) for term in self.terms))
        )

    def may_differ(self, changed: set[str]) -> bool:
        """True if it may think otherwise of a node of which this changed."""
        return TAINTS in changed or not self.keys.isdisjoint(changed)


class _Known(NamedTuple):
    """What some pods ask for, and which nodes serve."""

    asked: Asked
    nodes: int  #: a bit for each
    mostly: bool  #: whether more nodes serve than do not
    bit: int  #: marks, among `_Marks`, the nodes that are unlike most


#: labels by which people ask, and what pods think of a node: equal for nodes of a class
_Marks = tuple[tuple[str, ...], int]


class NodeClasses:
    """Nodes by what the waiting pods may use."""

    def __init__(self) -> None:
        self._nodes: list[NodeObject] = []
        self._place: dict[str, int] = {}
        self._class_at: list[str] = []  #: by place
        self._size: Counter[str] = Counter()
        self._first: dict[str, int] = {}  #: of each class, a place
        self._named: dict[_Marks, str] = {}
        self._known: dict[bytes, _Known] = {}  #: the latest last
        self._selectors: dict[bytes, Selector] = {}
        self._keys: set[str] | None = None  #: of labels that any node has
        self._having: dict[str, dict[str, int]] = {}  #: nodes by label
        self._tainted: dict[tuple[str, str, str], int] | None = None
        self._num_bits = 0
        self._num_learnt = 0  #: of what is known, since the sorting

    # -- nodes -------------------------------------------------------------------------------

    def class_of(self, node: NodeObject) -> tuple[str, bool]:
        """Return the present class of a node, and whether that class is new."""
        name = node.metadata.name
        at = self._place.get(name)
        changed = _changed(self._nodes[at], node) if at is not None else None
        if at is not None and not changed:
            self._nodes[at] = node
            return self._class_at[at], False
        wanted = self._wanted(node, at, changed)
        marks = self._marks(node, wanted)
        found = self._named.get(marks)
        is_new = found is None or not self._size[found]
        if found is None:
            found = self._named[marks] = f"class{len(self._named)}"
        if at is None:
            at = self._place[name] = len(self._nodes)
            self._nodes.append(node)
            self._class_at.append(found)
        else:
            self._nodes[at] = node
            self._leave(at)
            self._class_at[at] = found
        self._size[found] += 1
        self._first[found] = at
        self._note(wanted, at)
        if is_new:
            self._selectors.clear()
        return found, is_new and bool(self._known)

    def _leave(self, at: int) -> None:
        """Take a place from its class; another one speaks for that class if this one did."""
        old, self._class_at[at] = self._class_at[at], ""
        self._size[old] -= 1
        if self._first[old] == at:
            if self._size[old]:
                self._first[old] = self._class_at.index(old)
            else:
                del self._first[old]

    def labels_of(self, name: str) -> dict[str, str]:
        """Return the labels of a class by which people ask for nodes."""
        at = self._first.get(name)
        labels = self._nodes[at].metadata.labels if at is not None else {}
        return {key: labels[key] for key in USUAL_KEYS if key in labels}

    @property
    def num_classes(self) -> int:
        """Classes that have had a node since they were sorted."""
        return len(self._named)

    @property
    def num_known(self) -> int:
        """Constraints of pods that are distinguished."""
        return len(self._known)

    def _wanted(self, node: NodeObject, at: int | None, changed: set[str] | None) -> list[bool]:
        """Return, for all that is known, whether a node serves; only what changed is looked at."""
        return [
            known.asked.wants(node)
            if at is None or changed is None or known.asked.may_differ(changed)
            else bool(known.nodes >> at & 1)
            for known in self._known.values()
        ]

    def _marks(self, node: NodeObject, wanted: list[bool]) -> _Marks:
        marks = 0
        for known, wants in zip(self._known.values(), wanted, strict=True):
            if wants is not known.mostly:
                marks |= known.bit
        return _usual(node), marks

    def _note(self, wanted: list[bool], at: int) -> None:
        """Count a node that came or changed among those that serve what is known."""
        self._keys = self._tainted = None
        self._having.clear()
        one = 1 << at
        for (key, known), wants in zip(list(self._known.items()), wanted, strict=True):
            if bool(known.nodes & one) is not wants:
                self._known[key] = known._replace(nodes=known.nodes ^ one)

    # -- what pods ask for -------------------------------------------------------------------

    def learn(self, pod: Pod, avoid: Avoid = frozenset()) -> bool:
        """Learn a pod's constraints; True if they split a class of nodes."""
        key = _key(pod, avoid)
        if key in self._known:
            return False
        known = self._known[key] = self._look(_asked(pod, avoid))
        self._num_learnt += 1 + len(key) // 1024
        return self._splits(known) or self._num_learnt > MOST_LEARNT

    def selector(self, pod: Pod, avoid: Avoid = frozenset()) -> Selector:
        """Return the classes that the pod may use, as the core's selector."""
        key = _key(pod, avoid)
        selector = self._selectors.get(key)
        if selector is None:
            if key not in self._known:
                self._known[key] = self._look(_asked(pod, avoid))
            nodes = self._known[key].nodes
            if nodes.bit_count() < len(self._first):
                fits = list(dict.fromkeys(self._class_at[at] for at in _places(nodes)))
            else:
                fits = [name for name, at in self._first.items() if nodes >> at & 1]
            everywhere = len(fits) == len(self._first)
            selector = Selector(pool="" if everywhere else "|".join(fits) or "none")
            self._selectors[key] = selector
        return selector

    def _look(self, asked: Asked) -> _Known:
        nodes = self._serving(asked)
        self._num_bits += 1
        mostly = 2 * nodes.bit_count() > len(self._nodes)
        return _Known(asked, nodes, mostly, 1 << self._num_bits)

    def _splits(self, known: _Known) -> bool:
        inside = Counter(self._class_at[at] for at in _places(self._unlike_most(known)))
        return any(count < self._size[name] for name, count in inside.items())

    def _unlike_most(self, known: _Known) -> int:
        return ~known.nodes & self._all() if known.mostly else known.nodes

    def _all(self) -> int:
        return (1 << len(self._nodes)) - 1

    # -- sorting -----------------------------------------------------------------------------

    def sorted_anew(
        self, nodes: Iterable[NodeObject], asked: Iterable[tuple[Pod, Avoid]]
    ) -> Iterator[NodeClasses]:
        """Yield the classes of these nodes for these pods, repeatedly until they are complete.

        Between two yields, at most a slice of nodes or one list of values is processed.
        """
        fresh = NodeClasses()
        fresh._nodes = list(nodes)
        fresh._place = {node.metadata.name: at for at, node in enumerate(fresh._nodes)}
        wanted: dict[bytes, Asked] = {}
        for number, (pod, avoid) in enumerate(asked):
            key = _key(pod, avoid)
            if key not in wanted:
                wanted[key] = _asked(pod, avoid)
            if number % SLICE == 0:
                yield fresh
        recent = [(key, known.asked) for key, known in self._known.items() if key not in wanted]
        wanted = {**dict(recent[-MOST_RECENT:]), **wanted}
        marks = [0] * len(fresh._nodes)
        for key, one in wanted.items():
            known = fresh._known[key] = fresh._look(one)
            yield fresh
            for at in _places(fresh._unlike_most(known)):
                marks[at] |= known.bit
            yield fresh
        for at, node in enumerate(fresh._nodes):
            its = _usual(node), marks[at]
            name = fresh._named.get(its)
            if name is None:
                name = fresh._named[its] = f"class{len(fresh._named)}"
                fresh._first[name] = at
            fresh._class_at.append(name)
            fresh._size[name] += 1
            if at % SLICE == 0:
                yield fresh
        yield fresh

    # -- sets of nodes -----------------------------------------------------------------------

    def _serving(self, asked: Asked) -> int:
        """Return the nodes that serve."""
        nodes = self._all()
        for key, value in asked.selector.items():
            nodes &= self._by_value(key).get(value, 0)
        if asked.terms:
            serving = 0
            for term in asked.terms:
                serving |= self._of_term(term)
            nodes &= serving
        for taint, tainted in self._by_taint().items():
            if not asked.tolerated.has(Taint(*taint)):
                nodes &= ~tainted
        for key, value in asked.avoid:
            nodes &= ~self._by_value(key).get(value, 0)
        return nodes

    def _of_term(self, term: dict[str, Any]) -> int:
        clauses = clauses_of(term)
        nodes = self._all() if clauses else 0
        for clause in clauses:
            nodes &= self._of_clause(clause)
        return nodes

    def _of_clause(self, clause: dict[str, Any]) -> int:
        by_value = self._by_value(clause.get("key", ""))
        values = clause.get("values") or []
        found = 0
        match clause.get("operator"):
            case "In" | "NotIn" as operator:
                for value in values:
                    found |= by_value.get(value, 0)
                return found if operator == "In" else self._all() & ~found
            case "Exists" | "DoesNotExist" as operator:
                for nodes in by_value.values():
                    found |= nodes
                return found if operator == "Exists" else self._all() & ~found
        for value, nodes in by_value.items():
            if clause_matches(clause, {clause.get("key", ""): value}):
                found |= nodes
        return found

    def _by_value(self, key: str) -> dict[str, int]:
        found = self._having.get(key)
        if found is None:
            if self._keys is None:
                self._keys = {NAME_FIELD}.union(*(node.metadata.labels for node in self._nodes))
            if key not in self._keys:
                return {}
            places: dict[str, list[int]] = {}
            for at, node in enumerate(self._nodes):
                meta = node.metadata
                value = meta.name if key == NAME_FIELD else meta.labels.get(key)
                if value is not None:
                    places.setdefault(value, []).append(at)
            found = {value: _bits(at, len(self._nodes)) for value, at in places.items()}
            self._having[key] = found
        return found

    def _by_taint(self) -> dict[tuple[str, str, str], int]:
        if self._tainted is None:
            places: dict[tuple[str, str, str], list[int]] = {}
            for at, node in enumerate(self._nodes):
                for taint in hard_taints(node) if node.spec.taints else ():
                    places.setdefault((taint.key, taint.value, taint.effect), []).append(at)
            self._tainted = {taint: _bits(at, len(self._nodes)) for taint, at in places.items()}
        return self._tainted


def _bits(places: list[int], size: int) -> int:
    """Return a set of places."""
    if len(places) < 4:
        return sum(1 << at for at in set(places))
    digits = bytearray(b"0" * size)
    for at in places:
        digits[size - 1 - at] = 0x31
    return int(digits, 2)


def _places(bits: int) -> Iterator[int]:
    """Yield the places of a set."""
    digits = f"{bits:b}"[::-1]
    at = digits.find("1")
    while at >= 0:
        yield at
        at = digits.find("1", at + 1)


def _usual(node: NodeObject) -> tuple[str, ...]:
    labels = node.metadata.labels
    return tuple(labels.get(key, "") for key in USUAL_KEYS)


def _changed(old: NodeObject, node: NodeObject) -> set[str]:
    """Return the keys of labels that changed, and `TAINTS` if some of those did that keep off."""
    tainted = old.spec.taints != node.spec.taints and hard_taints(old) != hard_taints(node)
    changed = {TAINTS} if tainted else set()
    if old.metadata.labels != node.metadata.labels:
        changed |= {key for key, _ in old.metadata.labels.items() ^ node.metadata.labels.items()}
    return changed


def _key(pod: Pod, avoid: Avoid) -> bytes:
    spec = pod.spec
    asked = _encode([spec.node_selector, required_terms(pod), spec.tolerations])
    return asked + digest_of(avoid) if avoid else asked


def _asked(pod: Pod, avoid: Avoid) -> Asked:
    spec, terms = pod.spec, required_terms(pod)
    named = {clause.get("key", "") for term in terms for clause in clauses_of(term)}
    keys = frozenset(named.union(spec.node_selector, (key for key, _ in avoid)))
    return Asked(spec.node_selector, terms, Tolerated(spec.tolerations), avoid, keys)
