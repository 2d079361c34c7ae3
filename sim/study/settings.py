"""What study.toml and plan.toml have in common: workloads, arms, and how they are read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import pandas as pd

import traces
from scheduler.core.queues import Queues
from scheduler.policies import catalog
from scheduler.policies.spec import PolicySpec
from sim.runs.reader import OPTIONS, Reader, Reading
from sim.schema import planes, queues
from sim.schema.cluster import COMMAND_LINE, Cluster, NodeShape
from sim.schema.config import (
    Admission,
    Faults,
    RunConfig,
    Timeouts,
    check_admission,
    check_queues,
    with_policy,
)
from traces import windows
from traces.formats.source import check_readable

#: rooms whose source can change a row of a run, with all that lies below them
DECIDING = (
    "scheduler/core",
    "scheduler/policies",
    "sim/schema",
    "sim/engines",
    "sim/runs",
    "traces",
)

_NAME = re.compile(r"[^\W_][\w.-]*")

Settings = TypeVar("Settings", bound=msgspec.Struct)


class WorkloadSettings(Reader, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where jobs come from: exactly one of `profile`, `superpose` and `jobs`.

    The fields of a `Reader` say how to read a jobs file.
    """

    name: str
    profile: str = ""  #: calibrated generator, such as "openai_like"
    superpose: str = ""  #: real jobs copied up to the size of the cluster: "philly"
    jobs: str = ""  #: a jobs table, taken as it is
    load: float | None = None  #: offered GPU-seconds / capacity x time
    days: float | None = None  #: time over which jobs are submitted
    #: the run begins so late in the workload: what would run then is there from the first hour on
    carry_in_days: float = 0.0
    tail_scale: float = 1.0  #: how the largest gangs grow with the cluster, 0 to 1

    def absolute(self) -> Self:
        """Return the same for processes that work in another folder."""
        return msgspec.structs.replace(self, jobs=_absolute(self.jobs))

    @property
    def reader(self) -> Reader:
        """How the jobs file is to be read."""
        return Reader(**{name: getattr(self, name) for name in OPTIONS})

    def check(self, place: str) -> None:
        """Raise ValueError if the workload makes no sense; `place` is the file it stands in."""
        what = f"workload {self.name!r} in {place}"
        check_name(self.name, what)
        given = [key for key in ("profile", "superpose", "jobs") if getattr(self, key)]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"{what}: give one of profile, superpose and jobs; it has {found}")
        if self.superpose not in ("", "philly"):
            raise ValueError(f"{what}: superpose is {self.superpose!r}; only 'philly' is known")
        if self.jobs:
            try:
                check_readable(self.jobs)
            except ValueError as error:
                if place == COMMAND_LINE:
                    raise
                raise ValueError(f"{what}: {error}") from None
            if self.load is not None:
                raise ValueError(f"{what}: a jobs file has its own load; remove load")
        elif said := list(self.reader.given()):
            raise ValueError(f"{what}: {said[0]} is for a jobs file; remove it")
        for key in ("load", "days"):
            value = getattr(self, key)
            if value is None and not self.jobs:
                raise ValueError(f"{what}: {key} is missing; {given[0]} needs it")
            if value is not None and not 0 < value < 10_000:
                raise ValueError(f"{what}: {key} is {value}; give a number above 0")
        if not 0 <= self.carry_in_days < 10_000:
            raise ValueError(f"{what}: carry_in_days is {self.carry_in_days}; give 0 or more")
        if not 0 <= self.tail_scale <= 1:
            raise ValueError(f"{what}: tail_scale is {self.tail_scale}; give 0 to 1")

    def sha256(self, cluster: Cluster, seed: int) -> str:
        """Return what identifies the jobs of this workload for a cluster and a seed."""
        if self.jobs:
            return digest(
                {
                    "file": file_sha256(self.jobs),
                    "reader": self.reader.given(),
                    "node_gpus": cluster.node_gpus,
                    "days": (self.days, self.carry_in_days),
                    "code": code_sha256(),
                }
            )
        return digest(
            {
                **msgspec.to_builtins(self),
                "name": "",
                "num_gpus": cluster.num_gpus,
                "seed": seed,
                "code": code_sha256(),
            }
        )

    def make(self, cluster: Cluster, seed: int, *, progress: bool = False) -> Made:
        """Return the jobs for a cluster; with `progress` reading a file is shown on stderr.

        Raises:
            ValueError: the jobs file is wrong, or the profile is unknown.
        """
        if self.jobs:
            loaded = self.reader.read(self.jobs, cluster.node_gpus, progress=progress)
            jobs, reading, rejected = loaded.jobs, Reading.of(loaded), loaded.rejected
            if self.days is not None:
                jobs = windows.before(jobs, self.carry_in_days + self.days)
        else:
            jobs, reading, rejected = self._generated(cluster, seed), None, pd.DataFrame()
        if self.carry_in_days:
            jobs = windows.carried_in(jobs, self.carry_in_days)
        return Made(jobs, reading, rejected)

    def _generated(self, cluster: Cluster, seed: int) -> pd.DataFrame:
        """Return jobs from the beginning of the workload."""
        num_gpus = cluster.num_gpus
        if not num_gpus:
            raise ValueError(
                f"workload {self.name!r}: its load is of GPUs, and the cluster has none; "
                "give jobs, a jobs file"
            )
        assert self.days is not None
        assert self.load is not None
        days = self.carry_in_days + self.days
        if self.profile:
            from traces import synthetic

            return synthetic.generate(
                self.profile,
                num_gpus=num_gpus,
                days=days,
                load=self.load,
                seed=seed,
                tail_scale=self.tail_scale,
            )
        from traces import philly

        return philly.superpose(num_gpus=num_gpus, days=days, load=self.load, seed=seed)


