"""Progress bars on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from scheduler.core.times import DAY_S

if TYPE_CHECKING:
    from sim.engines.workload import Workload


#: called with (simulated seconds, simulation events so far)
Callback = Callable[[float, int], None]

RUN_FORMAT = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]{postfix}"


def bar(total: float, description: str, **options: Any) -> Any:
    """Return a tqdm bar on stderr; it updates rarely if that is not a terminal."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        file=sys.stderr,
        dynamic_ncols=terminal,
        ascii=None if terminal else True,
        mininterval=0.1 if terminal else 10.0,
        bar_format=RUN_FORMAT,
        **options,
    )


def per_second(rate: float) -> str:
    """Return an event rate as people read it: 310k events/s."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.3g}{letter} events/s"
    return f"{rate:.0f} events/s"


@contextmanager
def run_progress(work: Workload, until_s: float | None = None) -> Iterator[Callback]:
    """Show the progress of one run; the bar fills up to the last submission or `until_s`."""
    last_s = work.submit_s[-1]
    total_s = max(min(last_s, until_s) if until_s else last_s, 1.0)
    with bar(total_s, "muster run") as shown:
        began_s = monotonic()

        def report(time_s: float, num_events: int) -> None:
            rate = num_events / max(monotonic() - began_s, 1e-9)
            days = f"day {time_s / DAY_S:.1f} of {total_s / DAY_S:.1f}"
            if time_s > total_s:
                days += " (all submitted, running the rest)"
            shown.set_postfix_str(f"{days}, {per_second(rate)}", refresh=False)
            shown.update(min(time_s, total_s) - shown.n)

        yield report
        shown.update(total_s - shown.n)
