"""The settings of `muster plan`: what varies, which targets must hold, and for which jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from sim.report.wording import counted, exact, number
from sim.schema.cluster import MOST_NODES, Cluster
from sim.study import settings, sizes
from sim.study.settings import Arm, Environment, WorkloadSettings
from sim.study.sizes import Size
from sim.study.targets import Target


class Vary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the search changes, and between which values."""

    what: Literal["nodes", "load", "cluster"]
    low: float = 0.0
    high: float = 0.0
    step: float = 1.0

    def values(self) -> list[float]:
        """Return all values, rising; cluster files are numbered by `Plan.sizes`."""
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
            cluster=tuple(settings.beside(one, file) for one in plan.cluster),
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
        if self.cluster and self.nodes:
            raise ValueError(f"{where}: nodes and cluster both say the cluster; give one of them")
        if vary.what == "cluster":
            if not self.cluster:
                raise ValueError(f"{where}.what is cluster; give cluster, a list of cluster files")
            if vary != Vary(what="cluster"):
                raise ValueError(f"{where}: cluster files are the values; take low, high, step out")
            settings.check_unique([size.name for size in self.clusters()], "cluster", where)
            return
        if self.cluster and (vary.what == "nodes" or len(self.cluster) > 1):
            raise ValueError(
                f'{where}.what is {vary.what} and cluster is given; say what = "cluster" to '
                "find the smallest of these files, or give nodes"
            )
        needs_nodes = not self.cluster and (vary.what == "load" or not self.workload.jobs)
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
        if (vary.high - vary.low) / vary.step >= MOST_NODES:
            raise ValueError(
                f"{where}: from {vary.low:g} to {vary.high:g} in steps of {vary.step:g} are more "
                f"than {MOST_NODES:,} values; give a smaller range or a larger step"
            )
        if vary.what == "nodes":
            self.shape.of(round(vary.high))
        if vary.what == "nodes" and any(
            value != round(value) for value in (vary.low, vary.high, vary.step)
        ):
            raise ValueError(f"{where}: nodes are whole numbers; low, high and step must be too")

    @property
    def replications(self) -> tuple[int, ...]:
        """Seeds that differ: a jobs file is the same for every seed."""
        return self.seeds[:1] if self.workload.jobs else self.seeds

    def clusters(self) -> tuple[Size, ...]:
        """Return the clusters of the files, by rising GPUs, then nodes."""
        found = sizes.of_files(self.cluster)
        return tuple(sorted(found, key=lambda size: (size.num_gpus, size.num_nodes)))

    def reference(self) -> Cluster:
        """Return the cluster that the workload's load refers to."""
        return Cluster.load(self.cluster[0]) if self.cluster else self.shape.of(self.nodes)

    def cluster_at(self, value: float) -> Cluster:
        """Return the cluster at a value of what varies."""
        if self.vary.what == "cluster":
            return self.clusters()[round(value) - 1].cluster
        if self.vary.what == "nodes":
            return self.shape.of(round(value))
        return self.reference()

    def value_name(self, value: float) -> str:
        """Return a value of what varies as text: 464 nodes, a load of 0.8, a100."""
        if self.vary.what == "nodes":
            return counted(value, "node")
        if self.vary.what == "load":
            return f"a load of {number(value)}"
        size = self.clusters()[round(value) - 1]
        return f"{size.name} ({exact(size.num_nodes)} nodes, {exact(size.num_gpus)} GPUs)"

    def sizes(self) -> list[float]:
        """Return the values of what varies, by rising capacity for each job."""
        if self.vary.what == "cluster":
            return [float(at + 1) for at in range(len(self.cluster))]
        values = self.vary.values()
        return values if self.vary.what == "nodes" else values[::-1]
