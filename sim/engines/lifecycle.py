"""From admission to running: how long the control plane and the nodes take, in closed form.

A component that binds pods has a client with a token bucket (rate `bind_qps`, depth `bind_burst`)
and places at most `schedule_per_s` pods a second. It serves gangs one after the other, so the
bind time of the k-th pod of a gang follows from the state of the bucket when its turn comes, and
a gang costs the same whatever its size. Each pod then spends `bind_lag_s` in queues and
watches, which does not delay other pods.

Before that, controllers create the pods, which leaves the scheduler less of the API server.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engines.attempts import Batches
from sim.engines.workload import whole_us
from sim.schema.config import ControlPlane

#: the bind progress of a gang is recorded in at most so many steps
BIND_STEPS = 16


class Creation:
    """When the pods of each job exist: controllers create them job by job, in order of submission.

    A job counts from its last pod on. Recreating pods after a failure costs nothing here.
    """

    __slots__ = ("_began_s", "_over_s", "ready_s")

    def __init__(
        self, submit_s: Sequence[float], num_pods: Sequence[int], plane: ControlPlane
    ) -> None:
        self.ready_s = submit_s  #: of each job
        self._began_s = np.empty(0)  #: of each time of uninterrupted creating
        self._over_s = np.empty(0)
        if plane.create_per_s == inf or not len(submit_s):
            return
        asked_s = np.array(submit_s)
        takes_s = np.array(num_pods) / plane.create_per_s
        done_s = np.cumsum(takes_s)
        idle_s = np.maximum.accumulate(asked_s - (done_s - takes_s))  # Lindley's recursion, solved
        ready_s = done_s + idle_s
        begins = np.append(True, asked_s[1:] > ready_s[:-1])
        self.ready_s = ready_s.tolist()
        self._began_s = asked_s[begins]
        self._over_s = ready_s[np.append(begins[1:], True)]

    def left_s(self, time_s: float) -> float:
        """Return for how much longer pods are created without a pause; 0 if none are."""
        return float(self.left_each_s(np.array([time_s]))[0])

    def left_each_s(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the same for many times."""
        if not len(self._began_s):
            return np.zeros_like(time_s)
        period = np.searchsorted(self._began_s, time_s, side="right") - 1
        over_s = np.where(period < 0, -np.inf, self._over_s[period])
        left_s: NDArray[np.float64] = np.maximum(over_s - time_s, 0.0)
        return left_s


#: the binder turns to the gang, tokens in the bucket at that time, last bind
Turn = tuple[float, float, float]


class Binder:
    """The token bucket and the queue in front of it."""

    __slots__ = ("_burst", "_creation", "_free_s", "_plane", "_qps", "_rate", "_tokens")

    def __init__(self, plane: ControlPlane, creation: Creation) -> None:
        self._plane = plane
        self._creation = creation if plane.creating_ratio < 1.0 else None
        self._rate = plane.schedule_per_s
        self._qps = plane.bind_qps
        self._burst = float(plane.bind_burst)
        self._tokens = self._burst
        self._free_s = 0.0

    def bind(self, num_pods: int, now_s: float) -> Turn:
        """Take the next turn for `num_pods` pods that ask at `now_s`."""
        qps, free_s, tokens = self._qps, self._free_s, self._tokens
        if qps == self._rate == inf:
            return now_s, 0.0, now_s + self._plane.bind_lag_s
        begin_s = free_s
        if now_s > free_s:
            begin_s = now_s
            tokens = min(self._burst, tokens + (now_s - free_s) * qps)
        if self._creation is None:  # what `bind_offset_s` says, for less
            took_s = num_pods / self._rate
            waits_s = (num_pods - tokens) / qps
            if waits_s > took_s:
                took_s = waits_s
        else:
            creating_s = self._creation.left_s(begin_s)
            took_s = bind_offset_s(num_pods, tokens, creating_s, self._plane)
        self._free_s = begin_s + took_s
        refilled = took_s * qps if took_s else 0.0
        self._tokens = min(self._burst, max(0.0, tokens + refilled - num_pods))
        return begin_s, tokens, self._free_s + self._plane.bind_lag_s


def bind_offset_s(k: float, tokens: float, creating_s: float, plane: ControlPlane) -> float:
    """Return when the k-th pod of a turn is bound but for its lag, counted from the turn's begin.

    Pods are created for the first `creating_s` of the turn.
    """
    waits_s = (k - tokens) / plane.bind_qps
    places_s = k / plane.schedule_per_s
    if creating_s:
        ratio = plane.creating_ratio
        places_s = min(places_s / ratio, places_s + (1.0 - ratio) * creating_s)
    return max(places_s, waits_s, 0.0)


class Progress(NamedTuple):
    """Bind progress of many batches as flat arrays, one element per step."""

    batch: NDArray[np.int64]  #: index of the batch
    pods: NDArray[np.int64]  #: pods bound in the step
    gpus: NDArray[np.int64]
    bound_s: NDArray[np.float64]


def bind_progress(batches: Batches, plane: ControlPlane, creation: Creation) -> Progress:
    """Return the steps in which the pods of each batch are bound, in rank order.

    A batch of up to `BIND_STEPS` pods has a step per pod; a larger one has `BIND_STEPS` steps, each
    at the time of its last pod. Where binding takes no time, one step is enough. A batch with
    infinite tokens is bound at once: it ran when the run began.
    """
    pods = batches.pods
    rated = plane.bind_qps < np.inf or plane.schedule_per_s < np.inf
    takes_time = rated or plane.bind_lag_s > 0.0
    num_steps = np.minimum(pods, BIND_STEPS) if takes_time else np.ones_like(pods)
    batch = np.repeat(np.arange(len(pods)), num_steps)
    first = np.cumsum(num_steps) - num_steps
    step = np.arange(len(batch)) - first[batch] + 1
    upto = -(-step * pods[batch] // num_steps[batch])  # pods bound by then: rounded up
    before = -(-(step - 1) * pods[batch] // num_steps[batch])
    gpus_per_pod = batches.gpus_per_pod[batch]
    # the last pod of a batch may be smaller than the others
    gpus_upto = np.where(upto == pods[batch], batches.gpus[batch], upto * gpus_per_pod)
    bound_s = batches.begin_s[batch]
    if takes_time:
        ran_before = np.isinf(batches.tokens[batch])
        waits_s = (upto - batches.tokens[batch]) / plane.bind_qps
        places_s = np.where(ran_before, 0.0, upto / plane.schedule_per_s)
        if plane.creating_ratio < 1.0:
            lost_s = (1.0 - plane.creating_ratio) * creation.left_each_s(batches.begin_s)[batch]
            places_s = np.minimum(places_s / plane.creating_ratio, places_s + lost_s)
        took_s = np.maximum(np.maximum(places_s, waits_s), 0.0)
        bound_s = bound_s + took_s + np.where(ran_before, 0.0, plane.bind_lag_s)
        bound_s = whole_us(bound_s)
    return Progress(batch, upto - before, gpus_upto - before * gpus_per_pod, bound_s)
