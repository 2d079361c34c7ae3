"""The verbs that kube-scheduler calls: filter, preempt, bind. Handlers read; only a bind writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from scheduler.live.api import ApiError
from scheduler.live.controller import Controller
from scheduler.live.gangs import key_of
from scheduler.live.lanes import pinned_to, plan_text
from scheduler.live.membership import LiveGang, Slot, Unit
from scheduler.live.objects import Pod, pod_shape

log = logging.getLogger("muster.extender")
#: constant, because a text that changes makes kube-scheduler ask again at once, without end
WAITS = "waiting for room for the whole gang"
RESERVED = "reserved for a gang"


class FilterArgs(msgspec.Struct, rename="pascal"):
    """What kube-scheduler sends for one pod."""

    pod: Pod
    node_names: msgspec.Raw = msgspec.Raw(b"null")  #: decoded only where names matter


class FilterResult(msgspec.Struct, rename="pascal"):
    """Nodes the pod may go to."""

    node_names: list[str] | msgspec.Raw
    failed_nodes: dict[str, str] = {}
    error: str = ""


class Victims(msgspec.Struct):
    """Pods that preemption would delete on one node; passed through as they came."""

    pods: list[dict[str, Any]] | None = msgspec.field(default=None, name="Pods")
    num_violations: int = msgspec.field(default=0, name="NumPDBViolations")


class PreemptArgs(msgspec.Struct, rename="pascal"):
    """Nodes on which preemption would make room."""

    pod: Pod
    node_name_to_meta_victims: dict[str, Victims] | None = None


class PreemptResult(msgspec.Struct, rename="pascal"):
    """Those that may be used."""

    node_name_to_meta_victims: dict[str, Victims]


class BindArgs(msgspec.Struct, rename="pascal"):
    """A pod that kube-scheduler wants on a node."""

    pod_name: str
    pod_namespace: str
    pod_u_i_d: str = msgspec.field(name="PodUID")
    node: str


class BindResult(msgspec.Struct, rename="pascal"):
    """Empty if it is bound."""

    error: str = ""


class Extender:
    """Answers from the controller's tables."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._parked: dict[str, set[str]] = {}  #: unit -> pods whose bind waits
        self._committed: dict[str, asyncio.Future[str]] = {}

    def filter(self, args: FilterArgs) -> FilterResult:
        """Pin a planned pod, refuse a waiting one, keep others off promised capacity."""
        control = self._controller
        if not control.active:
            return FilterResult([], error="muster does not lead or has not read the cluster yet")
        uid = args.pod.metadata.uid
        place = control.slot_of.get(uid)
        if place is not None:
            _, _, slot = place
            if slot.node in _names(args.node_names):
                return FilterResult([slot.node])
            return FilterResult([], {"muster": "its planned node is not among the candidates"})
        if uid in control.key_of_pod:
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
        if control.ledger.all_have_room(shape):
            return FilterResult(candidates if bytes(candidates) != b"null" else [])
        names = _names(candidates)
        refused = {
            name
            for name in names
            if (room := control.ledger.room_beside_gangs(name)) is not None
            and not room.holds(shape)
        }
        if not refused:
            return FilterResult(candidates)
        if len(refused) == len(names):
            control.refused.add(pod.metadata.uid)
        return FilterResult(
            [name for name in names if name not in refused], dict.fromkeys(refused, RESERVED)
        )

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
                and not any(v.get("UID") in control.key_of_pod for v in victims.pods or ())
            }
        )

    async def bind(self, args: BindArgs, disconnected: Callable[[], Awaitable[bool]]) -> BindResult:
        """Bind a pod; one of an ungated gang only together with all of its gang."""
        control = self._controller
        if not control.active:
            return BindResult("muster does not lead or has not read the cluster yet")
        if args.node not in control.ledger.nodes:  # the API server would take any name
            return BindResult(f"there is no node {args.node}")
        place = control.slot_of.get(args.pod_u_i_d)
        if place is None:
            if args.pod_u_i_d in control.key_of_pod:
                return BindResult("the gang of this pod is not admitted")
            if args.pod_u_i_d not in control.pods:
                return BindResult("muster has not seen this pod yet")
            return await self._write(args, "")
        gang, unit, slot = place
        if slot.node != args.node:
            return BindResult(f"planned for node {slot.node}, not {args.node}")
        if not slot.bound and control.ledger.overfull(slot.node):
            return BindResult(f"there is no room left on {slot.node}")
        if pinned_to(gang.pods[slot.uid]) == slot.node:
            slot.asked = True
            return await self._write(args, plan_text(unit.name, unit.generation, slot))
        refusal = await self._barrier(gang, unit, slot, disconnected)
        if refusal:
            return BindResult(refusal)
        slot.asked = True
        return await self._write(args, plan_text(unit.name, unit.generation, slot))

    async def _barrier(
        self,
        gang: LiveGang,
        unit: Unit,
        slot: Slot,
        disconnected: Callable[[], Awaitable[bool]],
    ) -> str:
        """Wait until every pod of the unit is here or bound; return why not, or nothing.

        The generation is part of the key, so a plan that was given up never gets its pods bound.
        """
        control = self._controller
        generation = unit.generation
        key = f"{unit.name}/{generation}"
        parked = self._parked.setdefault(key, set())
        parked.add(slot.uid)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + control.settings.timeouts.barrier_s
        try:
            while True:
                outcome = self._committed.get(key)
                if outcome is not None:
                    return await asyncio.shield(outcome)
                if control.slot_of.get(slot.uid, (None, None, None))[2] is not slot:
                    return "the plan changed"
                if loop.time() >= end_s:
                    return "not all pods of the gang came in time"
                if await disconnected():
                    return "kube-scheduler does not wait any more"
                missing = [s for s in unit.slots if not s.bound and s.uid not in parked]
                if not missing and not unit.releasing:
                    return await self._commit(key, gang, unit, generation)
                await asyncio.sleep(0.02)
        finally:
            parked.discard(slot.uid)
            if not parked:
                self._parked.pop(key, None)
                self._committed.pop(key, None)

    async def _commit(self, key: str, gang: LiveGang, unit: Unit, generation: int) -> str:
        """Pass the point of no return, once for the whole unit."""
        control = self._controller
        outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._committed[key] = outcome
        refusal = ""
        if unit.generation != generation or unit.name not in gang.units:
            refusal = "the plan changed"
        elif not all(control.ledger.usable(slot.node) for slot in unit.slots if not slot.bound):
            refusal = "a planned node is gone"
        else:
            try:
                await control.plans.commit(unit)
            except (ApiError, KeyError) as error:
                refusal = f"the plan could not be committed: {error}"
        outcome.set_result(refusal)
        if refusal:
            control.metrics.aborts.labels(cause="barrier").inc()
        return refusal

    async def _write(self, args: BindArgs, plan: str) -> BindResult:
        control = self._controller
        try:
            await control.lanes.bind(
                args.pod_namespace, args.pod_name, args.pod_u_i_d, args.node, plan, within_s=2.0
            )
        except ApiError as error:
            return BindResult(str(error))
        return BindResult()


_list_of_names = msgspec.json.Decoder(list[str] | None)


def _names(candidates: msgspec.Raw) -> list[str]:
    return _list_of_names.decode(candidates) or []
