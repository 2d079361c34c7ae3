"""How many requests are in flight: as many as the API server answers without queueing.

The limit follows the answers as TCP Vegas follows round trips (Brakmo, O'Malley and Peterson,
SIGCOMM 1994; Netflix's concurrency-limits does so for requests): by how much longer an answer takes
than the quickest of its kind, it says how many requests wait in the server. The quickest answer is
measured again with few requests every half minute (as BBR does, Cardwell and others, CACM 2017), so
that a server under constant load does not count as slow. A refusal for overload halves the limits
of all flows for a while, and nothing is sent before the time that it gives.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf

LEAST, FIRST = 4.0, 16.0
FEW, MANY = 8.0, 16.0  #: requests that wait in the server: one more may go, one less
SLACK = 2.0  #: an answer that takes twice as long as the quickest shows no queue yet
QUICKEST_FOR_S = 30.0  #: so long, and up to twice as long, the quickest answer counts
HALF = 0.5
STAYS_S = 10.0  #: a limit that was halved does not grow so long: each try may cost such a rest
LONGEST_REST_S = 30.0
BEHIND_OTHERS_S = 1.0  #: so long a request that goes first waits for those under way, no longer


class Flow:
    """Requests that wait for their turn, and those in flight. Those of `before` go first."""

    def __init__(
        self, most: int, before: Flow | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = min(FIRST, float(most))
        self.under_way = 0
        self._most = float(most)
        self._least = min(LEAST, self._most)
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._quickest: dict[str, float] = {}  #: answer of each kind, in this half minute
        self._quickest_before: dict[str, float] = {}  #: and in the one before
        self._since_s = clock()
        self._counts_from_s = -inf  #: answers to what was sent before say nothing
        self._doubles = True  #: nothing has shown yet how much is too much
        self._halved_s = -inf
        self._grows_from_s = -inf
        self._rests_until_s = -inf
        self._patient_until_s = -inf  #: the first that waits goes beside others from then on
        self._wakes_s = inf
        self._before = before
        self._after: Flow | None = None
        if before is not None:
            before._after = self

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    async def turn(self, *, again: bool = False) -> None:
        """Return when a request may be sent; with `again` it goes before new ones."""
        if not self._waiting and self._may_go():
            self.under_way += 1
            return
        asked = asyncio.get_running_loop().create_future()
        if self._after is not None and not self._waiting:
            self._patient_until_s = self._clock() + BEHIND_OTHERS_S
        if again:
            self._waiting.appendleft(asked)
        else:
            self._waiting.append(asked)
        self._go()  # sets a timer where nothing else would wake it
        try:
            await asked
        except asyncio.CancelledError:
            if asked.cancelled():
                with suppress(ValueError):  # those before it went in the same turn of the loop
                    self._waiting.remove(asked)
                self._go()
            else:  # its turn had come
                self.over()
            raise

    def over(self) -> None:
        """Note that a request is no longer in flight."""
        self.under_way -= 1
        self._go()

    def answered(self, kind: str, sent_s: float, code: int, retry_after_s: float = 0.0) -> None:
        """Learn from an answer to a request sent at `sent_s`; code 0 is none."""
        now_s = self._clock()
        if code == 429:  # by flow control, which does not tell flows apart
            rest_s = min(max(retry_after_s, 0.1), LONGEST_REST_S)
            for flow in filter(None, (self, self._before, self._after)):
                flow._rests_until_s = max(flow._rests_until_s, now_s + rest_s)
                flow._halve(sent_s, now_s, 1.0)
            return
        if code == 0 or code >= 500:
            self._halve(sent_s, now_s, self._least)
            return
        if now_s - self._since_s > QUICKEST_FOR_S:  # from when few are left under way
            self._since_s, self._counts_from_s = now_s, inf
            self._quickest_before, self._quickest = self._quickest, {}
            self.limit, self._doubles = min(self.limit, self._least), True
        if self._counts_from_s == inf and self.under_way <= self._least:
            self._counts_from_s = now_s
        if sent_s < self._counts_from_s:
            return
        took_s = max(now_s - sent_s, 1e-6)
        queue = self.limit * (1.0 - SLACK * self._quickest_s(kind, took_s) / took_s)
        if queue > MANY:
            self._doubles = False
            self.limit = max(self._least, self.limit - 1.0 / self.limit)
        elif queue < FEW and 2 * self.under_way >= self.limit and now_s >= self._grows_from_s:
            self.limit = min(self._most, self.limit + (1.0 if self._doubles else 1.0 / self.limit))

    def _halve(self, sent_s: float, now_s: float, least: float) -> None:
        if sent_s < self._halved_s:  # before the limit was lowered
            return
        self._halved_s, self._grows_from_s = now_s, now_s + STAYS_S
        self._doubles = False
        self.limit = min(self.limit, max(least, HALF * self.limit))

    def _quickest_s(self, kind: str, took_s: float) -> float:
        """Return the quickest answer of late, this one included; the server may get slower."""
        quickest_s = self._quickest[kind] = min(self._quickest.get(kind, inf), took_s)
        return min(self._quickest_before.get(kind, inf), quickest_s)

    def _may_go(self) -> bool:
        if self.under_way >= int(self.limit) or self._clock() < self._rests_until_s:
            return False
        if self._before is not None and self._before._waiting:
            return False
        other = self._before or self._after
        if other is None or max(self.limit, other.limit) >= self._least:
            return True
        if self._after is not None and not self.under_way and self._has_waited():
            return True
        return self.under_way + other.under_way < int(self.limit)  # next to nothing, for both

    def _has_waited(self) -> bool:
        return bool(self._waiting) and self._clock() >= self._patient_until_s

    def _go(self) -> None:
        """Let those go on whose turn has come."""
        while self._waiting and self._may_go():
            asked = self._waiting.popleft()
            if not asked.done():
                self.under_way += 1
                asked.set_result(None)
        if self._waiting:
            now_s = self._clock()
            later_s = [at for at in (self._rests_until_s, self._patient_until_s) if at > now_s]
            if min(later_s, default=inf) < self._wakes_s:
                self._wakes_s = min(later_s)
                asyncio.get_running_loop().call_later(self._wakes_s - now_s, self._woken)
        elif self._after is not None and self._after._waiting:
            self._after._go()
        if self._before is not None and self._before._waiting:
            self._before._go()  # it waited for these, if there is next to nothing for both

    def _woken(self) -> None:
        self._wakes_s = inf
        self._go()
