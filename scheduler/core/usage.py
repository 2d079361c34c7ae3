"""What somebody has used, less with time: it orders queues, and neither makes nor protects victims.

Three ways to count, of those whom users know:

* Kueue's admission fair sharing: `Smoothed`, a moving average with a penalty for each start, and
  its order key (kueue, pkg/util/admissionfairsharing).
* KAI's time-based fair share: `Decayed`, resource-time with a half-life, and
  `weights_by_usage`, which turns it into weights of a surplus (KAI, resource_division.go).
* Slurm's fair tree: `Billed`, resource-time decayed once per period, and `fair_tree`, which ranks
  users (Slurm, priority/multifactor and its page fair_tree).

`age_ratio` is Slurm's age factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import inf, log, pow

from scheduler.core.times import FOREVER_US, US_PER_S

#: units of `Smoothed` in one of a resource: what is smaller is cut off
NANO = 1_000_000_000
_LN2 = log(2.0)


def kept_ratio(dt_us: int, half_life_us: int) -> float:
    """Return how much of a use is left after so long; all of it if it never decays.

    A half-life of 0 forgets at once.
    """
    if half_life_us >= FOREVER_US:
        return 1.0
    if half_life_us == 0:
        return 0.0 if dt_us > 0 else 1.0
    return pow(0.5, dt_us / half_life_us)


# -- Kueue: a moving average, and a penalty for each start


@dataclass(slots=True)
class Smoothed:
    """The moving average of what one queue runs, and penalties since its last sample.

    Amounts are in `NANO` units, by resource, and cut off, never rounded up, so that an
    average always decays to 0.
    """

    half_life_us: int  #: 0: nothing counts
    consumed: dict[str, int] = field(default_factory=dict)
    penalty: dict[str, int] = field(default_factory=dict)

    def sample(self, dt_us: int, running: Mapping[str, int]) -> None:
        """Count what ran for so long: `running` by resource, whole units; penalties are gone."""
        new = self._new_ratio(dt_us)
        aged = {name: _times(amount, 1.0 - new) for name, amount in self.consumed.items()}
        for name, amount in running.items():
            aged[name] = aged.get(name, 0) + _times(amount * NANO, new)
        self.consumed = aged
        self.penalty = {}

    def start(self, interval_us: int, request: Mapping[str, int]) -> None:
        """Count a start at once, as the next sample would, `interval_us` from now, if it ran on."""
        new = self._new_ratio(interval_us)
        for name, amount in request.items():
            self.penalty[name] = self.penalty.get(name, 0) + _times(amount * NANO, new)

    def key(self, resource_weights: Mapping[str, float], weight: float) -> float:
        """Return the order key of the queue, lower first; inf if it has no weight.

        A resource without a weight counts 1.
        """
        if weight <= 0:
            return inf
        total = 0.0
        for name in sorted(self.consumed.keys() | self.penalty.keys()):
            amount = self.consumed.get(name, 0) + self.penalty.get(name, 0)
            total += resource_weights.get(name, 1.0) * (amount * 1e-9)
        return total / weight

    def _new_ratio(self, dt_us: int) -> float:
        """Return the weight of what is new against what was; with a half-life of 0 it has none."""
        return 0.0 if self.half_life_us == 0 else 1.0 - kept_ratio(dt_us, self.half_life_us)


def _times(amount: int, ratio: float) -> int:
    """Return amount times ratio, cut off; the ratio as its shortest decimal says."""
    _, digits, exponent = Decimal(repr(ratio)).as_tuple()
    assert isinstance(exponent, int)
    whole = 0
    for digit in digits:
        whole = whole * 10 + digit
    scale = int(10 ** abs(exponent))
    return amount * whole * scale if exponent >= 0 else amount * whole // scale


# -- KAI: resource-time with a half-life, and weights of a surplus


@dataclass(slots=True)
class Decayed:
    """Resource-time of one owner, each moment of it decayed by its own age."""

    half_life_us: int = FOREVER_US  #: never decays
    amount_us: float = 0.0  #: units of the resource times microseconds

    def advance(self, dt_us: int, running: float) -> None:
        """Let so much time pass in which `running` units were held."""
        kept = kept_ratio(dt_us, self.half_life_us)
        if self.half_life_us >= FOREVER_US:
            grown = running * dt_us
        else:
            grown = running * self.half_life_us / _LN2 * (1.0 - kept)
        self.amount_us = self.amount_us * kept + grown

    def ratio_of(self, capacity: Decayed) -> float:
        """Return the use as a share of what the cluster had in the same time, from 0 to 1."""
        return self.amount_us / capacity.amount_us if capacity.amount_us > 0 else 0.0


def weights_by_usage(weights: Sequence[float], used: Sequence[float], k: float) -> list[float]:
    """Return the weights of queues that still want a surplus, less for those that used much.

    `used` are shares of the cluster. With w a queue's part of all weights and u its use, it gets
    max(0, w + k (w - u)): with k 0 the use does not count. The sum of the results need not be 1;
    all are 0 if no queue has a weight.
    """
    total = sum(weights)
    if total == 0:
        return [0.0] * len(weights)
    parts = [weight / total for weight in weights]
    return [max(0.0, part + k * (part - use)) for part, use in zip(parts, used, strict=True)]


# -- Slurm: resource-time decayed once per period, and the fair tree


@dataclass(slots=True)
class Billed:
    """Billed seconds of one association, decayed once per period of calculation."""

    half_life_us: int = FOREVER_US
    amount_s: float = 0.0

    def advance(self, dt_us: int, running: float, period_us: int = FOREVER_US) -> None:
        """Let so much time pass in which `running` units were held, period by period.

        What a period adds decays as if held at its start; the last period may be shorter. The
        factor per second is 1 - 0.693 / half-life, so that 0.50007 is left after seven days of
        seven.
        """
        periods, rest_us = divmod(dt_us, period_us)
        if periods:
            kept = self._kept_ratio(period_us)
            of_all = kept**periods
            # kept + kept**2 + ... + kept**periods
            grown = kept * (1.0 - of_all) / (1.0 - kept) if kept < 1.0 else periods
            added = running * (period_us / US_PER_S)
            self.amount_s = self.amount_s * of_all + added * grown
        if rest_us:
            added = running * (rest_us / US_PER_S)
            self.amount_s = (self.amount_s + added) * self._kept_ratio(rest_us)

    def _kept_ratio(self, dt_us: int) -> float:
        if self.half_life_us >= FOREVER_US:
            return 1.0
        per_s = max(0.0, 1.0 - 0.693 * US_PER_S / self.half_life_us)
        return float(per_s ** (dt_us / US_PER_S))


@dataclass(slots=True)
class Association:
    """A node of Slurm's tree: a user, or an account of users and accounts."""

    name: str  #: unique in the tree
    shares: float = 1
    used: float = 0.0  #: of an account: with all below it
    is_user: bool = True
    below: list[Association] = field(default_factory=list)