@dataclass(frozen=True, slots=True)
class Made:
    """The jobs of a workload for one cluster and seed."""

    jobs: pd.DataFrame
    reading: Reading | None  #: how they were read, if they are those of a file
    rejected: pd.DataFrame  #: rows of the file that were left out


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way of scheduling."""

    name: str
    admission: Admission = "gang"
    policy: PolicySpec = PolicySpec()  #: in a file its words stand in the arm itself
    queues: Queues | None = None  #: in a file the path of a queues file
    queues_file: str = ""  #: its name; not in a file

    def check(self, place: str) -> None:
        """Raise ValueError if the arm makes no sense; `place` is the file it stands in."""
        what = f"arm {self.name!r} in {place}"
        check_name(self.name, what)
        try:
            check_admission(self.admission, self.policy)
            if self.queues is not None:
                check_queues(self.admission, self.policy)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None

    def config(
        self, environment: Environment, *, seed: int, until_s: float | None = None
    ) -> RunConfig:
        """Return the settings of a run of this arm."""
        return RunConfig(
            admission=self.admission,
            policy=self.policy,
            queues=self.queues,
            queues_file=self.queues_file,
            control_plane=planes.load(environment.control_plane),
            timeouts=environment.timeouts,
            faults=environment.faults,
            seed=seed,
            until_s=until_s,
            label=self.name,
        )


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all runs of a study or plan share beside workload and arm."""

    title: str = ""
    control_plane: str = "kubernetes"  #: a name in sim/control_planes or a TOML file
    gpus_per_node: int | None = None  #: 8; 0 for nodes without GPUs
    cpu_per_node: float | None = None  #: no limit
    mem_gib_per_node: float | None = None  #: no limit
    cluster: tuple[str, ...] = ()  #: cluster files, instead of a number of nodes
    timeouts: Timeouts = Timeouts()
    faults: Faults = Faults()

    def check(self, place: str) -> None:
        """Raise ValueError if something makes no sense; `place` is the file it stands in."""
        if self.cluster and (said := self.shape.given()):
            raise ValueError(f"{place}: {said[0]} goes with nodes; a cluster file has its own")
        planes.load(self.control_plane)

    def absolute(self) -> Self:
        """Return the same for processes that work in another folder."""
        plane = self.control_plane
        return msgspec.structs.replace(
            self,
            control_plane=plane if plane in planes.names() else _absolute(plane),
            cluster=tuple(map(_absolute, self.cluster)),
        )

    @property
    def shape(self) -> NodeShape:
        """What each node has where no cluster file says it."""
        return NodeShape(self.gpus_per_node, self.cpu_per_node, self.mem_gib_per_node)


