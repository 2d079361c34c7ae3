"""What people see of a gang: one reason, the numbers behind it, its place in the queue."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from functools import partial

import msgspec

from scheduler.controller.membership import LiveGang
from scheduler.controller.mirror import Ledger
from scheduler.controller.parts import Request
from scheduler.controller.refusals import WAITS
from scheduler.core.decisions import Explanation, PendingReason, Shortage
from scheduler.core.sentences import UNMATCHED, why
from scheduler.core.times import FOREVER_US, to_s
from scheduler.kube.objects import Pod, node_ready
from scheduler.policies.explain import explain as explain_gang
from scheduler.status.phases import num_ended_well, standing
from scheduler.status.plain import plain
from scheduler.status.story import Moment
from scheduler.status.unmatched import unmatched
from scheduler.status.way_out import (
    MOST_NAMED,
    Head,
    WayOut,
    closed_by,
    many,
    sentences,
    way_out,
)

log = logging.getLogger("muster.status")


class PodView(msgspec.Struct):
    """One pod of a gang."""

    name: str
    role: str
    rank: int
    node: str
    state: str


class GangView(msgspec.Struct):
    """The present state of a gang."""

    gang: str
    source: str
    phase: str  #: waiting, starting, running, degraded, or ending: no pod of it is to stay
    reason: str  #: a PendingReason, or empty once all pods run
    text: str
    pods_present: int
    pods_needed: int
    pods_total: int
    pods_bound: int
    gpus: int  #: of all its pods
    lacks_pods: int  #: pods that it still asks nodes for
    lacks_gpus: int
    priority: int
    queue: str
    position: int | None
    ahead: str | None
    free_gpus: int | None
    short: Shortage | None  #: the resource that binds, where it waits for one
    starts_in_s: float | None
    waited_s: float  #: since it was created; of one in part, since then
    aside: bool = False  #: no end of gangs makes room for it, and others pass it
    pods: list[PodView] = []
    way_out: WayOut | None = None  #: what would have to change; only where one gang is asked for
    advice: list[str] = []  #: the same in sentences
    story: list[Moment] = []  #: what happened to it, oldest first


def places(ledger: Ledger) -> dict[str, int]:
    """Return the place in the queue of every request in it, from 1."""
    return {m.gang.name: at for at, m in enumerate(ledger.state.queue.in_order(), 1)}


def view(
    gang: LiveGang,
    ledger: Ledger,
    now_s: float,
    *,
    pods: bool = False,
    at: Mapping[str, int] | None = None,
) -> GangView:
    """Describe a gang; `at` are the places in the queue, where many gangs are described.

    A gang that cannot be described says so, and does not affect the others.
    """
    try:
        return _view(gang, ledger, now_s, pods=pods, at=at)
    except Exception as error:
        log.exception("gang %s cannot be described", gang.name)
        return _undescribed(gang, ledger, error)


def _undescribed(gang: LiveGang, ledger: Ledger, error: Exception) -> GangView:
    present, bound, phase, why = len(gang.pods), 0, "waiting", PendingReason.MEMBERS
    with contextlib.suppress(Exception):
        stands = standing(gang, ledger)
        present, bound, phase = stands.present, stands.bound, stands.phase
        why = stands.reason or why
    return GangView(
        gang=gang.name,
        source=str(gang.key.source),
        phase=phase,
        reason=str(why),
        text=plain(
            f"muster cannot describe it ({type(error).__name__}: {error}); please report this"
        ),
        pods_present=present,
        pods_needed=0,
        pods_total=present,
        pods_bound=bound,
        gpus=0,
        lacks_pods=0,
        lacks_gpus=0,
        priority=0,
        queue="",
        position=None,
        ahead=None,
        free_gpus=None,
        short=None,
        starts_in_s=None,
        waited_s=0.0,
    )


def _view(
    gang: LiveGang,
    ledger: Ledger,
    now_s: float,
    *,
    pods: bool,
    at: Mapping[str, int] | None,
) -> GangView:
    live = gang.live_pods()
    slots = {slot.uid: slot for slot in gang.slots}
    stands = standing(gang, ledger)
    phase, reason, bound = stands.phase, stands.reason, stands.bound
    request = gang.request
    need = gang.size.min_member if gang.size else 0
    since_s = request.submit_s if request is not None else gang.came_s
    position = ahead = free_gpus = starts_in_s = None
    lacks_pods = lacks_gpus = 0
    short: Shortage | None = None
    aside = False
    if phase == "ending":
        text = _over(live)
    elif stands.asks and request is not None and (said := ledger.explain(gang.name)) is not None:
        position = ledger.position(gang.name) if at is None else at.get(gang.name)
        ahead, free_gpus = said.ahead, said.free_gpus
        lacks_pods, lacks_gpus = said.need_pods, said.need_gpus
        if said.start_us is not None and said.start_us < FOREVER_US:
            starts_in_s = max(0.0, to_s(said.start_us) - now_s)
        short, aside = said.short, said.aside
        text = sentence(ledger, request, said)
        if phase == "running":
            text = f"{bound} pods run; another {text}"
        if said.reason is PendingReason.NEVER_FITS and gang.refusals:
            again_s = gang.refusals.next_s() - now_s
            aside = True
            text = (
                f"needs room for {many(lacks_pods, 'pod')}, and kube-scheduler refuses that on "
                "every node; others may pass it, and muster tries again once a pod leaves such "
                f"a node, or in {max(0.0, again_s):.0f} s"
            )
    elif reason is PendingReason.CONTROL_PLANE:
        text = f"admitted; {len(live) - bound} of {len(live)} pods are not bound yet"
        if now_s < gang.hold_until_s:
            text = f"its last plan failed; planned again in {gang.hold_until_s - now_s:.0f} s"
        elif refused := next((pod for pod in live if _is_refused(pod)), None):
            text += f"; kube-scheduler on pod {refused.metadata.name}: {refused.refusal[:500]}"
    elif reason is PendingReason.STARTING:
        text = "all pods are bound; some are still starting"
    else:
        text = _of_pods(gang, phase, bound)
    if phase == "degraded":
        since_s = gang.degraded_since_s or now_s
    notes = [gang.size.conflict] if gang.size and gang.size.conflict else []
    if gang.owner_says and reason is PendingReason.MEMBERS:
        notes.append(gang.owner_says)
    if phase != "ending":
        notes += _unwell(ledger, live)
    if gang.refusals.said and reason:
        notes.append(gang.refusals.said)
    if gang.avoids and reason:
        label = "=".join(min(gang.avoids))
        others = f" and {len(gang.avoids) - 1:,} like it" if len(gang.avoids) > 1 else ""
        notes.append(f"other pods keep it off nodes with {label}{others} (podAntiAffinity)")
    if gang.kept_by:
        notes.append(gang.kept_by)
    if lacks_pods and ledger.devices.not_understood:
        what, why = min(ledger.devices.not_understood.items())
        more = len(ledger.devices.not_understood) - 1
        others = f", nor of {more} more" if more else ""
        notes.append(f"devices of {what} are not counted{others}: {why}")
    return GangView(
        gang=gang.name,
        source=str(gang.key.source),
        phase=phase,
        reason=str(reason) if reason else "",
        text=plain(f"{text} ({'; '.join(notes)})" if notes else text),
        pods_present=len(live),
        pods_needed=need,
        pods_total=gang.size.total if gang.size else len(live),
        pods_bound=bound,
        gpus=sum(p.count * p.shape.gpus for p in request.parts) if request is not None else 0,
        lacks_pods=lacks_pods,
        lacks_gpus=lacks_gpus,
        priority=request.priority if request is not None else 0,
        queue=request.queue if request is not None else "",
        position=position,
        ahead=ahead,
        free_gpus=free_gpus,
        short=short,
        starts_in_s=starts_in_s,
        waited_s=0.0 if phase == "ending" else max(0.0, now_s - since_s),
        aside=aside,
        pods=[
            PodView(
                pod.metadata.name,
                gang.facts(pod).rank.role.lstrip("!"),
                gang.facts(pod).rank.number,
                pod.spec.node_name or (slots[uid].node if uid in slots else ""),
                "bound" if pod.spec.node_name else "planned" if uid in slots else "waiting",
            )
            for pod in live
            for uid in (pod.metadata.uid,)
        ]
        if pods
        else [],
    )


def _is_refused(pod: Pod) -> bool:
    """True if kube-scheduler found no node for a pod that may have one."""
    return not pod.spec.node_name and not pod.gated and WAITS not in (pod.refusal or WAITS)


def _over(live: list[Pod]) -> str:
    """Say that a gang is about to be gone, or has done what it was made for."""
    if not live:
        return "its pods have ended"
    pods = "its last pod is" if len(live) == 1 else f"its {len(live):,} pods are"
    return f"{pods} being deleted"


def _of_pods(gang: LiveGang, phase: str, bound: int) -> str:
    """Say how a gang stands that waits for no node."""
    if gang.size is None and phase == "running":
        return "all its pods run; the object that says how many it needs is gone or cannot be read"
    if gang.problem or gang.size is None:
        return gang.problem or "the object that says how many pods it needs cannot be read yet"
    done, least = num_ended_well(gang), gang.least()
    ended = f", {done} ended well" if done else ""
    missing = least - bound - done
    if missing <= 0:
        return (
            f"{many(bound, 'pod')} {'runs' if bound == 1 else 'run'}{ended}"
            if done
            else "all pods run"
        )
    if phase == "running":
        return f"{bound} of {least} pods run{ended}; muster never saw the others"
    return f"{bound} of {least} pods run{ended}; {missing} must be created again"


def _unwell(ledger: Ledger, live: list[Pod]) -> list[str]:
    """Say which nodes under pods are gone or not ready; kubelet may not tell the pods any more."""
    under = {pod.spec.node_name for pod in live if pod.spec.node_name}
    said = []
    for name in sorted(name for name in under if not ledger.usable(name)):
        node = ledger.nodes.get(name)
        if node is None:
            said.append(f"node {name} is gone")
        elif not node_ready(node):
            said.append(f"node {name} is not ready")
    return said[:MOST_NAMED] + ([f"and {len(said) - MOST_NAMED} more"] if said[MOST_NAMED:] else [])


def explain(gang: LiveGang, ledger: Ledger, now_s: float) -> GangView:
    """Describe a gang with its pods and with what would have to change for it to start."""
    seen = view(gang, ledger, now_s, pods=True)
    if not seen.lacks_pods:
        return seen
    reason = PendingReason(seen.reason)
    if seen.aside and gang.refusals:
        return seen  # no end of gangs, no node in service is what it lacks
    found = way_out(ledger, gang.name, reason, now_s)
    first = ledger.state.queue.head()
    if reason is PendingReason.BEHIND_HEAD and first is not None and first.gang.name != gang.name:
        found.head = _head(ledger, first.gang.name, now_s)
    seen.starts_in_s = found.starts_in_s
    seen.way_out, seen.advice = found, sentences(found, reason)
    return seen


def _head(ledger: Ledger, name: str, now_s: float) -> Head:
    said = explain_gang(ledger.state, name)
    found = way_out(ledger, name, said.reason, now_s)
    text = why(said, said.need_pods, partial(pool_name, ledger), UNMATCHED)
    return Head(name, str(said.reason), text, found.starts_in_s)


def sentence(ledger: Ledger, request: Request, said: Explanation) -> str:
    """Say in one sentence why a request waits."""
    no_match = ""
    if said.reason is PendingReason.NEVER_FITS:
        nodes = ledger.nodes.values()
        asking = (part.pod for part in request.parts if part.pod is not None)
        found = (unmatched(pod, nodes) for pod in asking)
        no_match = next(filter(None, found), UNMATCHED)
    text = why(said, request.asking, partial(pool_name, ledger), no_match)
    if not said.aside:
        return text
    member = ledger.state.gangs[request.name]
    return f"{text}; {ledger.standing.cause(member, partial(closed_by, ledger))}"


def pool_name(ledger: Ledger, pool: str) -> str:
    """Return the pool, as people label nodes with it, of a pool of the core's."""
    return ledger.classes.labels_of(pool).get("muster.dev/pool", "")
