"""The verbs that kube-scheduler calls: filter, preempt, bind.

The first two decide nothing; they only note lost nominations and refused pods.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec

from scheduler.controller.controller import Controller
from scheduler.controller.refusals import WAITS
from scheduler.core.model import PodShape
from scheduler.extender.binds import RESERVED, Binds
from scheduler.kube.objects import Pod
from scheduler.workloads.gangs import key_of
from scheduler.workloads.requests import pod_shape

log = logging.getLogger("muster.extender")
MOST_REFUSED = 100_000  #: lone pods that are woken once gangs give nodes back, the latest
MAX_SHAPES = 64  #: whose last answers are kept


class FilterArgs(msgspec.Struct, rename="pascal"):
    """What kube-scheduler sends for one pod."""

    pod: Pod
    node_names: msgspec.Raw = msgspec.Raw(b"null")  #: decoded only where names matter


class FilterResult(msgspec.Struct, rename="pascal"):
    """Nodes the pod may go to."""

    node_names: list[str] | msgspec.Raw
    failed_nodes: dict[str, str] | msgspec.Raw = {}
    error: str = ""


class _Known(NamedTuple):
    """What pods of one shape were answered, and to which question."""

    version: int  #: of the ledger
    candidates: bytes
    result: FilterResult
    none_left: bool


class Victim(msgspec.Struct):
    """A pod that preemption would delete."""

    uid: str = msgspec.field(default="", name="UID")


class Victims(msgspec.Struct):
    """Pods that preemption would delete on one node."""

    pods: list[Victim] | None = msgspec.field(default=None, name="Pods")
    num_violations: int = msgspec.field(default=0, name="NumPDBViolations")


class PreemptArgs(msgspec.Struct, rename="pascal"):
    """Nodes on which preemption would make room."""

    pod: Pod
    node_name_to_meta_victims: dict[str, Victims] | None = None


class PreemptResult(msgspec.Struct, rename="pascal"):
    """Those that may be used."""

    node_name_to_meta_victims: dict[str, Victims]


class Extender:
    """Answers from the controller's tables."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.bind = Binds(controller).bind
        self._known: dict[PodShape, _Known] = {}

    def filter(self, args: FilterArgs) -> FilterResult:
        """Pin a planned pod, refuse a waiting one, keep others off promised capacity."""
        control = self._controller
        if not control.active:
            return FilterResult([], error="muster does not lead or has not read the cluster yet")
        uid = args.pod.metadata.uid
        place = control.slot_of.get(uid)
        if place is not None:
            gang, slot = place
            spec = args.pod.spec
            control.progress.reached(spec.scheduler_name, slot, control.now_s(), spec.priority)
            # as text: names hold no quotes, and thousands of them need not be taken apart
            if msgspec.json.encode(slot.node) in bytes(args.node_names):
                return FilterResult([slot.node])
            named = args.pod.status.nominated_node_name == slot.node
            if not named and gang.pinned(args.pod) is None:
                # not told yet, or kube-scheduler forgot it: nothing is wrong with the node
                control.release.nominate_again(gang, slot, args.pod)
                return FilterResult([], {"muster": WAITS})
            return FilterResult([], {"muster": "its planned node is not among the candidates"})
        if uid in control.key_of_pod:
            control.release.is_wanted(uid)
            return FilterResult([], {"muster": WAITS})
        if uid not in control.pods and key_of(args.pod, control.find) is not None:
            return FilterResult([], {"muster": WAITS})  # the watch has not brought it yet
        return self._others(args.pod, args.node_names)

    def _others(self, pod: Pod, candidates: msgspec.Raw) -> FilterResult:
        """Leave out nodes that gangs hold or are promised.

        kube-scheduler hears of a lost rank as soon as muster does; its node is kept for the rank
        that comes after it. A pod that is refused is woken when gangs give nodes back.
        """
        control = self._controller
        shape = pod_shape(pod, control.settings.resource)
        asked, version = bytes(candidates), control.ledger.version
        known = self._known.get(shape)
        # kube-scheduler asks for many pods in a row, with the same names in the same order
        if known is None or known.version != version or known.candidates != asked:
            if len(self._known) >= MAX_SHAPES:
                self._known.clear()
            known = self._known[shape] = _Known(version, asked, *self._left(shape, candidates))
        if known.none_left:
            control.refused[pod.metadata.uid] = None
            if len(control.refused) > MOST_REFUSED:  # some may be gone before the watch tells
                del control.refused[next(iter(control.refused))]
        return known.result

    def _left(self, shape: PodShape, candidates: msgspec.Raw) -> tuple[FilterResult, bool]:
        """Return the answer for a shape, and whether gangs leave it no node at all."""
        ledger = self._controller.ledger
        names = _names(candidates)
        refused: set[str] = set()
        if not ledger.all_have_room(shape):
            refused = {
                name
                for name in names
                if (room := ledger.room_beside_gangs(name)) is not None and not room.holds(shape)
            }
            refused |= self._promised_beside_others(shape, names)
            refused = {name for name in refused if ledger.devices.understands(name)}
        if not refused:
            return FilterResult(candidates if names else []), False
        kept = msgspec.json.encode([name for name in names if name not in refused])
        failed = msgspec.json.encode(dict.fromkeys(refused, RESERVED))
        result = FilterResult(msgspec.Raw(kept), msgspec.Raw(failed))
        return result, len(refused) == len(names)

    def _promised_beside_others(self, shape: PodShape, names: list[str]) -> set[str]:
        """Return nodes where foreign pods and what is promised to gangs together leave no room.

        kube-scheduler knows who is bound, and not what is promised beside them.
        """
        control = self._controller
        ledger = control.ledger
        if not control.tables.unplaced or not ledger.state.foreign:
            return set()
        full = {
            name
            for name in names
            if name in ledger.state.foreign
            and (room := ledger.room(name)) is not None
            and not room.holds(shape)
        }
        return full & control.promised_nodes() if full else full

    def preempt(self, args: PreemptArgs) -> PreemptResult:
        """Never for a gang's pod, never on a promised node, never a gang's pod."""
        control = self._controller
        offered = args.node_name_to_meta_victims or {}
        uid = args.pod.metadata.uid
        unseen = uid not in control.pods and key_of(args.pod, control.find) is not None
        if not control.active or unseen or uid in control.key_of_pod:
            return PreemptResult({})
        promised = control.promised_nodes()
        return PreemptResult(
            {
                node: victims
                for node, victims in offered.items()
                if node not in promised
                and not any(victim.uid in control.key_of_pod for victim in victims.pods or ())
            }
        )


_list_of_names = msgspec.json.Decoder(list[str] | None)


def _names(candidates: msgspec.Raw) -> list[str]:
    return _list_of_names.decode(candidates) or []
