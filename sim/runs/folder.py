"""A run as a folder: its tables, settings, summary and manifest."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scheduler import compiled, whole
from sim.runs import owned, timeline
from sim.schema import tables
from sim.schema.cluster import Cluster
from sim.schema.config import RunConfig, recorded
from traces.unpacking import read_parquet

MANIFEST = "manifest.json"
Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
#: columns that runs of earlier versions lack
LATER = re.compile(r"short_.*|unmet|(cpu|mem_gib)_per_pod|pending_(quota|preempting)_s|evicted_for")


class _Gap(msgspec.Struct):
    from_s: float
    to_s: float
    lost: Whole
    why: str


class _Manifest(msgspec.Struct):
    """The fields of a manifest that muster reads."""

    num_nodes: Whole
    num_gpus: Whole
    seed: Whole
    end_s: float
    label: str = ""
    input: str = ""
    input_sha256: str = ""
    is_live: bool = False
    point: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    gaps: list[_Gap] = []
    window_s: tuple[float, float] | None = None
    set_aside: list[str] = []
    num_set_aside: Whole = 0

    def __post_init__(self) -> None:
        if bool(self.num_set_aside) != bool(self.set_aside):
            raise ValueError("num_set_aside and set_aside contradict each other")


@dataclass
class RunResult:
    """A finished run. Tables are described in docs/tables.md."""

    config: RunConfig
    cluster: Cluster
    jobs: pd.DataFrame
    attempts: pd.DataFrame
    pending: pd.DataFrame
    allocation: pd.DataFrame
    nodes: pd.DataFrame
    summary: dict[str, Any]
    manifest: dict[str, Any]
    rejected: pd.DataFrame = field(default_factory=pd.DataFrame)
    queues: pd.DataFrame = field(default_factory=pd.DataFrame)  #: empty where none has quota
    #: the pending table by queue; empty unless there are several
    pending_by_queue: pd.DataFrame = field(default_factory=pd.DataFrame)

    def save(self, path: str | Path, *, point: Mapping[str, object] | None = None) -> Path:
        """Write the run folder; it appears whole or not at all, and replaces an earlier one.

        Raises:
            ValueError: `path` exists and is not a run folder, or something else is in it.
        """
        target = Path(path)
        whole.put_folder(target, _check_replaceable, partial(self.fill, point=point))
        return target

    def fill(self, folder: Path, point: Mapping[str, object] | None = None) -> None:
        """Write the files of a run into an empty folder; the manifest, last, makes it a run."""
        config = self.config
        schemas = tables.schemas(has_goodput=config.costs is not None, num_queues=config.num_queues)
        for name, schema in schemas.items():
            write_parquet(getattr(self, name), schema, folder / f"{name}.parquet")
        if len(self.rejected):
            with whole.replacing(folder / "rejected.csv") as part:
                self.rejected.to_csv(part, index=False)
        settings = {"run": msgspec.to_builtins(self.config), **msgspec.to_builtins(self.cluster)}
        whole.write_bytes(folder / "config.toml", msgspec.toml.encode(_without_none(settings)))
        _write_json(folder / "summary.json", self.summary)
        timeline.write(self.attempts, self.jobs, self.pending, folder / "timeline.json")
        _write_json(folder / MANIFEST, {**self.manifest, **({"point": point} if point else {})})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a run folder.

        Raises:
            ValueError: `path` is not a finished run.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        config, cluster = _read_config(folder)
        names = tables.schemas(has_goodput=False, num_queues=config.num_queues)
        frames = {name: read_table(folder, name) for name in names}
        rejected = folder / "rejected.csv"
        return cls(
            config=config,
            cluster=cluster,
            summary=read_summary(folder),
            manifest=manifest,
            rejected=pd.read_csv(rejected) if rejected.is_file() else pd.DataFrame(),
            **frames,
        )


def read_table(folder: Path, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a table of a run, or some of its columns.

    Raises:
        ValueError: it cannot be read, unpacks to too much, or lacks a column, or numbers in one.
    """
    path = folder / f"{name}.parquet"
    frame = read_parquet(path, None if columns is None else _there(path, columns))
    for one in tables.schemas(has_goodput=False, num_queues=2)[name]:
        if columns is not None and one.name not in columns:
            continue
        if one.name not in frame:
            if not LATER.fullmatch(one.name):
                raise ValueError(f"{str(path)!r} has no column {one.name!r}; run it again")
            if one.name.startswith("pending_"):  # a reason that no pod had when the run was made
                frame[one.name] = 0.0
            elif one.name == "evicted_for":
                frame[one.name] = ""
        elif (
            pa.types.is_integer(one.type) or pa.types.is_floating(one.type)
        ) and not pd.api.types.is_numeric_dtype(frame[one.name]):
            raise ValueError(f"{str(path)!r}: column {one.name!r} is not numeric; run it again")
    return frame


