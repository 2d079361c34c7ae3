"""Permanent loops that survive any error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import Counter

log = logging.getLogger("muster.guard")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
WELL_AFTER_S = 60.0  #: work that ran for so long begins with the first pause again


async def kept(what: str, work: Callable[[], Awaitable[None]], failures: Counter) -> None:
    """Run a permanent loop; log and count each failure, and restart the loop.

    One object that muster cannot handle must not stop the loop for all others.
    """
    loop = asyncio.get_running_loop()
    pause_s = FIRST_PAUSE_S
    while True:
        began_s = loop.time()
        try:
            await work()
            return
        except Exception:
            log.exception("%s failed and is restarted", what)
            failures.labels(work=what).inc()
        if loop.time() - began_s > WELL_AFTER_S:
            pause_s = FIRST_PAUSE_S
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
