"""What disruption budgets allow for many pods at once: a dry run checks each pod separately."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from scheduler.controller.repelling import in_common, may_match
from scheduler.kube.api import Api, ApiError
from scheduler.kube.reading import UNREADABLE, decode

#: bound pods are kept without most of their labels, so the API server says which ones match
MOST_ASKED = 20  #: budgets of one namespace of which the API server is asked which pods match
UNTOLD_S = 30.0  #: a budget knows by then of pods whose job was suspended
NAMES_ALONE = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class _Meta(msgspec.Struct):
    name: str = ""
    uid: str = ""
    labels: dict[str, str] = {}


class _Spec(msgspec.Struct):
    selector: dict[str, Any] | None = None


class _Status(msgspec.Struct, rename="camel"):
    disruptions_allowed: int = 0


class _Item(msgspec.Struct):
    """A disruption budget, or a pod that matches one."""

    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _List(msgspec.Struct):
    items: list[_Item] = []


_list = msgspec.json.Decoder(_List)


class Tight(NamedTuple):
    """A budget that allows fewer disruptions than it has pods among those asked for."""

    text: str
    allowed: int


class _Taken(NamedTuple):
    """What was taken of a budget, which may not know of it before `until_s`."""

    until_s: float
    namespace: str
    budget: str
    uids: frozenset[str]


class Budgets:
    """What disruption budgets allow, less what muster took of them a moment ago."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._taken: list[_Taken] = []

    def are_taken_from(self, namespace: str, now_s: float) -> bool:
        """True if a budget of a namespace may allow less than it says."""
        self._taken = [one for one in self._taken if one.until_s > now_s]
        return any(one.namespace == namespace for one in self._taken)

    async def take(
        self, namespace: str, uids: Collection[str], going: Collection[str], now_s: float
    ) -> Tight | None:
        """Take pods from their budgets, if all of them allow it; return one that does not.

        Before others one that allows some. Pods that are `going` were asked of the API server, and
        it may not have answered yet.

        Raises:
            ApiError: 403 if muster may not read the budgets, or many may be for these pods, which
                none can have; the API server does not say.
        """
        found = None
        root = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
        budgets = await _items(self._api, root, "application/json")
        budgets = [budget for budget in budgets if budget.spec.selector is not None]
        several = len(budgets) > MOST_ASKED
        matching = await (self._matched if several else self._asked)(namespace, budgets, uids)
        self.are_taken_from(namespace, now_s)  # forgets; from here on nobody else asks
        for budget, pods in matching:
            allowed, meta = budget.status.disruptions_allowed, budget.metadata
            num = len(pods.intersection(uids))
            before = (one.uids for one in self._taken if one.budget == meta.uid)
            others = len(pods.intersection(going).union(*before).difference(uids))
            if num + others > allowed and (found is None or allowed):
                text = f"disruption budget {meta.name} allows {allowed:,} disruptions"
                said = f", and {others:,} more were evicted a moment ago" if others else ""
                found = Tight(f"{text}, of {num:,} pods{said}", allowed)
        if found is None:
            for budget, pods in matching:
                mine = frozenset(pods.intersection(uids))
                until_s = now_s + UNTOLD_S
                self._taken.append(_Taken(until_s, namespace, budget.metadata.uid, mine))
        return found

    async def _asked(
        self, namespace: str, budgets: list[_Item], uids: Collection[str]
    ) -> list[tuple[_Item, set[str]]]:
        """Return the budgets that match some pods, and all pods that they match."""
        found = []
        for budget in budgets:
            query = urlencode({"labelSelector": _text(budget), "resourceVersion": "0"})
            path = f"/api/v1/namespaces/{namespace}/pods?{query}"
            pods = {pod.metadata.uid for pod in await _items(self._api, path, NAMES_ALONE)}
            if not pods.isdisjoint(uids):
                found.append((budget, pods))
        return found

    async def _matched(
        self, namespace: str, budgets: list[_Item], uids: Collection[str]
    ) -> list[tuple[_Item, set[str]]]:
        """Return the same of many budgets, by one request for all pods of their namespace."""
        path = f"/api/v1/namespaces/{namespace}/pods?resourceVersion=0"
        pods = [pod.metadata for pod in await _items(self._api, path, NAMES_ALONE)]
        same, differing = in_common(pod.labels for pod in pods if pod.uid in uids)
        near = [one for one in budgets if may_match(one.spec.selector or {}, same, differing)]
        if len(near) > MOST_ASKED:
            raise ApiError(403, f"{len(near):,} disruption budgets may apply to its pods")
        found = []
        for budget in near:
            selector = budget.spec.selector or {}
            match = {pod.uid for pod in pods if may_match(selector, pod.labels, set())}
            if not match.isdisjoint(uids):
                found.append((budget, match))
            await asyncio.sleep(0)
        return found


async def _items(api: Api, path: str, accept: str) -> list[_Item]:
    try:
        return decode(_list, await api.call("GET", path, accept=accept)).items
    except UNREADABLE as error:
        raise ApiError(0, f"the answer is not a readable list: {error}") from None


def _text(budget: _Item) -> str:
    """Return a budget's selector as it stands in a query; empty if it selects everything."""
    selector = budget.spec.selector or {}
    found = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for clause in selector.get("matchExpressions") or ():
        key, values = clause["key"], ",".join(clause.get("values") or ())
        match clause["operator"]:
            case "In":
                found.append(f"{key} in ({values})")
            case "NotIn":
                found.append(f"{key} notin ({values})")
            case "Exists":
                found.append(key)
            case "DoesNotExist":
                found.append(f"!{key}")
    return ",".join(found)
