"""Costs of a training job: start, checkpoints, stop, and restart after an interruption.

`costs.toml` holds distributions, as `muster calibrate` measures them or a person writes them down;
`[[interrupt]]` tables say when each job is interrupted. numpy is imported where needed, because
every command knows these settings and few of them draw from them.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import msgspec

from scheduler import whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Settings = TypeVar("Settings", bound=msgspec.Struct)

#: first key of the random streams of costs; the others are job and attempt
STREAM = 11


class Quantity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A distribution in seconds by its quantiles; between them it is taken as even.

    Only `p50` is needed: quantiles that are not given are those of the nearest given one.
    """

    p50: float = 0.0
    min: float | None = None
    p10: float | None = None
    p90: float | None = None
    p99: float | None = None
    max: float | None = None
    mean: float | None = None  #: of the samples, for people and for long sums
    num_samples: int = 0
    how: str = ""  #: how it was measured

    #: where the quantiles stand; `min` and `max` stand for the ends
    AT: ClassVar[tuple[float, ...]] = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)

    def knots(self) -> tuple[float, ...]:
        """Return the values at `AT`."""
        p10 = self.p50 if self.p10 is None else self.p10
        p90 = self.p50 if self.p90 is None else self.p90
        p99 = p90 if self.p99 is None else self.p99
        low = p10 if self.min is None else self.min
        return (low, p10, self.p50, p90, p99, p99 if self.max is None else self.max)

    def at(self, ratio: float) -> float:
        """Return the value at a ratio from 0 to 1."""
        import numpy as np

        return float(np.interp(ratio, self.AT, self.knots()))

    def draw(self, random: np.random.Generator, size: int) -> NDArray[np.float64]:
        """Draw values by inversion: one random number per value, whatever the distribution."""
        import numpy as np

        found: NDArray[np.float64] = np.interp(random.random(size), self.AT, self.knots())
        return found

    @property
    def mean_s(self) -> float:
        """The mean of the samples; where there are none, of what `draw` returns."""
        if self.mean is not None:
            return self.mean
        import numpy as np

        values, at = np.array(self.knots()), np.array(self.AT)
        return float(np.sum(np.diff(at) * (values[1:] + values[:-1]) / 2.0))

    @classmethod
    def of(cls, samples: Collection[float], how: str) -> Quantity:
        """Return the quantiles of samples, rounded to a tenth of a millisecond."""
        import numpy as np

        values = np.array(list(samples), np.float64)
        if not len(values):
            return cls(how=how)
        low, p10, p50, p90, p99, high = (round(float(q), 4) for q in np.quantile(values, cls.AT))
        mean = round(float(values.mean()), 4)
        return cls(p50, low, p10, p90, p99, high, mean, len(values), how)

    def check(self, name: str, place: str) -> None:
        """Raise ValueError if the values cannot be."""
        knots = self.knots()
        if not all(isfinite(value) and value >= 0 for value in knots):
            raise ValueError(f"{place}: {name} has quantiles {knots}; give 0 or more")
        if list(knots) != sorted(knots):
            raise ValueError(
                f"{place}: {name} has quantiles {knots} (min, p10, p50, p90, p99, max); "
                "each must be at least the one before"
            )


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What interrupts a job's steps, and for how long; docs/costs.md tells how each is measured.

    What was not measured takes no time.
    """

    measured: str = ""  #: from what
    #: work between two checkpoints; 0 makes none
    save_interval_s: float = 0.0
    step_s: Quantity = Quantity()
    startup_s: Quantity = Quantity()
    restore_s: Quantity = Quantity()
    first_step_extra_s: Quantity = Quantity()
    save_stall_s: Quantity = Quantity()
    save_commit_s: Quantity = Quantity()
    final_save_s: Quantity = Quantity()
    shutdown_s: Quantity = Quantity()
    stop_s: Quantity = Quantity()
    detect_s: Quantity = Quantity()
    recreate_s: Quantity = Quantity()

    def quantities(self) -> dict[str, Quantity]:
        """Return the distributions by name."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in fields.items() if isinstance(value, Quantity)}

    def check(self, place: str) -> None:
        """Raise ValueError if a value cannot be; `place` is the file it stands in."""
        if not (isfinite(self.save_interval_s) and self.save_interval_s >= 0):
            raise ValueError(f"{place}: save_interval_s is {self.save_interval_s}; give 0 or more")
        for name, quantity in self.quantities().items():
            quantity.check(name, place)


class Kind(StrEnum):
    """How a job is interrupted."""

    KILL = "kill"  #: a rank dies; work since the last committed checkpoint is lost
    PREEMPT = "preempt"  #: told to stop: saves first, and loses nothing


class Interrupt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Interrupt a job once: when it first reaches a step, or at a time of the run."""

    job: str
    kind: Kind
    at_step: int | None = None
    at_s: float | None = None

    def check(self, place: str) -> None:
        """Raise ValueError unless it says when, in one way."""
        what = f"{place}: interrupt of job {self.job!r}"
        if (self.at_step is None) == (self.at_s is None):
            raise ValueError(f"{what}: give at_step or at_s, not both")
        when = self.at_s if self.at_step is None else float(self.at_step)
        if when is None or not (isfinite(when) and when > 0):
            raise ValueError(f"{what}: it comes at {when}; give more than 0")


class _Interrupts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    interrupt: tuple[Interrupt, ...]


def load(path: str | Path) -> Costs:
    """Read costs.toml.

    Raises:
        ValueError: the file is missing or invalid.
    """
    costs = _read(path, Costs, "costs")
    costs.check(f"costs {str(path)!r}")
    return costs


def load_interrupts(path: str | Path) -> tuple[Interrupt, ...]:
    """Read a file of `[[interrupt]]` tables.

    Raises:
        ValueError: the file is missing or invalid.
    """
    found = _read(path, _Interrupts, "interrupts").interrupt
    for one in found:
        one.check(f"interrupts {str(path)!r}")
    return found


def _read(path: str | Path, kind: type[Settings], what: str) -> Settings:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{what} {str(path)!r}: {error.strerror}") from None
    try:
        return msgspec.toml.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        known = ", ".join(kind.__struct_fields__)
        raise ValueError(
            f"{what} {str(path)!r}: {error}; fields: {known} (docs/costs.md)"
        ) from None


def write(costs: Costs, path: str | Path) -> None:
    """Write costs.toml; quantities without samples are left out."""
    fields: dict[str, object] = {
        "measured": costs.measured,
        "save_interval_s": costs.save_interval_s,
    }
    for name, quantity in costs.quantities().items():
        if quantity.num_samples or quantity.p50:
            fields[name] = msgspec.to_builtins(quantity)
    whole.write_bytes(path, msgspec.toml.encode(fields))