def read_settings(path: str | Path, kind: type[Settings], *, what: str) -> Settings:
    """Decode a settings file; `what` names it in errors, such as "study settings".

    Raises:
        ValueError: the file is missing, is not TOML, or has unknown or wrong fields.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{what} {str(path)!r}: {error.strerror}") from None
    try:
        fields = msgspec.toml.decode(content)
        with_arms = {**fields, **_read_arms(fields, Path(path))}
        return msgspec.convert(with_arms, kind)
    except _ArmError as error:
        raise ValueError(f"{what} {str(path)!r}: {error}") from None
    except (ValueError, RecursionError) as error:
        known = ", ".join(kind.__struct_encode_fields__)
        raise ValueError(
            f"{what} {str(path)!r}: {error}; fields at the top: {known} (docs/study.md)"
        ) from None


class _ArmError(ValueError):
    """A word of an arm is wrong; it says so itself, and fields at the top are no help."""


def _read_arms(fields: dict[str, Any], settings_file: Path) -> dict[str, Any]:
    match fields.get("arm"):
        case dict(arm):
            return {"arm": _read_arm(arm, settings_file)}
        case list(arms):
            read = [_read_arm(arm, settings_file) if isinstance(arm, dict) else arm for arm in arms]
            return {"arm": read}
    return {}


def _read_arm(fields: dict[str, Any], settings_file: Path) -> dict[str, Any]:
    try:
        if "queues_file" in fields:
            raise ValueError("queues_file is unknown; give queues = 'FILE'")
        known = ["name", "admission", "queues", *catalog.KEYS]
        for word in fields:
            if word not in known:
                near = get_close_matches(word, known, 1)
                hint = f"did you mean {near[0]}? Else " if near else ""
                raise ValueError(f"{word} is unknown; {hint}choose one of {', '.join(known)}")
        if (path := fields.get("queues")) is not None:
            if not isinstance(path, str) or not path:
                raise ValueError(f"queues is {path!r}; give the path of a queues file, as text")
            found = queues.load(beside(path, settings_file))
            fields = {**fields, "queues": found, "queues_file": Path(path).name}
        return with_policy(fields)
    except ValueError as error:
        raise _ArmError(f"arm {fields.get('name', '')!r}: {error}") from None


def beside(path: str, settings_file: Path) -> str:
    """Return a path that a settings file gives relative to itself."""
    return str(settings_file.parent / path) if path else path


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if path else path


def plane_beside(name: str, settings_file: Path) -> str:
    """Return a control plane's name, or its file relative to the settings file."""
    return name if name in planes.names() else beside(name, settings_file)


def check_name(name: str, what: str) -> None:
    """Raise ValueError unless `name` can be part of a file name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what}: use letters, digits, '-', '_' and '.' in a name")


def check_unique(names: Collection[str], what: str, place: str) -> None:
    """Raise ValueError if there is no name, or one of them twice."""
    if not names:
        raise ValueError(f"{place}: {what} is empty; give at least one")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{place}: {what} {name!r} occurs twice; give each its own name")
        seen.add(name)


def digest(settings: object) -> str:
    """Return the SHA-256 of settings, equal for equal values whatever their order."""
    return hashlib.sha256(msgspec.json.encode(settings, order="sorted")).hexdigest()


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file."""
    place = Path(path).resolve()
    state = place.stat()
    return _file_sha256(place, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _file_sha256(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_sha256() -> str:
    """Return the SHA-256 of the source that results depend on."""
    return source_sha256(Path(traces.__file__).parents[1])


def source_sha256(root: Path) -> str:
    """Return the SHA-256 of the source folders below `root` that results depend on.

    Raises:
        ValueError: a folder is missing, so the hash would cover too little.
    """
    found = hashlib.sha256()
    for room in DECIDING:
        files = sorted(
            file
            for file in (root / room).rglob("*")
            if file.is_file() and file.suffix in (".py", ".toml", ".csv", ".parquet")
        )
        if not files:
            raise ValueError(f"{root / room} has no source to take the hash of")
        for file in files:
            found.update(f"{file.relative_to(root).as_posix()}\n".encode())
            found.update(file.read_bytes())
    return found.hexdigest()
