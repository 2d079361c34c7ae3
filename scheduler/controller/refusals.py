"""Where kube-scheduler refused pods of one gang, and until when muster avoids these nodes.

It checks more than muster does: ports, volumes, claims, affinity to pods. A refusal may be
temporary: a pod that leaves the node lifts the ban, sooner the less often it was set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

from scheduler.kube.objects import Pod
from scheduler.workloads.eligibility import Avoid
from scheduler.workloads.gangs import Rank

#: said to kube-scheduler of pods that wait: constant, because a text that changes makes it ask
#: again at once, without end
WAITS = "waiting for room for the whole gang"
AVOID_S = 600.0  #: a node on which kube-scheduler refused a pod is tried again after that
PAUSE_S = 5.0  #: the first ban lasts at least so long; each further one of a node twice as long
MOST_NAMED = 3
MOST_BANS = 64  #: of a gang, the latest: each may tell nodes apart
MOST_COUNTED = 1024  #: places of which it is known how often they were refused, the latest
MANY_PLANS = 3  #: refused one after the other: the next ones wait longer and longer
#: a message that counts nodes is about them, and one that does not about the pod, wherever it goes
NODES = "0/1 nodes are available: 1 node(s) "  #: how the former begin
_OF_NODES = re.compile(r"\d+/\d+ nodes are available: \d+ ")


@dataclass(slots=True)
class _Ban:
    since_s: float
    until_s: float
    least_s: float  #: it lasts at least so long


class Refusals:
    """What was refused to the ranks of one gang."""

    __slots__ = ("_bans", "_times", "hold_until_s", "is_remade", "num_aborts", "num_plans", "said")

    def __init__(self) -> None:
        #: by role and number of a rank; no number stands for all ranks of the role
        self._bans: dict[tuple[str, int | None], dict[Avoid, _Ban]] = {}
        self._times: dict[Avoid, int] = {}
        self.num_plans = 0  #: refused in a row
        self.said = ""  #: what kube-scheduler said last
        self.is_remade = False  #: the owner recreates the pods unchanged
        # of such a gang whose pods are all gone
        self.num_aborts = 0
        self.hold_until_s = 0.0

    def __bool__(self) -> bool:
        """True while muster keeps off something."""
        return bool(self._bans)

    def is_over(self, now_s: float) -> bool:
        """True if nothing of it matters any more for recreated pods."""
        self.forget_past(now_s)
        return not self._bans and now_s >= self.hold_until_s + (AVOID_S if self.num_aborts else 0.0)

    def avoided(self, rank: Rank) -> Avoid:
        """Return what a rank must avoid."""
        if not self._bans:
            return frozenset()
        own = self._bans.get((rank.role, rank.number), {})
        return frozenset().union(*own, *self._bans.get((rank.role, None), {}))

    def keep_off(self, rank: Rank, what: Avoid, now_s: float, *, alone: bool) -> float:
        """Do not plan a rank there for a while; return until when.

        If the pod was `alone` there, no other pod of the gang can be the cause: its whole role
        avoids the node.
        """
        times = self._times.pop(what, 0) + 1
        self._times[what] = times  # the latest are last
        if len(self._times) > MOST_COUNTED:
            del self._times[next(iter(self._times))]
        least_s = min(AVOID_S, PAUSE_S * 2.0 ** min(times - 1, 10))
        ban = _Ban(now_s, now_s + AVOID_S, least_s)
        self._bans.setdefault((rank.role, None if alone else rank.number), {})[what] = ban
        if sum(map(len, self._bans.values())) > MOST_BANS:
            oldest = min(self._bans.values(), key=lambda known: next(iter(known.values())).since_s)
            del oldest[next(iter(oldest))]
            self._bans = {rank: known for rank, known in self._bans.items() if known}
        return ban.until_s

    def lift(self, node: str, now_s: float) -> float | None:
        """Note that a node may have room again; return when it may be tried, if it is banned.

        A node that keeps refusing a pod is not tried each time a pod leaves it.
        """
        soonest: float | None = None
        what = frozenset({("metadata.name", node)})
        for known in self._bans.values():
            ban = known.get(what)
            if ban is not None:
                ban.until_s = min(ban.until_s, max(now_s, ban.since_s + ban.least_s))
                soonest = ban.until_s if soonest is None else min(soonest, ban.until_s)
        return soonest

    def forget_past(self, now_s: float) -> None:
        """Lift bans whose time is over."""
        for rank, known in list(self._bans.items()):
            for what in [what for what, ban in known.items() if ban.until_s <= now_s]:
                del known[what]
            if not known:
                del self._bans[rank]
                if not self._bans:
                    self.said = ""

    def started(self) -> None:
        """Note that all pods got their nodes."""
        self.num_plans = 0
        if not self._bans:
            self.said = ""

    def next_s(self) -> float:
        """Return when the next ban ends."""
        bans = (ban for known in self._bans.values() for ban in known.values())
        return min((ban.until_s for ban in bans), default=inf)


def is_of_nodes(refusal: str) -> bool:
    """True if kube-scheduler refused the node, not the pod for something that it lacks."""
    return _OF_NODES.match(refusal) is not None


def at_odds(pod: Pod) -> str:
    """Return what only kube-scheduler gives to a pod or checks: it does not always name it."""
    named = []
    for claim in pod.spec.resource_claims:
        if isinstance(claim, dict):
            of = claim.get("resourceClaimName") or claim.get("resourceClaimTemplateName")
            named.append(f"resource claim {of or claim.get('name')}")
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        named += [f"host port {port.host_port}" for port in container.ports if port.host_port]
    named = list(dict.fromkeys(named))
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return ", ".join(one[:100] for one in named[:MOST_NAMED]) + more
