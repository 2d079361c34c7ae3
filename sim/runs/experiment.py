"""One run: jobs, a cluster and settings in; tables out."""

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

import traces
from sim.engines.accounting import check_accounting
from sim.engines.costed import CostedSimulation
from sim.engines.faults import outages
from sim.engines.gangs import GangSimulation, ProgressCallback
from sim.engines.pods import PodSimulation
from sim.engines.records import Records, jobs_table, nodes_table
from sim.engines.workload import Workload
from sim.runs import timeline
from sim.runs.summary import summarize
from sim.schema import costs, planes, tables
from sim.schema.cluster import Cluster
from sim.schema.config import RunConfig

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
            config=msgspec.convert(settings.pop("run"), RunConfig),
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
    return msgspec.convert(settings["run"], RunConfig)


def run(
    jobs: pd.DataFrame | str | Path,
    *,
    nodes: int | None = None,
    gpus_per_node: int = 8,
    cluster: Cluster | str | Path | None = None,
    config: RunConfig | None = None,
    on_bad_row: str = "fail",
    progress: bool | ProgressCallback = False,
    **settings: Any,
) -> RunResult:
    """Simulate `jobs` on a cluster and return every record.

    `settings` are fields of `RunConfig`, such as `order="sjf"` or `backfill="easy"`;
    `control_plane` also takes a name such as "kubernetes" or the path of a TOML file, and `costs`
    and `interrupt` the path of one.

    Raises:
        ValueError: the jobs, the cluster or a setting make no sense; the text says which.
    """
    resolved = resolve(config, settings)
    where = _cluster(nodes, gpus_per_node, cluster)
    rejected = pd.DataFrame()
    source: dict[str, object] = {"input": "DataFrame"}
    if isinstance(jobs, pd.DataFrame):
        table = jobs
    else:
        loaded = traces.load(jobs, on_bad_row=on_bad_row)
        source = {"input": Path(jobs).name, "input_sha256": loaded.sha256}
        table, rejected = loaded.jobs, loaded.rejected
    if table.empty:
        raise ValueError("the jobs table has no rows; a run needs at least one job")
    work = Workload(table, resolved.seed)
    if progress is True:
        from sim.runs.progress import run_progress

        with run_progress(work) as callback:
            records = _simulate(work, where, resolved, callback)
    else:
        records = _simulate(work, where, resolved, progress or None)
    return result_of(records, where, resolved, rejected, source)


def resolve(config: RunConfig | None, settings: dict[str, Any]) -> RunConfig:
    """Return settings, some perhaps as text, over those of `config`.

    Raises:
        ValueError: one is unknown or makes no sense.
    """
    fields = {name: getattr(config, name) for name in RunConfig.__struct_fields__} if config else {}
    plane = settings.get("control_plane")
    if isinstance(plane, str | Path):
        settings = {**settings, "control_plane": planes.load(plane)}
    for name, load in (("costs", costs.load), ("interrupt", costs.load_interrupts)):
        if isinstance(settings.get(name), str | Path):
            settings = {**settings, name: load(settings[name])}
    for name in settings:
        if name not in RunConfig.__struct_fields__:
            known = ", ".join(RunConfig.__struct_fields__)
            raise ValueError(f"setting {name!r} is unknown; choose among {known}")
    try:
        resolved = msgspec.convert(
            msgspec.to_builtins({**fields, **settings}), RunConfig, strict=False
        )
    except msgspec.ValidationError as error:
        raise ValueError(f"settings of the run: {error}") from None
    if resolved.until_s is not None and not resolved.until_s > 0:
        raise ValueError(f"until_s is {resolved.until_s}; give a time after 0, or leave it out")
    if resolved.seed < 0:
        raise ValueError(f"seed is {resolved.seed}; give 0 or more")
    planes.check(resolved.control_plane)
    _check_costs(resolved)
    return resolved


def _check_costs(config: RunConfig) -> None:
    """Raise ValueError if the costs make no sense, or are asked for where they are not known."""
    for one in config.interrupt or ():
        one.check("settings of the run")
    if config.costs is not None:
        config.costs.check("settings of the run")
        if config.admission != "gang":
            raise ValueError(
                f"costs need admission gang, not {config.admission}: what a restart costs where "
                "pods are placed one by one is not modelled; leave out the costs"
            )
    elif config.interrupt:
        raise ValueError("interrupts need costs, to know what they cost; give costs as well")


def _cluster(
    nodes: int | None, gpus_per_node: int, cluster: Cluster | str | Path | None
) -> Cluster:
    if (nodes is None) == (cluster is None):
        raise ValueError("give either a number of nodes or a cluster file, not both or neither")
    if isinstance(cluster, Cluster):
        return cluster
    if cluster is not None:
        return Cluster.load(cluster)
    assert nodes is not None
    return Cluster.uniform(nodes, gpus_per_node)


def _simulate(
    work: Workload, cluster: Cluster, config: RunConfig, progress: ProgressCallback | None
) -> Records:
    nodes = cluster.build()
    faults = outages(config, work, cluster)
    simulation: type[GangSimulation | PodSimulation] = PodSimulation
    if config.admission == "gang":
        simulation = GangSimulation if config.costs is None else CostedSimulation
    return simulation(work, nodes, config, faults, progress).run()


def result_of(
    records: Records,
    cluster: Cluster,
    config: RunConfig,
    rejected: pd.DataFrame,
    source: dict[str, object],
) -> RunResult:
    """Return the tables of a run that has ended."""
    jobs = jobs_table(records)
    pending = records.log.table()
    allocation = records.capacity.table()
    nodes = nodes_table(records)
    attempts = records.attempts.assign(job=jobs["job"].to_numpy()[records.attempts["job"]])
    accounting = check_accounting(
        records.end_s,
        records.pending_pod_s,
        attempts,
        pending,
        allocation,
        nodes,
        cluster.num_gpus,
    )
    summary = summarize(jobs, attempts, pending, allocation, cluster.num_gpus, records.end_s)
    manifest: dict[str, Any] = {
        **source,
        "label": config.label,
        "seed": config.seed,
        "num_jobs": len(jobs),
        "num_nodes": cluster.num_nodes,
        "num_gpus": cluster.num_gpus,
        "end_s": records.end_s,
        "last_submit_s": float(jobs["submit_s"].max()),
        "num_events": records.num_events,
        "num_rejected_rows": len(rejected),
        "accounting": accounting,
        "versions": versions(),
    }
    if config.costs is not None:
        manifest["interrupts_not_met"] = records.interrupts_not_met
    return RunResult(
        config=config,
        cluster=cluster,
        jobs=jobs,
        attempts=attempts,
        pending=pending,
        allocation=allocation,
        nodes=nodes,
        summary=summary,
        manifest=manifest,
        rejected=rejected,
    )


def versions() -> dict[str, str]:
    """Return what a run was made with."""
    found = {"python": platform.python_version()}
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
