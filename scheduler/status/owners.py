"""Why the owner of a gang creates no more pods: only its Events tell.

Read only for gangs that wait for members, a few at a time, and at intervals.
"""

from __future__ import annotations

import logging
from math import inf
from urllib.parse import quote

import msgspec

from scheduler.controller.membership import LiveGang
from scheduler.kube.api import Api, ApiError
from scheduler.kube.reading import UNREADABLE, decode

log = logging.getLogger("muster.owners")
AGAIN_S = 60.0
MOST_AT_ONCE = 5
MOST_CHARS = 400


class _Event(msgspec.Struct, rename="camel"):
    reason: str = ""
    note: str = ""


class _Events(msgspec.Struct):
    items: list[_Event] = []


_events = msgspec.json.Decoder(_Events)


class Owners:
    """Asks for the Events of owners."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._asked_s: dict[str, float] = {}
        self._left = MOST_AT_ONCE

    def begin(self) -> None:
        """Note that a new look at the gangs begins."""
        self._left = MOST_AT_ONCE

    def forget(self, gang: str) -> None:
        """Note that a gang is gone."""
        self._asked_s.pop(gang, None)

    async def ask(self, gang: LiveGang, now_s: float) -> float:
        """Find out why a gang has too few pods, if it is time; return when to ask again."""
        again_s = self._asked_s.get(gang.name, -inf) + AGAIN_S
        if again_s > now_s:
            return again_s
        owner = next(iter(gang.pods.values())).metadata.controller()
        if owner is None:
            return inf
        if not self._left:
            return now_s + 1.0
        self._left -= 1
        self._asked_s[gang.name] = now_s
        path = (
            f"/apis/events.k8s.io/v1/namespaces/{gang.key.namespace}/events"
            f"?fieldSelector=regarding.uid%3D{quote(owner.uid, safe='')}%2Ctype%3DWarning&limit=100"
        )
        try:
            found = decode(_events, await self._api.call("GET", path)).items
        except (ApiError, *UNREADABLE) as error:
            log.info("Events of %s %s not read: %s", owner.kind, owner.name, error)
            return now_s + AGAIN_S
        # FailedCreate of a Job or JobSet, FailedCreatePod of a training job
        notes = [one.note for one in found if one.reason.startswith("FailedCreate")]
        gang.owner_says = ""
        if notes:
            note = min(notes, key=lambda note: "exceeded quota" not in note)
            gang.owner_says = f"{owner.kind} {owner.name} cannot create more pods: {_short(note)}"
        return now_s + AGAIN_S


def _short(note: str) -> str:
    """Leave out which pod it was, of which each try has another."""
    at = max(note.find("exceeded quota"), 0)
    return ascii(note[at : at + MOST_CHARS])[1:-1]
