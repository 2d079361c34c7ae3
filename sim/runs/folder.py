"""A run as a folder: its tables, settings, summary and manifest."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scheduler import compiled
from sim.runs import timeline
from sim.schema import tables
from sim.schema.cluster import Cluster
from sim.schema.config import RunConfig, recorded

MANIFEST = "manifest.json"


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

    def save(self, path: str | Path, *, point: Mapping[str, object] | None = None) -> Path:
        """Write the run folder; it appears whole or not at all, and replaces an earlier one.

        Raises:
            ValueError: `path` exists and is not a run folder.
        """
        target = Path(path)
        if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
            raise ValueError(f"{str(target)!r} exists and holds no run; choose another --out")
        part = target.with_name(f"{target.name}.partial")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, schema in tables.schemas(has_goodput=self.config.costs is not None).items():
            write_parquet(getattr(self, name), schema, part / f"{name}.parquet")
        if len(self.rejected):
            self.rejected.to_csv(part / "rejected.csv", index=False)
        settings = {"run": msgspec.to_builtins(self.config), **msgspec.to_builtins(self.cluster)}
        (part / "config.toml").write_bytes(msgspec.toml.encode(_without_none(settings)))
        _write_json(part / "summary.json", self.summary)
        timeline.write(self.attempts, self.jobs, self.pending, part / "timeline.json")
        _write_json(part / MANIFEST, {**self.manifest, **({"point": point} if point else {})})
        if target.exists():
            shutil.rmtree(target)
        os.replace(part, target)
        return target

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a run folder.

        Raises:
            ValueError: `path` is not a finished run.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        settings = msgspec.toml.decode((folder / "config.toml").read_bytes())
        frames = {
            name: pd.read_parquet(folder / f"{name}.parquet")
            for name in ("jobs", "attempts", "pending", "allocation", "nodes")
        }
        rejected = folder / "rejected.csv"
        return cls(
            config=recorded(settings.pop("run")),
            cluster=msgspec.convert(settings, Cluster),
            summary=json.loads((folder / "summary.json").read_text("utf-8")),
            manifest=manifest,
            rejected=pd.read_csv(rejected) if rejected.is_file() else pd.DataFrame(),
            **frames,
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a run's manifest.

    Raises:
        ValueError: `folder` is not a finished run.
    """
    try:
        return dict(json.loads((folder / MANIFEST).read_text("utf-8")))
    except (OSError, ValueError):
        raise ValueError(
            f"{str(folder)!r} is not a finished run: it has no readable {MANIFEST}; "
            "give a folder written by `muster run` or `muster study`"
        ) from None


def read_config(folder: Path) -> RunConfig:
    """Return a run's settings."""
    settings = msgspec.toml.decode((folder / "config.toml").read_bytes())
    return recorded(settings["run"])


def versions() -> dict[str, str]:
    """Return what a run was made with."""
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
    pq.write_table(table, path, compression="zstd", use_dictionary=True)


def _write_json(path: Path, content: object) -> None:
    text = json.dumps(content, indent=1, allow_nan=False, default=_plain)
    path.write_text(text + "\n", "utf-8")


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
