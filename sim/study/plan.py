"""The settings of `muster plan`: what may vary, which targets must hold, for which jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from sim.study import settings
from sim.study.settings import Arm, Environment, WorkloadSettings
from sim.study.targets import Target


class Vary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the search changes, and between which values."""

    what: Literal["nodes", "load"]
    low: float
    high: float
    step: float = 1.0

    def values(self) -> list[float]:
        """Return all values, rising."""
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        found = [self.low + index * self.step for index in range(count)]
        return [float(round(value)) for value in found] if self.what == "nodes" else found


class Plan(Environment, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of plan.toml."""

    workload: WorkloadSettings
    arm: Arm
    vary: Vary
    target: tuple[Target, ...]
    #: the cluster; where nodes vary, the one that the workload's load refers to
    nodes: int = 0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    warmup_days: float = 0.0  #: not measured: the cluster begins empty

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read and check plan.toml; paths in it are relative to it.

        Raises:
            ValueError: something in the file makes no sense; the text says what.
        """
        plan = settings.read_settings(path, cls, what="plan settings")
        file = Path(path)
        plan = msgspec.structs.replace(
            plan,
            control_plane=settings.plane_beside(plan.control_plane, file),
            workload=msgspec.structs.replace(
                plan.workload, jobs=settings.beside(plan.workload.jobs, file)
            ),
        )
        plan.check(str(path))
        return plan

    def check(self, place: str) -> None:
        """Raise ValueError if something makes no sense; `place` is the file it stands in."""
        Environment.check(self, place)
        self.workload.check(place)
        self.arm.check(place)
        settings.check_unique([str(seed) for seed in self.seeds], "seeds", place)
        if min(self.seeds) < 0:
            raise ValueError(f"{place}: seeds has {min(self.seeds)}; give 0 or more")
        if not self.target:
            raise ValueError(f"{place}: there is no [[target]]; give at least one")
        for target in self.target:
            target.check(place)
        if not 0 <= self.warmup_days < (self.workload.days or np.inf):
            raise ValueError(
                f"{place}: warmup_days is {self.warmup_days}; give 0 or more, and less than the "
                f"workload's days ({self.workload.days})"
            )
        self._check_vary(f"{place}: vary")

    def _check_vary(self, where: str) -> None:
        vary = self.vary
        needs_nodes = vary.what == "load" or not self.workload.jobs
        if needs_nodes and self.nodes < 1:
            raise ValueError(
                f"{where}: nodes is {self.nodes}; give the size of the cluster that the workload's "
                "load refers to"
            )
        if vary.what == "load" and self.workload.jobs:
            raise ValueError(f"{where}.what is load, which a jobs file cannot change; vary nodes")
        if not 0 < vary.low < vary.high < np.inf:
            raise ValueError(f"{where}: low {vary.low} and high {vary.high}; give 0 < low < high")
        if not 0 < vary.step <= vary.high - vary.low:
            raise ValueError(
                f"{where}: step is {vary.step}; give more than 0 and at most high - low"
            )
        if vary.what == "nodes" and any(
            value != round(value) for value in (vary.low, vary.high, vary.step)
        ):
            raise ValueError(f"{where}: nodes are whole numbers; low, high and step must be too")

    @property
    def replications(self) -> tuple[int, ...]:
        """Seeds that differ: a jobs file is the same for every seed."""
        return self.seeds[:1] if self.workload.jobs else self.seeds

    def sizes(self) -> list[float]:
        """Return the values of what varies, by rising capacity for each job."""
        values = self.vary.values()
        return values if self.vary.what == "nodes" else values[::-1]
