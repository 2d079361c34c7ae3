"""The writes behind each lane that send pods to their nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import msgspec

from scheduler.controller.disruption import Budgets
from scheduler.controller.membership import TOGETHER, LiveGang
from scheduler.controller.pins import pin
from scheduler.controller.slots import Slot
from scheduler.kube.api import MERGE, Api, ApiError, Turn
from scheduler.kube.objects import GATE, PLAN, SUSPENDED, Meta, Pod
from scheduler.kube.reading import UNREADABLE, decode
from scheduler.workloads.lean import lean_pod

_encode = msgspec.json.Encoder().encode
_pod = msgspec.json.Decoder(Pod)
LOOK_AFTER_S = 10.0  #: a Binding of muster's own has no answer
#: says why a write must not be made any more, or nothing; asked when the write's turn has come
Unless = Callable[[], str] | None


def pod_path(pod: Pod) -> str:
    """Return the address of a pod."""
    return f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}"


class Lanes:
    """Writes to pods. Each carries the pod's uid, so that it never reaches a successor."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.budgets = Budgets(api)

    async def release_pinned(self, pod: Pod, node: str, plan: str, unless: Unless = None) -> None:
        """Remove muster's gate and pin the pod to `node`, in one write.

        Raises:
            ApiError: 404 or 409 if the pod was replaced, 422 if it is pinned already;
                409 for a reason of `unless`, here and below.
        """
        gates = [{"name": g.name} for g in pod.spec.scheduling_gates if g.name != GATE]
        body = _encode(
            {
                "metadata": {"uid": pod.metadata.uid, "annotations": {PLAN: plan}},
                "spec": {
                    "schedulingGates": gates or None,
                    "affinity": pin(pod.spec.affinity, node),
                },
            }
        )
        await self._api.persist("PATCH", pod_path(pod), body, content_type=MERGE, unless=unless)

    async def nominate(self, pod: Pod, node: str, plan: str, unless: Unless = None) -> None:
        """Make kube-scheduler try `node` for the pod now and before any other node.

        In a large cluster it offers an extender only some of the nodes, but tries the nominated one
        first. It retries a pod that it set aside when the pod changes. Without a node, it stops
        keeping room for the pod.
        """
        body = _encode(
            {
                "metadata": {"uid": pod.metadata.uid, "annotations": {PLAN: plan or None}},
                "status": {"nominatedNodeName": node or None},
            }
        )
        path = pod_path(pod) + "/status"
        await self._api.persist("PATCH", path, body, content_type=MERGE, unless=unless)

    async def poke(self, pod: Pod, plan: str) -> None:
        """Wake a pod that its scheduler set aside: a new annotation makes it retry the pod."""
        body = _encode({"metadata": {"uid": pod.metadata.uid, "annotations": {PLAN: plan}}})
        await self._api.persist("PATCH", pod_path(pod), body, content_type=MERGE)

    async def ungate(self, pod: Pod, unless: Unless = None) -> None:
        """Give a pod back to the stock scheduler."""
        gates = [{"name": g.name} for g in pod.spec.scheduling_gates if g.name != GATE]
        body = _encode(
            {"metadata": {"uid": pod.metadata.uid}, "spec": {"schedulingGates": gates or None}}
        )
        await self._api.persist("PATCH", pod_path(pod), body, content_type=MERGE, unless=unless)

    async def bind(
        self,
        namespace: str,
        name: str,
        uid: str,
        node: str,
        plan: str,
        *,
        once: bool = False,
        unless: Unless = None,
    ) -> None:
        """Bind a pod; a write without an answer is looked up before it counts as lost.

        With `once` neither is repeated, and both go first: kube-scheduler waits, and the caller
        decides whether to write again.

        Raises:
            ApiError: 409 if the pod is bound elsewhere, gated, or another one; 404 if it is gone.
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        body = _encode(
            {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "uid": uid,
                    "annotations": {PLAN: plan},
                },
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            }
        )
        where = path + "/binding"
        try:
            if once:
                await self._api.call("POST", where, body, unless=unless, turn=Turn.BIND)
            else:
                await self._bind_or_look(
                    where, body, unless, partial(self._is_bound, path, uid, node)
                )
        except ApiError as error:
            if error.code not in (0, 409) and error.code < 500:
                raise
            if not await self._is_bound(path, uid, node):
                raise

    async def _bind_or_look(
        self, where: str, body: bytes, unless: Unless, is_bound: Callable[[], Awaitable[bool]]
    ) -> None:
        """Bind; while there is no answer, look now and then whether it took place."""
        sent = False

        def may_not() -> str:
            nonlocal sent
            sent = True
            return unless() if unless is not None else ""

        asked = asyncio.ensure_future(self._api.persist("POST", where, body, unless=may_not))
        try:
            while not (await asyncio.wait({asked}, timeout=LOOK_AFTER_S))[0]:
                with suppress(ApiError):
                    if sent and await is_bound():
                        return
            await asked
        finally:
            asked.cancel()

    async def _is_bound(self, path: str, uid: str, node: str) -> bool:
        found = _read(await self._api.call("GET", path, turn=Turn.BIND))
        return found.metadata.uid == uid and found.spec.node_name == node

    async def read(self, pod: Pod) -> Pod | None:
        """Return the pod as the API server has it; None if it is gone.

        Raises:
            ApiError: the API server gives no answer.
        """
        try:
            found = _read(await self._api.persist("GET", pod_path(pod)))
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return found if found.metadata.uid == pod.metadata.uid else None

    async def delete(self, pod: Pod) -> None:
        """Delete a pod that never ran; its owner creates a new one. A missing pod is fine.

        So is a pod that has changed since, perhaps by a bind: the watch reports that.
        """
        meta = pod.metadata
        # without a grace period of our own: the API server removes a pod without a node at once
        seen = {"uid": meta.uid, "resourceVersion": meta.resource_version}
        body = {"preconditions": seen}
        try:
            await self._api.persist("DELETE", pod_path(pod), body)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def suspend(
        self, path: str, job: Meta, note: str | None, spec: dict[str, object], unless: Unless = None
    ) -> None:
        """Suspend or resume a job if it has not changed, and annotate it; None: no annotation.

        Raises:
            ApiError: 404 if it is gone; 409 if it has changed, so that muster never
                overrides others; 403 if muster may not.
        """
        meta: dict[str, object] = {"uid": job.uid, "annotations": {SUSPENDED: note}}
        if job.resource_version:
            meta["resourceVersion"] = job.resource_version
        body = _encode({"metadata": meta, "spec": spec})
        await self._api.persist("PATCH", path, body, content_type=MERGE, unless=unless)

    async def evict(self, pod: Pod, *, only_ask: bool = False) -> None:
        """Evict a running pod as its disruption budget allows, or only check whether it allows it.

        Raises:
            ApiError: 429 while a budget forbids it.
        """
        options: dict[str, object] = {"preconditions": {"uid": pod.metadata.uid}}
        if only_ask:
            options["dryRun"] = ["All"]
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace},
            "deleteOptions": options,
        }
        try:
            await self._api.call("POST", pod_path(pod) + "/eviction", body)
        except ApiError as error:
            if error.code not in (404, 409):
                raise


def _read(reply: bytes) -> Pod:
    """Return the pod of an answer.

    Raises:
        ApiError: it cannot be read, so that nothing is known of it.
    """
    try:
        found = decode(_pod, reply)
        return lean_pod(found) or found
    except UNREADABLE as error:
        raise ApiError(0, f"the answer is not a readable pod: {error}") from None


def plan_text(gang: LiveGang, slot: Slot) -> str:
    """Return the annotation that ties a pod to its plan, and says how many start together."""
    least = f"{TOGETHER}{gang.least()}" if gang.size is not None else ""
    return f"{gang.name}/{slot.plan.generation}/{slot.rank.role}-{slot.rank.number}{least}"
