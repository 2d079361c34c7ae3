"""Pods of a Kubernetes cluster: `kubectl get pods -A -o json`.

A list shows the pods that exist while it is made: those that were deleted before are not in it, and
of a rank that was replaced only the last pod is. An audit log (`audit`) or muster's journal
(`journal`) misses nothing.
"""

from __future__ import annotations

import msgspec
import pandas as pd

from scheduler.kube.objects import Pod, scheduled_unix_s, unix_s
from traces.formats.interface import Options, Reading
from traces.formats.items import json_of
from traces.formats.outcomes import CANCELLED, COMPLETED, FAILED, UNKNOWN
from traces.formats.pod_lives import Life, gathered, gpus_of
from traces.formats.rows import RawTable, reject
from traces.formats.source import Source
from traces.schema import BadCell, TraceError, complete


class _State(msgspec.Struct, rename="camel"):
    started_at: str | None = None
    finished_at: str | None = None


class _States(msgspec.Struct):
    running: _State | None = None
    terminated: _State | None = None


class _Container(msgspec.Struct):
    state: _States | None = None


class _Status(msgspec.Struct, rename="camel"):
    start_time: str | None = None
    container_statuses: list[_Container] = []


class _Times(msgspec.Struct):
    """The times of a pod that the live scheduler does not need."""

    kind: str = "Pod"
    status: _Status = msgspec.field(default_factory=_Status)


class _List(msgspec.Struct):
    items: list[msgspec.Raw]


def read(source: Source, options: Options) -> Reading:
    """Return the gangs and single pods of a list that ran.

    Raises:
        TraceError: the file is not such a list, or has pods that cannot be read and may not be
            skipped, or no pod of it ran.
    """
    lives: list[Life] = []
    bad: list[BadCell] = []
    items = items_of(source)
    others = 0
    for number, item in enumerate(items):
        try:
            times = msgspec.json.decode(item, type=_Times)
            if times.kind != "Pod":
                others += 1
                continue
            pod = msgspec.json.decode(item, type=Pod)
            gpus_of(pod)
            lives.append(life_of(pod, times))
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            bad.append(BadCell(number, "", "", f"is not a pod that can be read: {error}"))
    table = RawTable(
        pd.DataFrame({"pod": [_name(item) for item in items]}),
        pd.Series(range(1, len(items) + 1)),
        str(source),
        unit="item",
    )
    rejected = reject(table, bad, options.on_bad_row)
    now_s = max((time for life in lives for time in _known(life)), default=0.0)
    found = gathered(lives, now_s)
    if found.jobs.empty:
        raise TraceError(f"{source}: none of its {len(items):,} items is a pod that ran")
    left_out = found.left_out | ({"not a pod": others} if others else {})
    notes = (
        "a list shows only the pods that existed when it was made; an audit log misses none",
        *found.notes,
    )
    return Reading(complete(found.jobs), rejected, left_out, notes)


def items_of(source: Source) -> list[bytes]:
    """Return the objects of a list, an array, or objects one after the other, undecoded.

    Raises:
        TraceError: the file is not JSON.
    """
    content = json_of(source)
    try:
        if content.lstrip()[:1] == b"[":
            return [bytes(one) for one in msgspec.json.decode(content, type=list[msgspec.Raw])]
        try:
            return [bytes(one) for one in msgspec.json.decode(content, type=_List).items]
        except msgspec.DecodeError:  # one object, or objects line by line
            items = [line for line in content.splitlines() if line.strip()]
            if len(items) == 1 or not items[0].rstrip().endswith(b"}"):
                items = [bytes(msgspec.json.decode(content, type=msgspec.Raw))]
            return items
    except (msgspec.DecodeError, RecursionError) as error:
        raise TraceError(
            f"{source} is not JSON ({error}); make it with: kubectl get pods -A -o json"
        ) from None


def _name(item: bytes) -> str:
    try:
        return msgspec.json.decode(item, type=Pod).where
    except (msgspec.DecodeError, ValueError, RecursionError):
        return item[:60].decode("utf-8", "replace")


def _known(life: Life) -> list[float]:
    return [t for t in (life.created_s, life.bound_s, life.runs_s, life.end_s) if t < 1e12]


def life_of(pod: Pod, times: _Times) -> Life:
    """Return the life of a pod as its status tells it.

    Raises:
        ValueError: a time cannot be read.
    """
    life = Life(pod, unix_s(pod.metadata.creation_timestamp))
    if not life.created_s:
        raise ValueError("it has no creationTimestamp")
    if bound_s := scheduled_unix_s(pod):
        life.bound_s = bound_s
    states = [one.state for one in times.status.container_statuses if one.state is not None]
    seen = [state.running or state.terminated for state in states]
    started = [unix_s(one.started_at) for one in seen if one is not None and one.started_at]
    if started:
        life.runs_s = max(started)
    elif times.status.start_time:
        life.runs_s = unix_s(times.status.start_time)
    if pod.ended:
        ends = [unix_s(one.terminated.finished_at) for one in states if one.terminated is not None]
        life.end_s = max([*ends, 0.0]) or _left_s(pod) or life.from_s
        life.outcome = COMPLETED if pod.status.phase == "Succeeded" else FAILED
    elif pod.metadata.deletion_timestamp is not None:
        life.end_s = unix_s(pod.metadata.deletion_timestamp)
        life.outcome = CANCELLED
    else:
        life.outcome = UNKNOWN
    return life


def _left_s(pod: Pod) -> float:
    """Return when a pod without a container status stopped being ready, in Unix seconds."""
    times = [unix_s(c.last_transition_time) for c in pod.status.conditions if c.type == "Ready"]
    return max(times, default=0.0)
