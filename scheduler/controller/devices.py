"""The devices of nodes in the ledger: what they add to a node, and which claims hold them.

Devices that muster does not understand are named, and none of their node is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from scheduler.controller.leaving import Lasts
from scheduler.core.model import PodShape
from scheduler.kube.devices import DeviceClass, ResourceClaim, ResourceSlice
from scheduler.kube.objects import NodeObject, Pod
from scheduler.workloads.devices import Devices
from scheduler.workloads.requests import devices_shape, nano

log = logging.getLogger("muster.devices")


class DeviceBook:
    """Counts devices where an extended resource stands for them.

    `recount` counts the named nodes again; `occupy` counts what is taken of a node under a name,
    and nothing where the node is "", for good or until a gang ends. Both return whether that
    changed something. `named` is called when something is named, or understood after all.
    """

    def __init__(
        self,
        resource: str,
        nodes: dict[str, NodeObject],
        recount: Callable[[Iterable[str]], bool],
        occupy: Callable[[str, str, PodShape, Lasts], bool],
        named: Callable[[], None],
    ) -> None:
        self.known = Devices()
        #: by node or slice: why some of its devices are not counted
        self.not_understood: dict[str, str] = {}
        self._resource = resource
        self._nodes = nodes
        self._recount = recount
        self._occupy = occupy
        self._named = named
        #: says of a pod, by its uid, for how long it holds what it does
        self.lasts: Callable[[str], Lasts] = lambda uid: Lasts.WITH_A_GANG
        self.pod: Callable[[str], Pod | None] = lambda uid: None  #: by uid
        self._claimed: dict[str, set[str]] = {}  #: nodes on which a claim holds devices
        self._claims_of: dict[str, set[str]] = {}  #: by uid of a pod: claims that hold any for it
        self._pods_of: dict[str, set[str]] = {}  #: the same by claim

    def of(self, node: NodeObject) -> dict[str, int]:
        """Return the devices of a node that resources stand for."""
        offer = self.known.offered(node.metadata.name)
        said = [
            f"{resource}: {why}"
            for resource, why in sorted(offer.unknown.items())
            if not _allocatable(node, resource)
        ]
        self._name(f"node {node.metadata.name}", "; ".join(said))
        return offer.counts

    def forget_node(self, name: str) -> None:
        """Forget what is known of a node that left."""
        self._name(f"node {name}", "")

    def understands(self, node: str) -> bool:
        """True unless some devices of the node are not counted."""
        return f"node {node}" not in self.not_understood

    def take(self, item: DeviceClass | ResourceSlice | ResourceClaim, *, gone: bool) -> bool:
        """Process an object's state or deletion; return whether that changed something."""
        match item:
            case DeviceClass():
                self.known.set_class(item, gone=gone)
                return self._count(self._nodes, self.known.claims())
            case ResourceSlice():
                nodes = self.known.set_slice(item, gone=gone)
                return self._count(nodes, self.known.claims(item))
            case ResourceClaim():
                self.known.set_claim(item, gone=gone)
                return self._count_claim(item, gone=gone)

    def look_at(self, pod: str) -> bool:
        """Count again what claims hold for a pod that is new, changed its gang, or left it."""
        if pod not in self._claims_of:
            return False
        claims = (self.known.claim(uid) for uid in list(self._claims_of.get(pod, ())))
        news = [self._count_claim(claim) for claim in claims if claim is not None]
        return any(news)

    def _count(self, nodes: Iterable[str], claims: list[ResourceClaim]) -> bool:
        news = [self._recount(list(nodes))]
        news += [self._count_claim(claim) for claim in claims]
        shared = {f"slice {name}" for name in self.known.shared()}
        for what in [w for w in self.not_understood if w.startswith("slice ")]:
            if what not in shared:
                self._name(what, "")
        for what in sorted(shared):
            self._name(what, "they do not belong to one node")
        return any(news)

    def _count_claim(self, claim: ResourceClaim, *, gone: bool = False) -> bool:
        """Count devices that are taken by other means than a pod's requests."""
        uid = claim.metadata.uid
        pods = {one.uid for one in claim.status.reserved_for}
        held = {} if gone else self.known.taken(claim, [self.pod(one) for one in pods])
        pods = pods if held else set()
        self._note_pods(uid, pods)
        lasts = max(map(self.lasts, pods), default=Lasts.WITH_A_GANG)
        news = []
        for name, counts in held.items():
            node = self._nodes.get(name)
            here = {r: n for r, n in counts.items() if node is None or not _allocatable(node, r)}
            news.append(self._occupy(f"claim {uid} {name}", name, self._shape(here), lasts))
        left = self._claimed.pop(uid, set()) - held.keys()
        news += [self._occupy(f"claim {uid} {name}", "", self._shape({}), lasts) for name in left]
        if held:
            self._claimed[uid] = set(held)
        return any(news)

    def _note_pods(self, claim: str, pods: set[str]) -> None:
        """Note for whom a claim holds devices."""
        old = self._pods_of.pop(claim, set())
        for pod in old - pods:
            self._claims_of[pod].discard(claim)
            if not self._claims_of[pod]:
                del self._claims_of[pod]
        for pod in pods - old:
            self._claims_of.setdefault(pod, set()).add(claim)
        if pods:
            self._pods_of[claim] = pods

    def _shape(self, counts: dict[str, int]) -> PodShape:
        return devices_shape(counts, self._resource)

    def _name(self, what: str, why: str) -> None:
        """Say once of what nothing is counted."""
        if why == self.not_understood.get(what, ""):
            return
        self._named()
        if not why:
            del self.not_understood[what]
            return
        if why not in self.not_understood.values():  # once for all nodes of one kind
            log.warning("devices of %s are not counted: %s", what, why)
        self.not_understood[what] = why


def _allocatable(node: NodeObject, resource: str) -> int:
    return nano(node.status.allocatable.get(resource, 0))
