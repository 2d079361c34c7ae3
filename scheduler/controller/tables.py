"""The gangs of the cluster with their pods, units and slots, and the objects that size them."""

from __future__ import annotations

from scheduler.controller.asking import request_for
from scheduler.controller.membership import LiveGang, Refusals, Slot, Unit, attempt_of
from scheduler.controller.mirror import Ledger, Request
from scheduler.controller.settings import LiveSettings
from scheduler.controller.work import Work
from scheduler.kube.objects import Pod, Thing
from scheduler.workloads.gangs import GangKey


class Tables:
    """What muster knows. Whoever changes what a unit holds tells the ledger, through here."""

    def __init__(self, settings: LiveSettings, ledger: Ledger, work: Work) -> None:
        self.settings = settings
        self.ledger = ledger
        self.work = work
        self.gangs: dict[GangKey, LiveGang] = {}
        self.names: dict[str, LiveGang] = {}
        self.key_of_pod: dict[str, GangKey] = {}
        self.pods: dict[str, Pod] = {}
        self.slot_of: dict[str, tuple[LiveGang, Unit, Slot]] = {}
        self.gang_of_unit: dict[str, LiveGang] = {}
        self.things: dict[tuple[str, str, str], Thing] = {}
        self._refusals: dict[GangKey, tuple[Refusals, str]] = {}
        self.num_unbound = 0  #: 0 only if no slot awaits its bind

    def find(self, kind: str, namespace: str, name: str) -> Thing | None:
        """Return a watched object."""
        return self.things.get((kind, namespace, name))

    def unchecked(self, gang: LiveGang, pod: Pod) -> str:
        """Return what of a pod only kube-scheduler checks or hands out; empty if nothing."""
        if what := gang.facts(pod).unmodelled:
            return what
        resource = self.ledger.devices.asked_by(pod)
        return f"devices for {resource}" if resource else ""

    def promised_nodes(self) -> set[str]:
        """Return nodes on which a pod with a slot is not bound yet."""
        if not self.num_unbound:
            return set()
        slots = [slot for gang in self.gangs.values() for _, slot in gang.slots()]
        found = {slot.node for slot in slots if not slot.bound}
        self.num_unbound = len(found)
        return found

    def gang(self, key: GangKey) -> LiveGang:
        """Return a gang, which is new if nobody asked for it before."""
        gang = self.gangs.get(key)
        if gang is None:
            plain = name = f"{key.namespace}/{key.name}"
            if name in self.names:
                name = plain = f"{name}~{key.owner[:8] or key.source.split('.')[0].lower()}"
            number = 2
            while name in self.names:
                name, number = f"{plain}~{number}", number + 1
            gang = self.gangs[key] = LiveGang(key, name, self.settings.resource)
            gang.avoid, gang.refusal = self._refusals.pop(key, ({}, ""))
            self.names[name] = gang
        return gang

    def forget_gang(self, gang: LiveGang) -> None:
        """Forget a gang without pods, but not where kube-scheduler refused them."""
        if gang.avoid:
            self._refusals[gang.key] = (gang.avoid, gang.refusal)
            now_s = self.work.now_s()
            for key, (avoid, _) in list(self._refusals.items()):
                if all(end_s <= now_s for known in avoid.values() for end_s in known.values()):
                    del self._refusals[key]
        del self.gangs[gang.key]
        del self.names[gang.name]

    def request(
        self, gang: LiveGang, pods: list[Pod], num_pods: int = 0, name: str = ""
    ) -> Request:
        """Return the request of some pods, under a new name if none is given."""
        while not name or (name in self.gang_of_unit and name not in gang.units):
            name = gang.new_unit_name()
        return request_for(gang, name, pods, num_pods, self.find, self.work.zero_unix_s)

    def add_unit(self, gang: LiveGang, unit: Unit) -> None:
        """Note a unit, waiting or with slots."""
        gang.units[unit.name] = unit
        self.gang_of_unit[unit.name] = gang

    def give_slots(self, gang: LiveGang, unit: Unit, slots: list[Slot]) -> None:
        """Note which pod of a unit has which node."""
        unit.slots = slots
        self.num_unbound += sum(not slot.bound for slot in slots)
        for slot in slots:
            slot.attempt = attempt_of(gang.pods[slot.uid])
            self.slot_of[slot.uid] = (gang, unit, slot)

    def hold_new(self, gang: LiveGang, pods: list[Pod], slots: list[Slot], now_s: float) -> Unit:
        """Count pods that have their nodes as a unit of their own."""
        request = self.request(gang, pods)
        request.nodes = tuple(slot.node for slot in slots)
        request.admitted_s = now_s
        request.present = len(pods)
        unit = Unit(request, tuple(p.metadata.uid for p in pods))
        self.add_unit(gang, unit)
        self.give_slots(gang, unit, slots)
        self.ledger.hold(request)
        return unit

    def keep(self, gang: LiveGang, unit: Unit, slots: list[Slot]) -> None:
        """Let a unit hold these slots, of which there is one at least, and no others."""
        pods = [pod for slot in slots if (pod := gang.pods.get(slot.uid)) is not None]
        request = unit.request
        templates = {part.name.split("#")[0]: part for part in request.parts}
        parts = gang.parts(pods)
        order = [pod.metadata.uid for pod in pods]
        empty = [slot for slot in slots if not slot.uid]
        for slot in empty:
            part = templates.get(slot.rank.role) or request.parts[0]
            lost = f"{part.name}#lost{len(parts)}"
            parts.append(type(part)(lost, 1, part.shape, part.pod, part.avoid))
        by_uid = {slot.uid: slot for slot in slots}
        unit.slots = [by_uid[uid] for uid in order] + empty
        self.ledger.hold(
            Request(
                name=request.name,
                parts=parts,
                submit_s=request.submit_s,
                priority=request.priority,
                queue=request.queue,
                walltime_s=request.walltime_s,
                present=len(slots),
                nodes=tuple(slot.node for slot in unit.slots),
                admitted_s=request.admitted_s,
            )
        )
        unit.request = self.ledger.requests[request.name]

    def drop_unit(self, gang: LiveGang, unit: Unit) -> None:
        """Give back what a unit holds or asks for."""
        for slot in unit.slots:
            place = self.slot_of.get(slot.uid)
            if place is not None and place[1] is unit:  # else a later plan has the pod
                del self.slot_of[slot.uid]
        unit.slots = []
        if gang.units.get(unit.name) is not unit:  # dropped before, and its name may be another's
            return
        self.ledger.withdraw(unit.name)
        del gang.units[unit.name]
        self.gang_of_unit.pop(unit.name, None)
