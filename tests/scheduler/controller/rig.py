"""A controller on the bench: real ledger, lanes, plans and messages; what it writes is kept.

There is no API server behind it. Every request is recorded and answered as one that succeeded, and
facts come from the test, so that a rule can be tried in milliseconds.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import msgspec

from scheduler.controller.controller import Controller
from scheduler.controller.metrics import Metrics
from scheduler.controller.mirror import Ledger
from scheduler.controller.plans import AGES, PlanRecord, PlanRecords, record_name
from scheduler.controller.settings import LiveSettings
from scheduler.controlplane.objects import node as played
from scheduler.core.audit import validate
from scheduler.core.state import ClusterState
from scheduler.journal import lines as journals
from scheduler.journal.replay import replay
from scheduler.kube.api import ApiError
from scheduler.kube.objects import GATE, NodeObject, Pod, Thing
from scheduler.kube.watch import Change
from scheduler.policies import catalog
from scheduler.status.publish import Publisher
from scheduler.workloads.lean import lean_pod, lean_thing

RESOURCE = "nvidia.com/gpu"


class Recorder:
    """Takes every request and keeps it."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.records: dict[str, Any] = {}  #: plan records that are there, by name
        self._version = itertools.count(1)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        unless: Callable[[], str] | None = None,
        **_: Any,
    ) -> bytes:
        """Answer as an API server does that takes it."""
        if unless is not None and (why := unless()):
            raise ApiError(409, why)
        if isinstance(body, bytes):
            body = msgspec.json.decode(body)
        self.requests.append((method, path, body))
        if "/configmaps" in path:
            return msgspec.json.encode(self._kept(method, path.rpartition("/")[2], body))
        return msgspec.json.encode({"metadata": {"resourceVersion": str(next(self._version))}})

    def _kept(self, method: str, name: str, body: Any) -> dict[str, Any]:
        """Do with a plan record what an API server does."""
        if method == "POST":
            name = body["metadata"]["name"]
        known = self.records.get(name)
        if method in ("GET", "PATCH") and known is None:
            raise ApiError(404, "not found")
        if method in ("GET", "DELETE"):
            wanted = ((body or {}).get("preconditions") or {}).get("resourceVersion")
            if known is not None and wanted not in (None, known["metadata"]["resourceVersion"]):
                raise ApiError(409, "of another version")
            if method == "DELETE":
                self.records.pop(name, None)
            return known or {"metadata": {}}
        meta = {"name": name, "resourceVersion": str(next(self._version))}
        self.records[name] = {"metadata": meta}
        for part in ("data", "binaryData"):
            given = {**(known or {}).get(part, {}), **(body.get(part) or {})}
            self.records[name][part] = {k: v for k, v in given.items() if v is not None}
        return self.records[name]

    persist = call


