"""Who waited for what, and when: kept while the simulation runs, exact, without sampling."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scheduler.core.decisions import PendingReason, Wait
from scheduler.core.model import FamilyKey
from sim.schema.tables import REASONS, RESOURCES

if TYPE_CHECKING:
    from scheduler.core.quotabook import Option
    from sim.engines.quotas import UsageOverTime

CODE = {reason: code for code, reason in enumerate(REASONS)}
CAPACITY = CODE[PendingReason.CAPACITY]
FRAGMENTATION = CODE[PendingReason.FRAGMENTATION]
BEHIND_HEAD = CODE[PendingReason.BEHIND_HEAD]
QUOTA = CODE[PendingReason.QUOTA]
#: reasons by which gangs find too little of a resource
SHORT = (CAPACITY, FRAGMENTATION, CODE[PendingReason.HELD_BY_OTHERS])
NUM_REASONS = len(REASONS)
_RESOURCE_CODE = {name: code for code, name in enumerate(RESOURCES)}
_OTHER = len(RESOURCES) - 1
_pack_outlook: Final = Struct("=5d").pack


def coded(reason: int, resource: str) -> int:
    """Return one number for a reason and the resource that it is about."""
    return reason + NUM_REASONS * _RESOURCE_CODE.get(resource, _OTHER)


def by_reason(pod_s: Mapping[int, NDArray[np.float64]], num_jobs: int) -> NDArray[np.float64]:
    """Return pod-seconds [num_jobs, num_reasons] of those by `coded` number."""
    found = np.zeros((num_jobs, NUM_REASONS))
    for code, waited_s in pod_s.items():
        found[:, code % NUM_REASONS] += waited_s
    return found


def by_resource(pod_s: Mapping[int, NDArray[np.float64]], num_jobs: int) -> NDArray[np.float64]:
    """Return pod-seconds [num_jobs, num_resources] in which that resource was short."""
    found = np.zeros((num_jobs, len(RESOURCES)))
    for code, waited_s in pod_s.items():
        if code % NUM_REASONS in SHORT:
            found[:, code // NUM_REASONS] += waited_s
    return found


class StepLog:
    """Changes of a step function per reason and queue, in any order of time."""

    def __init__(self) -> None:
        #: flat rows of time_s, reason and queue as one number, pods, gpus
        self._rows = array("d")
        self._blocks: list[NDArray[np.float64]] = []

    def add(self, time_s: float, reason: int, pods: int, gpus: int) -> None:
        """Note that from `time_s` on so many more pods are pending for `reason`."""
        self._rows.extend((time_s, reason, pods, gpus))

    def extend(
        self,
        time_s: NDArray[np.float64],
        reason: PendingReason,
        pods: NDArray[np.int64],
        gpus: NDArray[np.int64],
        queue: NDArray[np.int64] | int = 0,
    ) -> None:
        """Add many changes of one reason; `queue` is of whose gangs they are."""
        code = np.broadcast_to(CODE[reason] + NUM_REASONS * queue, len(time_s))
        self._blocks.append(np.stack((time_s, code, pods, gpus), axis=1))

    def table(self) -> pd.DataFrame:
        """Return the step function as the pending table: time_s, reason, pods, gpus."""
        rows = self._all()
        at_s, codes, pods, gpus = _steps_by(rows, rows[:, 1].astype(np.int64) % NUM_REASONS)
        return pd.DataFrame({"time_s": at_s, "reason": _names(codes), "pods": pods, "gpus": gpus})

    def table_by_queue(self, queues: Sequence[str]) -> pd.DataFrame:
        """Return the same by queue: time_s, queue, reason, pods, gpus; `queues` are their names."""
        rows = self._all()
        at_s, codes, pods, gpus = _steps_by(rows, rows[:, 1].astype(np.int64))
        names = np.array(list(queues), object)
        return pd.DataFrame(
            {
                "time_s": at_s,
                "queue": pd.Series(names[codes // NUM_REASONS], dtype="str"),
                "reason": _names(codes % NUM_REASONS),
                "pods": pods,
                "gpus": gpus,
            }
        )

    def _all(self) -> NDArray[np.float64]:
        return np.concatenate([np.frombuffer(self._rows, np.float64).reshape(-1, 4), *self._blocks])


def _names(codes: NDArray[np.int64]) -> pd.Series[str]:
    names = np.array([str(reason) for reason in REASONS], object)
    return pd.Series(names[codes], dtype="str")


def _steps_by(
    rows: NDArray[np.float64], code: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the times, codes, pods and GPUs of the step functions of each code, by time."""
    # few codes: numpy sorts small integers in one go
    small = np.min_scalar_type(int(code.max(initial=0)))
    by_code = np.argsort(code.astype(small), kind="stable")
    codes, begins = np.unique(code[by_code], return_index=True)
    steps = []
    for at, begin in enumerate(begins.tolist()):
        end = int(begins[at + 1]) if at + 1 < len(begins) else len(code)
        mine = rows[by_code[begin:end]]
        at_s, (pods, gpus) = accumulate_steps(
            mine[:, 0], mine[:, 2].astype(np.int64), mine[:, 3].astype(np.int64)
        )
        steps.append((at_s, np.full(len(at_s), codes[at], np.int64), pods, gpus))
    none = np.empty(0, np.int64)
    at_s = np.concatenate([np.empty(0), *(step[0] for step in steps)])
    found, pods, gpus = (
        np.concatenate([none, *(step[column] for step in steps)]) for column in (1, 2, 3)
    )
    order = np.lexsort((found, at_s))
    return at_s[order], found[order], pods[order], gpus[order]


