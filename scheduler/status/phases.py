"""Where a gang stands: its phase, the one reason why pods of it wait, and how many do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from scheduler.controller.membership import LiveGang
from scheduler.controller.mirror import Ledger
from scheduler.core.decisions import PendingReason
from scheduler.core.model import Phase
from scheduler.core.queueing import Family
from scheduler.policies.explain import reason_by_outlook


class Outlook(NamedTuple):
    """What gangs share that wait for one reason, and for another at the same moment."""

    family: Family
    size: int
    aside: bool

    @property
    def reason(self) -> PendingReason:
        """Return why they wait now."""
        return reason_by_outlook(self.family, self.size, aside=self.aside)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a gang stands."""

    phase: str  #: waiting, starting, running, degraded, or ending: no pod of it is to stay
    why: PendingReason | Outlook | None  #: None once all pods run
    present: int  #: pods that are there and have not ended
    bound: int  #: of them
    asks: bool = False  #: the core says why it waits

    @property
    def reason(self) -> PendingReason | None:
        """Return why pods of it wait now."""
        return self.why.reason if isinstance(self.why, Outlook) else self.why

    @property
    def pending(self) -> int:
        """Return how many pods of it have no node."""
        return self.present - self.bound if self.why is not None else 0


def standing(gang: LiveGang, ledger: Ledger) -> Standing:
    """Return where a gang stands, by what is known at this moment."""
    present = bound = going = starting = 0
    for pod in gang.pods.values():
        here, goes = bool(pod.spec.node_name), pod.metadata.deletion_timestamp is not None
        if pod.ended or (goes and not here):
            continue
        present += 1
        bound += here
        going += goes
        starting += pod.status.phase == "Pending"
    if going == present:
        return Standing("ending", None, present, bound)
    if gang.size is None and bound == present:
        return Standing("running", None, present, bound)
    if gang.problem or gang.size is None:
        return Standing("waiting", PendingReason.MEMBERS, present, bound)
    runs = bound + num_ended_well(gang) >= gang.least()
    asks = _why_it_asks(gang, ledger)
    if asks is not None:
        phase = "waiting" if not bound else "running" if runs else "degraded"
        return Standing(phase, asks, present, bound, asks=True)
    if bound < present:
        return Standing("starting", PendingReason.CONTROL_PLANE, present, bound)
    if starting:
        return Standing("starting", PendingReason.STARTING, present, bound)
    if not runs and (gang.started_min or gang.begun_min):  # else nobody knows of more that ran
        return Standing("degraded", PendingReason.MEMBERS, present, bound)
    return Standing("running", None, present, bound)


def num_ended_well(gang: LiveGang) -> int:
    """Return how many ranks of a gang have done their work, also those that ended just now."""
    now = len(gang.succeeded) + len(gang.completed) + gang.presumed
    return max(gang.num_succeeded, now)


def _why_it_asks(gang: LiveGang, ledger: Ledger) -> PendingReason | Outlook | None:
    """Return why the core has no nodes for a gang that asks for some; None if it asks for none."""
    member = ledger.state.gangs.get(gang.name)
    if gang.request is None or member is None or not member.missing:
        return None
    if member.phase is Phase.GATHERING:
        return PendingReason.MEMBERS
    if member.phase is Phase.IMPOSSIBLE:
        return PendingReason.CAPACITY if gang.refusals else PendingReason.NEVER_FITS
    return Outlook(member.family, member.size, member.phase is Phase.ASIDE)
