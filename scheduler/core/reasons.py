"""The one table of reasons: every page, table, picture, event and metric takes its words here.

A new reason is a word in `decisions.PendingReason` and a row here; docs/adding-a-policy.md names
the places that work it out and repeat it. Colours are those of Okabe and Ito ("Color Universal
Design", 2008), with tints and shades of them; neighbours in a stack differ in lightness, so that a
greyscale print separates them. None is green: what is green runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.core.decisions import PendingReason


@dataclass(frozen=True, slots=True)
class Reason:
    """How one reason is said and drawn."""

    label: str  #: its one name, in sentences, legends and tables
    means: str  #: when it applies
    colour: str  #: #rrggbb
    hatch: str  #: pattern over the colour, as matplotlib spells it; empty for none
    binds: str  #: what a planner would change: groups reasons


TABLE: dict[PendingReason, Reason] = {
    PendingReason.NEVER_FITS: Reason(
        "never fits",
        "no node offers what a pod asks for, all nodes hold too few of its pods, or its queue "
        "could never have the quota",
        "#000000",
        "",
        "capacity",
    ),
    PendingReason.QUOTA: Reason(
        "quota",
        "its queue has less quota left than the gang needs, its own and what it may borrow",
        "#6a1f4f",
        "",
        "quota",
    ),
    PendingReason.CAPACITY: Reason(
        "capacity",
        "less is free in all than the gang needs, of GPUs, CPU, memory or another resource",
        "#0072b2",
        "",
        "capacity",
    ),
    PendingReason.FRAGMENTATION: Reason(
        "fragmentation",
        "enough of everything is free in all, but not in the needed shape",
        "#56b4e9",
        "///",
        "fragmentation",
    ),
    PendingReason.BEHIND_HEAD: Reason(
        "behind head",
        "the gang would fit now but must not overtake an earlier one",
        "#cfe8f7",
        "",
        "head-of-line",
    ),
    PendingReason.HELD_BY_OTHERS: Reason(
        "held by others",
        "it would fit without the partial holds of other gangs",
        "#d55e00",
        "\\\\\\",
        "partial holds",
    ),
    PendingReason.OWN_PARTIAL_HOLD: Reason(
        "own partial hold",
        "the pod is placed and waits for the rest of its own gang",
        "#e69f00",
        "...",
        "partial holds",
    ),
    PendingReason.PERMIT_BACKOFF: Reason(
        "permit backoff",
        "placed once, given back after a timeout, not yet tried again",
        "#f0e442",
        "xxx",
        "partial holds",
    ),
    PendingReason.MEMBERS: Reason(
        "members",
        "fewer pods exist than the gang needs to start",
        "#595959",
        "",
        "control plane",
    ),
    PendingReason.PREEMPTING: Reason(
        "preempting",
        "gangs that were evicted for it are leaving; their nodes are kept for it",
        "#f7cba8",
        "",
        "preemption",
    ),
    PendingReason.CONTROL_PLANE: Reason(
        "control plane",
        "admitted or schedulable, waits for the scheduler or the API",
        "#bb6495",
        "|||",
        "control plane",
    ),
    PendingReason.STARTING: Reason(
        "starting",
        "bound to its node, pulls its image and starts",
        "#efd0e1",
        "",
        "control plane",
    ),
}


_LABELS = {str(word): row.label for word, row in TABLE.items()}


def label(word: str) -> str:
    """Return the name of a reason in running text; a word of another version unchanged."""
    return _LABELS.get(word) or word.replace("_", " ")