def _there(path: Path, columns: Sequence[str]) -> Sequence[str]:
    """Leave out of `columns` what a run of an earlier version lacks."""
    later = [name for name in columns if LATER.fullmatch(name)]
    if not later:
        return columns
    try:
        names = set(pq.read_schema(path).names)
    except (OSError, ValueError, pa.ArrowException):
        return columns  # who reads it says what is wrong
    return [name for name in columns if name in names or name not in later]


def _check_replaceable(folder: Path) -> None:
    """Raise ValueError unless a folder is empty, or holds a run and nothing else."""
    if any(folder.iterdir()) and not is_run(folder):
        raise ValueError(f"{str(folder)!r} exists and holds no run; choose another --out")
    owned.refuse_strangers(folder, owned.RUN)


def is_run(folder: Path) -> bool:
    """True if muster wrote a run there: others have files of the name manifest.json, too."""
    try:
        made_with = read_manifest(folder).get("versions")
    except ValueError:
        return False
    return isinstance(made_with, dict) and "muster-scheduler" in made_with


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a run's manifest.

    Raises:
        ValueError: `folder` is not a finished run.
    """
    try:
        found = _read_json(folder / MANIFEST)
        msgspec.convert(found, _Manifest)
        return found
    except (ValueError, RecursionError):
        raise ValueError(
            f"{str(folder)!r} is not a finished run: it has no readable {MANIFEST}; "
            "give a folder written by `muster run` or `muster study`"
        ) from None


def read_config(folder: Path) -> RunConfig:
    """Return a run's settings.

    Raises:
        ValueError: they are not the settings of a run.
    """
    return _read_config(folder)[0]


def _read_config(folder: Path) -> tuple[RunConfig, Cluster]:
    path = folder / "config.toml"
    try:
        settings = msgspec.toml.decode(path.read_bytes())
        return recorded(settings.pop("run")), msgspec.convert(settings, Cluster)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} does not have the settings of a run: {error}") from None


def read_summary(folder: Path) -> dict[str, Any]:
    """Return a run's headline figures.

    Raises:
        ValueError: the file cannot be read.
    """
    return _read_json(folder / "summary.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not the JSON of a run: {error}") from None


def versions() -> dict[str, str]:
    """Return the versions that a run was made with."""
    found = {"python": platform.python_version(), "core": compiled.which()}
    for package in ("muster-scheduler", "simpy", "numpy", "pandas", "pyarrow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "source"
    return found


def write_parquet(frame: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    """Write a table of this schema so that equal tables give equal bytes."""
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    table = table.replace_schema_metadata(None)
    with whole.replacing(path) as part:
        pq.write_table(table, part, compression="zstd", use_dictionary=True)


def _write_json(path: Path, content: object) -> None:
    text = json.dumps(content, indent=1, allow_nan=False, default=_plain)
    whole.write_text(path, text + "\n")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be written as JSON")


def _without_none(value: Any) -> Any:
    """Drop None, which TOML lacks; absent settings take their default, which is None."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
