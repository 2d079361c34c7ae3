"""Audit log of a Kubernetes API server, at level Request or RequestResponse for pods.

Pods that are created, bound and deleted are enough; where the log has status updates, too, it says
when a pod began to run and how it ended. Format: audit.k8s.io/v1, one event a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

import msgspec
import pandas as pd

from scheduler.kube.objects import Pod, unix_s
from traces.formats.interface import Options, Reading
from traces.formats.items import json_of
from traces.formats.outcomes import CANCELLED, COMPLETED, FAILED
from traces.formats.pod_lives import Life, gathered, gpus_of
from traces.formats.rows import RawTable, reject
from traces.formats.source import Source
from traces.schema import BadCell, TraceError, complete

COMPLETE = "ResponseComplete"
POLICY = (
    "log pods with level Request: "
    '{"level": "Request", "resources": [{"group": "", "resources": ["pods", "pods/binding", '
    '"pods/status"]}]}'
)


class _Ref(msgspec.Struct, rename="camel"):
    resource: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class _Status(msgspec.Struct):
    code: int = 0


class _Event(msgspec.Struct, rename="camel"):
    kind: str = ""
    stage: str = ""
    verb: str = ""
    level: str = ""
    object_ref: _Ref | None = None
    response_status: _Status | None = None
    stage_timestamp: str = ""
    request_received_timestamp: str = ""
    request_object: Any = None
    response_object: Any = None


class _Lines(msgspec.Struct):
    items: list[msgspec.Raw]


def read(source: Source, options: Options) -> Reading:
    """Return the gangs and single pods that ran.

    Raises:
        TraceError: the file is not such a log, or has lines that cannot be read and may not be
            skipped, or no pod of it ran.
    """
    open_: dict[tuple[str, str], Life] = {}  #: by namespace and name, those not deleted
    lives: list[Life] = []
    bad: list[BadCell] = []
    lines: list[str] = []
    numbers: list[int] = []
    bare = others = 0
    now_s = 0.0
    for number, line in _events(source):
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.kind != "Event":
                raise ValueError(f"its kind is {event.kind!r}, not Event")
            stamp = event.stage_timestamp or event.request_received_timestamp
            at_s = unix_s(stamp)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            bad.append(BadCell(len(lines), "", "", f"is not an audit event: {error}"))
            lines.append(line.decode("utf-8", "replace"))
            numbers.append(number)
            continue
        now_s = max(now_s, at_s)
        ref = event.object_ref
        code = event.response_status.code if event.response_status else 0
        if event.stage != COMPLETE or ref is None or not 200 <= code < 300:
            continue
        if ref.resource != "pods":
            others += 1
            continue
        try:
            bare += not _take(event, ref, at_s, open_, lives)
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            bad.append(BadCell(len(lines), "", "", f"holds a pod that cannot be read: {error}"))
            lines.append(line.decode("utf-8", "replace"))
            numbers.append(number)
    table = RawTable(
        pd.DataFrame({"event": pd.Series(lines, dtype="str")}),
        pd.Series(numbers, dtype="int64"),
        str(source),
    )
    rejected = reject(table, bad, options.on_bad_row)
    if not lives:
        raise TraceError(
            f"{source}: no pod was created in it whose content it holds"
            + (f", though {bare:,} events name pods" if bare else "")
            + f"; {POLICY}"
        )
    found = gathered(lives, now_s)
    if found.jobs.empty:
        raise TraceError(f"{source}: none of its {len(lives):,} pods got a node; {POLICY}")
    left_out = found.left_out
    if bare:
        left_out = {**left_out, "a pod created before the log begins": bare}
    return Reading(complete(found.jobs), rejected, left_out, found.notes)


def _events(source: Source) -> Iterator[tuple[int, bytes]]:
    """Yield the events of a log that have to do with pods, and their line numbers."""
    content = json_of(source)
    lines = content.splitlines()
    if (lines and b'"EventList"' in lines[0]) or (lines and lines[0].strip() in (b"{", b"[")):
        try:
            whole = content if content.lstrip()[:1] == b"{" else b'{"items":' + content + b"}"
            items = msgspec.json.decode(whole, type=_Lines).items
        except (msgspec.DecodeError, RecursionError) as error:
            raise TraceError(f"{source} is not a list of audit events: {error}") from None
        yield from ((number, bytes(item)) for number, item in enumerate(items, 1))
        return
    for number, line in enumerate(lines, 1):
        if line.strip() and (b'"pods"' in line or not line.lstrip().startswith(b"{")):
            yield number, line


def _take(
    event: _Event, ref: _Ref, at_s: float, open_: dict[tuple[str, str], Life], lives: list[Life]
) -> bool:
    """Note what an event says of a pod; False if the log does not hold that pod's content."""
    match event.verb, ref.subresource:
        case "create", "":
            made = _pod(event.response_object) or _pod(event.request_object)
            if made is None:
                return False
            meta = made.metadata
            meta.namespace = meta.namespace or ref.namespace
            meta.name = meta.name or ref.name
            gpus_of(made)  # that it can be read
            life = Life(made, unix_s(meta.creation_timestamp) or at_s)
            open_[meta.namespace, meta.name] = life
            lives.append(life)
            return True
        case ("create", "binding" | "eviction") | ("patch" | "update" | "delete", _):
            life_or_none = open_.get((ref.namespace, ref.name))
            if life_or_none is None:
                return False
            life = life_or_none
        case "deletecollection", _:
            return _all_deleted(event, ref, at_s, open_)
        case _:
            return True
    if ref.subresource == "binding":
        life.bound_s = at_s
    elif event.verb == "delete":
        _deleted(event, at_s, open_, (ref.namespace, ref.name))
    else:
        _changed(life, event, at_s)
    return True


