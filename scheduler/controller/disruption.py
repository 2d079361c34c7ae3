"""What disruption budgets allow of many pods at once: a dry run asks for each pod by itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from scheduler.kube.api import Api, ApiError
from scheduler.kube.reading import UNREADABLE, decode

#: bound pods are kept without most of their labels, so the API server says which ones match
NAMES_ALONE = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class _Meta(msgspec.Struct):
    name: str = ""
    uid: str = ""


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


async def tight(api: Api, namespace: str, uids: Collection[str]) -> Tight | None:
    """Return the first such budget, if there is one; before others one that allows some.

    Raises:
        ApiError: 403 if muster may not read the budgets; the API server does not say.
    """
    found = None
    root = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    for budget in await _items(api, root, "application/json"):
        allowed, selector = budget.status.disruptions_allowed, budget.spec.selector
        if selector is None or allowed >= len(uids):
            continue
        query = urlencode({"labelSelector": _text(selector), "resourceVersion": "0"})
        pods = await _items(api, f"/api/v1/namespaces/{namespace}/pods?{query}", NAMES_ALONE)
        num = sum(pod.metadata.uid in uids for pod in pods)
        if num > allowed:
            name = budget.metadata.name
            text = f"disruption budget {name} allows {allowed:,} disruptions, of {num:,} pods"
            found = Tight(text, allowed)
            if allowed:
                break
    return found


async def _items(api: Api, path: str, accept: str) -> list[_Item]:
    try:
        return decode(_list, await api.call("GET", path, accept=accept)).items
    except UNREADABLE as error:
        raise ApiError(0, f"the answer is no list that muster can read: {error}") from None


def _text(selector: dict[str, Any]) -> str:
    """Return a selector as it stands in a query; empty if it selects everything."""
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
