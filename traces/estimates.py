"""Requested walltimes of users: from a menu, mostly far above the run time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from traces.profiles import Estimates
from traces.schema import DAY_S, HOUR_S
from traces.streams import Stream, generator

Floats = npt.NDArray[np.float64]


def walltimes(
    model: Estimates, duration_s: Floats, campaign: npt.NDArray[np.int64], seed: int
) -> Floats:
    """Return the walltime that each job requests, never below its run time.

    A campaign asks with one habit: its run time, or a gamma-distributed ln(requested / run) above
    it; both rounded up to the menu. Jobs longer than the menu ask for whole days.
    """
    num_campaigns = int(campaign.max()) + 1
    uniform = generator(seed, Stream.ESTIMATES).random(num_campaigns)
    # a generator of its own: more campaigns do not change what the first ones ask for
    draw = generator(seed, Stream.ESTIMATES, replica=1)
    excess = draw.gamma(model.gamma_shape, model.gamma_scale, num_campaigns)
    excess[uniform < model.exact_ratio] = 0.0
    menu_s = np.array(model.menu_h) * HOUR_S
    wanted_s = np.minimum(duration_s * np.exp(excess[campaign]), menu_s[-1])
    from_menu = menu_s[np.searchsorted(menu_s, wanted_s)]
    whole_days = np.ceil(duration_s / DAY_S) * DAY_S
    return np.where(duration_s > menu_s[-1], whole_days, from_menu)