def _pod(value: Any) -> Pod | None:
    """Return the pod that an event holds, if it holds one."""
    if not isinstance(value, dict) or value.get("kind") != "Pod":
        return None
    return msgspec.convert(value, Pod, strict=False)


def _changed(life: Life, event: _Event, at_s: float) -> None:
    """Note a pod's phase, from the answer or, where the log has none, from the request."""
    for value in (event.response_object, event.request_object):
        status = value.get("status") if isinstance(value, dict) else None
        phase = status.get("phase") if isinstance(status, dict) else None
        if not isinstance(phase, str):
            continue
        if phase == "Running" and life.runs_s == inf:
            life.runs_s = at_s
        elif phase in ("Succeeded", "Failed") and life.end_s == inf:
            life.end_s = at_s
            life.outcome = COMPLETED if phase == "Succeeded" else FAILED
        return


def _deleted(
    event: _Event, at_s: float, open_: dict[tuple[str, str], Life], name: tuple[str, str]
) -> None:
    """Note that a pod is gone, or told to end: a kubelet deletes it once more when it has."""
    life = open_.get(name)
    if life is None:
        return
    if life.end_s == inf:
        life.end_s, life.outcome = at_s, CANCELLED
    answer = event.response_object
    meta = answer.get("metadata") if isinstance(answer, dict) else None
    leaves_later = isinstance(meta, dict) and meta.get("deletionGracePeriodSeconds")
    if not leaves_later:
        del open_[name]


def _all_deleted(event: _Event, ref: _Ref, at_s: float, open_: dict[tuple[str, str], Life]) -> bool:
    """Note the pods that a deletion of many names in its answer; all of the namespace without."""
    answer = event.response_object
    items = answer.get("items") if isinstance(answer, dict) else None
    if isinstance(items, list):
        metas = [item.get("metadata") or {} for item in items if isinstance(item, dict)]
        names = [(ref.namespace, str(meta.get("name", ""))) for meta in metas]
    else:
        names = [name for name in open_ if name[0] == ref.namespace]
    for name in names:
        _deleted(event, at_s, open_, name)
    return True