def accumulate_steps(
    time_s: NDArray[np.float64], *changes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Return distinct times and the levels from then on; times without change are left out."""
    if not len(time_s):
        return time_s, [np.empty(0, np.int64) for _ in changes]
    order = np.argsort(time_s, kind="stable")
    sorted_s = time_s[order]
    last = np.append(np.flatnonzero(np.diff(sorted_s)), len(sorted_s) - 1)
    levels = [np.cumsum(change[order])[last] for change in changes]
    differs = np.zeros(len(last), bool)
    for level in levels:
        differs |= np.diff(level, prepend=0) != 0
    return sorted_s[last][differs], [level[differs] for level in levels]


def integral(time_s: NDArray[np.float64], level: NDArray[np.int64], until_s: float) -> float:
    """Return the integral of a step function from its first step to `until_s`."""
    if not len(time_s):
        return 0.0
    width = np.diff(np.append(np.minimum(time_s, until_s), until_s))
    return float(np.dot(width, level))


class Stints(NamedTuple):
    """Times that gangs spent in the queue, as columns."""

    job: NDArray[np.int64]
    from_s: NDArray[np.float64]
    to_s: NDArray[np.float64]


class Demand(NamedTuple):
    """Gangs that wait for the same reasons at any time."""

    family: FamilyKey
    size: int  #: within the family
    pods: int  #: of one gang
    gpus: int
    queue: int = 0  #: where queues have quota
    options: tuple[Option, ...] = ()  #: and the ways to place one


class QueueLedger:
    """What waiting gangs waited for, worked out once a run is over.

    All gangs of one pod family and size, and of one queue, wait for the same reason at any time.
    The `Wait` decisions of the family say which, and usage whether quota is short instead. So it is
    enough to keep those, and the stints.
    """

    def __init__(self) -> None:
        self._outlooks: dict[FamilyKey, bytearray] = {}

    def note(self, wait: Wait, now_s: float) -> None:
        """Take a new outlook of a family."""
        rows = self._outlooks.get(wait.family)
        if rows is None:
            rows = self._outlooks[wait.family] = bytearray()
        short, apart = coded(CAPACITY, wait.short), coded(FRAGMENTATION, wait.apart)
        rows += _pack_outlook(now_s, wait.fit_pods, wait.free_pods, short, apart)

    def settle(
        self,
        stints: Stints,
        demand: NDArray[np.int64],
        demands: Sequence[Demand],
        log: StepLog,
        num_jobs: int,
        usage: UsageOverTime | None = None,
    ) -> dict[int, NDArray[np.float64]]:
        """Log what pods wait in the queue for; return pod-seconds per `coded` reason and job.

        `demand` is the index of each job in `demands`.
        """
        pod_s: dict[int, NDArray[np.float64]] = {}
        of_stint = demand[stints.job]
        by_demand = np.argsort(of_stint, kind="stable")
        bounds = np.searchsorted(of_stint[by_demand], np.arange(len(demands) + 1))
        outlooks: dict[FamilyKey, _Outlook] = {}
        for index, (family, size, pods, gpus, queue, options) in enumerate(demands):
            mine = by_demand[bounds[index] : bounds[index + 1]]
            if not len(mine):
                continue
            if family not in outlooks:
                outlooks[family] = _outlook(self._outlooks[family])
            from_s, to_s = stints.from_s[mine], stints.to_s[mine]
            reason = _reasons(outlooks[family], size, from_s.min(), to_s.max())
            if usage is not None:
                is_short = usage.is_short(queue, options, size)
                reason = _over_quota(reason, usage.time_s, is_short, from_s.min(), to_s.max())
            _log_steps(log, reason, from_s, to_s, pods, gpus, queue)
            for code, waited_s in _split(reason, from_s, to_s).items():
                of_job = pod_s.setdefault(code, np.zeros(num_jobs))
                np.add.at(of_job, stints.job[mine], waited_s * pods)
        return pod_s


class _Outlook(NamedTuple):
    """What one family waited for, as step functions."""

    time_s: NDArray[np.float64]
    fit_pods: NDArray[np.int64]
    free_pods: NDArray[np.int64]
    short: NDArray[np.int64]  #: `coded` reason of those that are larger
    apart: NDArray[np.int64]  #: and of those in between


def _outlook(flat: bytearray) -> _Outlook:
    rows = np.frombuffer(flat, np.float64).reshape(-1, 5)
    last = np.append(np.diff(rows[:, 0]) > 0, True)  # of one instant, the last word
    time_s, *numbers = rows[last].T
    return _Outlook(np.ascontiguousarray(time_s), *(column.astype(np.int64) for column in numbers))


class _Reason(NamedTuple):
    """Why gangs of one size wait, as a step function."""

    time_s: NDArray[np.float64]
    code: NDArray[np.int64]  #: see `coded`


def _reasons(outlook: _Outlook, size: int, from_s: float, to_s: float) -> _Reason:
    first = int(np.searchsorted(outlook.time_s, from_s, side="right")) - 1
    end = int(np.searchsorted(outlook.time_s, to_s, side="right"))
    fits = outlook.fit_pods[first:end] >= size
    free = outlook.free_pods[first:end] >= size
    short, apart = outlook.short[first:end], outlook.apart[first:end]
    code = np.where(fits, BEHIND_HEAD, np.where(free, apart, short))
    at = np.append(0, np.flatnonzero(code[1:] != code[:-1]) + 1)
    return _Reason(outlook.time_s[first + at], code[at])


def _over_quota(
    reason: _Reason,
    time_s: NDArray[np.float64],
    is_short: NDArray[np.bool_],
    from_s: float,
    to_s: float,
) -> _Reason:
    """Return the reasons with `quota` wherever that is short."""
    first = int(np.searchsorted(time_s, from_s, side="right")) - 1
    end = int(np.searchsorted(time_s, to_s, side="right"))
    time_s, is_short = time_s[first:end], is_short[first:end]
    changes = np.append(0, np.flatnonzero(is_short[1:] != is_short[:-1]) + 1)
    time_s, is_short = time_s[changes], is_short[changes]
    at_s = np.union1d(reason.time_s, time_s)
    at_s = at_s[at_s >= max(reason.time_s[0], time_s[0])]
    code = reason.code[np.searchsorted(reason.time_s, at_s, side="right") - 1]
    short = is_short[np.searchsorted(time_s, at_s, side="right") - 1]
    code = np.where(short, QUOTA, code)
    at = np.append(0, np.flatnonzero(code[1:] != code[:-1]) + 1)
    return _Reason(at_s[at], code[at])


def _split(
    reason: _Reason, from_s: NDArray[np.float64], to_s: NDArray[np.float64]
) -> dict[int, NDArray[np.float64]]:
    """Return the seconds of each `coded` reason in each stint."""
    knots_s = np.append(reason.time_s, np.inf)
    lasts_s = np.diff(reason.time_s, append=reason.time_s[-1])
    first = np.searchsorted(reason.time_s, from_s, side="right") - 1
    last = np.searchsorted(reason.time_s, to_s, side="right") - 1
    whole = first == last
    parts = {}
    for code in np.unique(reason.code).tolist():
        applies = reason.code == code
        before_s = np.append(0.0, np.cumsum(np.where(applies, lasts_s, 0.0)))
        between_s = before_s[last] - before_s[np.minimum(first + 1, last)]
        head_s = np.where(applies[first], np.minimum(knots_s[first + 1], to_s) - from_s, 0.0)
        tail_s = np.where(applies[last] & ~whole, to_s - reason.time_s[last], 0.0)
        parts[code] = head_s + between_s + tail_s
    return parts


def _log_steps(
    log: StepLog,
    reason: _Reason,
    from_s: NDArray[np.float64],
    to_s: NDArray[np.float64],
    pods: int,
    gpus: int,
    queue: int,
) -> None:
    """Log the pending pods of one size: each time one joins or leaves or the reason changes."""
    lo = np.searchsorted(reason.time_s, from_s.min(), side="right")
    hi = np.searchsorted(reason.time_s, to_s.max(), side="left")
    times_s, (gangs,) = accumulate_steps(
        np.concatenate([from_s, to_s]),
        np.concatenate([np.ones(len(from_s), np.int64), -np.ones(len(to_s), np.int64)]),
    )
    at_s = np.union1d(times_s, reason.time_s[lo:hi])
    level = gangs[np.searchsorted(times_s, at_s, side="right") - 1]
    code = reason.code[np.searchsorted(reason.time_s, at_s, side="right") - 1] % NUM_REASONS
    for one in (QUOTA, CAPACITY, FRAGMENTATION, BEHIND_HEAD):
        change = np.diff(np.where(code == one, level, 0), prepend=0)
        moves = change != 0
        if moves.any():
            change = change[moves]
            log.extend(at_s[moves], REASONS[one], change * pods, change * gpus, queue)