def fair_tree(root: Association) -> dict[str, float]:
    """Return the fair-share factor of each user, above 0 and up to 1: rank / number of users.

    Siblings are ordered by (own shares / siblings' shares) / (own use / parent's use): inf without
    use, 0 without shares. All users below an account come before those of the next one. Users of
    equal standing have one rank; a user and an account of equal standing give it to the first
    of the account, too. Accounts of equal standing are ranked as one, their children together:
    so says Slurm's page. Its code does not (`_count_tied_accounts` stops at the first account),
    and there the ranks depend on how equal accounts happen to be sorted.
    """
    users = _num_users(root)
    ranks = _Ranks(users, users)
    _rank(_standings(root), ranks, False)
    return {name: rank / users for name, rank in ranks.of.items()}


@dataclass(slots=True)
class _Ranks:
    next: int  #: of a user that does not tie
    last: int  #: of the last user
    of: dict[str, int] = field(default_factory=dict)


def _num_users(node: Association) -> int:
    return 1 if node.is_user else sum(_num_users(child) for child in node.below)


def _standings(parent: Association) -> list[tuple[float, Association]]:
    """Return how far behind its shares each child is, with the child."""
    shares = sum(child.shares for child in parent.below)
    found = []
    for child in parent.below:
        standing = inf
        if child.shares == 0:
            standing = 0.0
        elif child.used > 0 and parent.used > 0:
            standing = (child.shares / shares) / (child.used / parent.used)
        found.append((standing, child))
    return found


def _rank(level: list[tuple[float, Association]], ranks: _Ranks, tied: bool) -> None:
    """Rank one level; `tied` if the first of it ties with the last user ranked."""
    by_standing: dict[float, list[Association]] = {}
    for standing, child in level:
        by_standing.setdefault(standing, []).append(child)
    for standing in sorted(by_standing, reverse=True):
        here = by_standing[standing]
        for child in here:
            if child.is_user:
                if not tied:
                    ranks.last = ranks.next
                ranks.of[child.name] = ranks.last
                ranks.next -= 1
                tied = True
        merged = [pair for child in here if not child.is_user for pair in _standings(child)]
        if merged:
            _rank(merged, ranks, tied)
        tied = False


def age_ratio(waited_us: int, full_us: int) -> float:
    """Return how far a wait has grown, from 0 to 1, which it is after `full_us` (above 0)."""
    return min(1.0, waited_us / full_us)