class Rig:
    """A controller that leads, and the cluster it is told of."""

    def __init__(self, nodes: int = 4, gpus: int = 8, **settings: Any) -> None:
        self.clock_s = 100.0
        self.api = Recorder()
        self.settings = msgspec.convert(settings, LiveSettings)
        policy = catalog.policy(self.settings.policy)
        self.lines: list[bytes] = []  #: of the journal
        self.ledger = Ledger(policy, RESOURCE, self._record, self._rebuilt)
        self.publisher = Publisher(self.api, "rig")  # type: ignore[arg-type]
        self.publisher.active = True
        plans = PlanRecords(self.api, "muster-system", "rig")  # type: ignore[arg-type]
        self.control = Controller(
            self.settings,
            self.api,  # type: ignore[arg-type]
            self.ledger,
            plans,
            self.publisher,
            Metrics(),
            clock=lambda: self.clock_s,
        )
        self.control.active = True
        for number in range(nodes):
            self.node(number, gpus)

    def _record(self, now_s: float, item: object) -> None:
        self.lines.append(journals.encode(now_s, item))

    def _rebuilt(self, now_s: float, state: ClusterState) -> None:
        self.lines.append(journals.snapshot(now_s, state, self.settings.policy))

    def replay(self) -> None:
        """Demand that the core decides the same again, and knows each gang by its name alone."""
        with NamedTemporaryFile() as file:
            file.write(b"".join(line + b"\n" for line in self.lines))
            file.flush()
            assert not (found := replay(Path(file.name))).difference, found.difference
        assert set(self.ledger.state.gangs) <= set(self.control.names)

    def refuse(self, ending: str, error: ApiError) -> None:
        """Have the API server refuse all requests from now on whose address ends so."""
        take = self.api.call

        async def answer(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith(ending):
                raise error
            return await take(method, path, body, **more)

        self.api.call = answer  # type: ignore[method-assign]

    def node(self, number: int, gpus: int = 8, change: Change = Change.ADDED) -> None:
        """Tell of a node."""
        self.control.on_node(change, msgspec.convert(played(number, gpus), NodeObject))

    def thing(self, kind: str, name: str, spec: Any, **meta: Any) -> None:
        """Tell of an object that sizes gangs."""
        meta = {"name": name, "namespace": "n", "uid": f"uid-{name}", **meta}
        item = msgspec.convert({"metadata": meta, "spec": spec}, Thing)
        self.control.on_thing(kind, Change.MODIFIED, lean_thing(item))

    def no_thing(self, kind: str, name: str) -> None:
        """Tell that such an object is gone."""
        item = msgspec.convert({"metadata": {"name": name, "namespace": "n"}}, Thing)
        self.control.on_thing(kind, Change.DELETED, item)

    def see(self, *pods: Pod) -> None:
        """Tell of pods as they are now."""
        for one in pods:
            kept = _kept(one)
            if kept is None:
                self.lose(one)
                continue
            known = kept.metadata.uid in self.control.pods
            self.control.on_pod(Change.MODIFIED if known else Change.ADDED, kept)

    def lose(self, *pods: Pod) -> None:
        """Tell that pods are gone."""
        for one in pods:
            self.control.on_pod(Change.DELETED, one)

    async def settle(self) -> None:
        """Step until nothing more is written, and nobody asks for another step."""
        for _ in range(20):
            before = len(self.api.requests)
            self.control.work._wake.clear()
            self.control.step()
            await self.control.finish_work(5.0)
            if len(self.api.requests) == before and not self.control.work._wake.is_set():
                validate(self.ledger.state)
                return
        raise AssertionError("the controller does not come to rest")

    async def pass_s(self, seconds: float) -> None:
        """Let time go by: what is due then is looked at."""
        self.clock_s += seconds
        self.control.work.touch_due(self.control.now_s())
        await self.settle()

    # -- a muster that starts anew -----------------------------------------------------------

    def pods_written(self) -> list[Pod]:
        """Return the pods as the API server has them: seen, with what was written since."""
        found = []
        for one in self.control.pods.values():
            item = msgspec.to_builtins(one)
            path = f"/api/v1/namespaces/{one.metadata.namespace}/pods/{one.metadata.name}"
            for method, where, body in self.api.requests:
                meta = body["metadata"] if (method, where) == ("PATCH", path) else {}
                if meta.get("uid") == one.metadata.uid:
                    item["metadata"]["annotations"].update(meta.get("annotations", {}))
                    if "spec" in body:
                        item["spec"]["schedulingGates"] = body["spec"]["schedulingGates"] or []
                        item["spec"].update(affinity=body["spec"].get("affinity"))
                is_evicted = (method, where) == ("POST", f"{path}/eviction")
                if is_evicted and body["deleteOptions"]["preconditions"]["uid"] == one.metadata.uid:
                    item["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
            found.append(msgspec.convert(item, Pod))
        return found

    def records_written(self) -> list[PlanRecord]:
        """Return the plan records that the API server has."""
        found: dict[str, PlanRecord] = {}
        for method, path, body in self.api.requests:
            if "/configmaps" not in path:
                continue
            if method == "DELETE":
                found.pop(path.rpartition("/")[2], None)
            elif "plan" in body.get("data", ()):
                plan = msgspec.json.decode(body["data"]["plan"], type=PlanRecord)
                found[record_name(plan.unit)] = plan
        return list(found.values())

    def records_there(self) -> list[PlanRecord]:
        """Return the plan records that are left."""
        items = (item for name, item in self.api.records.items() if name != AGES)
        plans = (item["data"]["plan"] for item in items)
        return [msgspec.json.decode(plan, type=PlanRecord) for plan in plans]

    def restarted(self, **settings: Any) -> Rig:
        """Return the next muster, which knows what the API server has and nothing else."""
        anew = Rig(0, **settings)
        anew.clock_s = self.clock_s
        anew.control.active = False
        for node in self.ledger.nodes.values():
            anew.control.on_node(Change.ADDED, node)
        for (kind, _, _), thing in self.control.tables.things.items():
            anew.control.on_thing(kind, Change.ADDED, thing)
        anew.see(*self.pods_written())
        for plan in self.records_written():
            anew.found(plan)
        ages = self.api.records.get(AGES)
        if ages is not None:
            anew.api.records[AGES] = ages
            anew.control.tables.ages.read(ages["data"]["ages"], anew.control.gangs.values())
        anew.control.tables.name_anew()
        anew.control.active = True
        return anew

    def found(self, plan: PlanRecord) -> None:
        """Have a record of a predecessor, as it is read at the start."""
        self.control.old_plans.setdefault(plan.gang(), []).append(plan)
        self.control.plans._versions[plan.unit] = "of a predecessor"

    # -- what was written --------------------------------------------------------------------

    def placed(self) -> dict[str, str]:
        """Return the node of each pod that was released, by pod."""
        found = {}
        for method, path, body in self.api.requests:
            name = path.rpartition("/")[2]
            if method == "PATCH" and "/pods/" in path and "affinity" in body.get("spec", {}):
                required = body["spec"]["affinity"]["nodeAffinity"][
                    "requiredDuringSchedulingIgnoredDuringExecution"
                ]
                term = required["nodeSelectorTerms"][0]
                found[name] = term["matchFields"][-1]["values"][0]
            elif method == "POST" and path.endswith("/binding"):
                found[path.split("/")[-2]] = body["target"]["name"]
        return found

    def lanes(self) -> dict[str, str]:
        """Return how each pod was told of its node."""
        found = {}
        for method, path, _ in self.api.requests:
            if method == "PATCH" and path.endswith("/status"):
                found[path.split("/")[-2]] = "extender"
            elif method == "PATCH" and "/pods/" in path:
                found[path.rpartition("/")[2]] = "pinned"
            elif method == "POST" and path.endswith("/binding"):
                found[path.split("/")[-2]] = "direct"
        return found

    def nominated(self) -> list[tuple[str, str | None]]:
        """Return every nomination: the pod and its node."""
        return [
            (path.split("/")[-2], body["status"]["nominatedNodeName"])
            for method, path, body in self.api.requests
            if method == "PATCH" and path.endswith("/status")
        ]

    def deleted(self) -> list[str]:
        """Return the pods that were deleted."""
        return [
            p.rpartition("/")[2] for m, p, _ in self.api.requests if m == "DELETE" and "/pods/" in p
        ]

    def evicted(self) -> list[str]:
        """Return the pods that were asked to go."""
        return [
            path.split("/")[-2]
            for _, path, body in self.api.requests
            if path.endswith("/eviction") and "dryRun" not in body["deleteOptions"]
        ]

    def events(self) -> list[tuple[str, str]]:
        """Return reason and text of Events written since the last call."""
        found = []
        while not self.publisher._queue.empty():
            _, body, method = self.publisher._queue.get_nowait()
            if method == "POST":
                said = msgspec.json.decode(body)
                found.append((said["reason"], said["note"]))
        return found

    def problem(self, gang: str) -> str:
        """Return why a gang is not considered."""
        return self.control.names[gang].problem


def _kept(item: Pod) -> Pod | None:
    """Return a pod as the service's informer hands it on."""
    copied = msgspec.convert(msgspec.to_builtins(item), Pod)
    try:
        return lean_pod(copied)
    except Exception:
        return copied


def pod(
    name: str,
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    owner: tuple[str, str, str] | None = None,
    gpus: int | str = 8,
    node: str = "",
    phase: str = "",
    gated: bool | None = None,
    uid: str = "",
    env: dict[str, str] | None = None,
    **spec: Any,
) -> Pod:
    """Return a pod; gated unless it has a node. `owner` is kind, name and uid."""
    gated = not node if gated is None else gated
    container = {
        "name": "main",
        "resources": {"limits": {RESOURCE: str(gpus)}},
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
    }
    kind, owner_name, owner_uid = owner or ("", "", "")
    reference = {"kind": kind, "name": owner_name, "uid": owner_uid, "controller": True}
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "n",
                "uid": uid or name,
                "labels": labels or {},
                "annotations": annotations or {},
                "ownerReferences": [reference] if owner else [],
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "nodeName": node,
                "schedulingGates": [{"name": GATE}] if gated else [],
                "containers": [container],
                **spec,
            },
            "status": {"phase": phase or ("Running" if node else "Pending")},
        },
        Pod,
    )


def close(rig: Rig, name: str, *, closed: bool = True) -> None:
    """Cordon a node, or open it again."""
    item = played(int(name.rpartition("-")[2]), 8)
    item["spec"] = {"unschedulable": closed}
    rig.control.on_node(Change.MODIFIED, msgspec.convert(item, NodeObject))


def tried(story: Callable[[Rig], Awaitable[None]], **rig: Any) -> None:
    """Run a test's story on a new rig, in an event loop of its own."""

    async def run() -> None:
        made = Rig(**rig)
        await story(made)
        made.replay()

    asyncio.run(run())
