"""A study or plan of one jobs file, set up by flags: what is not said takes a default."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scheduler import whole
from scheduler.policies import catalog
from sim.report.wording import counted, exact, listed
from sim.runs.reader import Reader
from sim.schema.cluster import COMMAND_LINE, NodeShape
from sim.study import kept
from sim.study.plan import Plan, Vary
from sim.study.settings import Arm
from sim.study.study import Study, StudyWorkload
from sim.study.targets import Target

ARMS = {
    one.name: one
    for one in (
        Arm(name="gang-fifo"),
        Arm(name="gang-easy", policy=catalog.read({"discipline": "easy"})),
        Arm(name="pod", admission="pod"),
        Arm(name="permit", admission="permit"),
    )
}
#: arms that differ from the others only where jobs have several pods
OF_GANGS = ("pod", "permit")
#: what a plan must meet where no target is given
TARGETS = (Target(metric="queueing_delay_p95_s", at_most=1800.0),)
#: first line of settings that a study wrote
MARK = "# Written by muster study --jobs; change it and run: muster study --settings FILE\n"
#: bytes of a workload's name: files of a study have it and more in theirs
LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Given:
    """What flags say of a jobs file and of the cluster that it meets."""

    jobs: Path
    reader: Reader
    nodes: tuple[int, ...]  #: of a study; a plan searches them
    shape: NodeShape
    cluster: tuple[str, ...]  #: cluster files, instead of nodes
    days: float | None
    control_plane: str

    @property
    def name(self) -> str:
        """Name of the workload: that of its file, with letters and digits of any script."""
        stem = re.sub(r"[^\w-]+", "-", self.jobs.name.partition(".")[0])
        return stem.encode()[:LONGEST_NAME].decode("utf-8", "ignore").strip("-_") or "jobs"

    def environment(self) -> dict[str, Any]:
        """Return what study and plan have in common."""
        return {
            "control_plane": self.control_plane,
            "cluster": self.cluster,
            **self.shape._asdict(),
        }

    def workload(self) -> StudyWorkload:
        """Return the jobs as the workload of a study."""
        return StudyWorkload(
            name=self.name, jobs=str(self.jobs), days=self.days, **self.reader.given()
        )


def study(given: Given, arms: Sequence[str], out: Path) -> Study:
    """Return a study of one workload; without `arms` of all that make a difference.

    Raises:
        ValueError: the file cannot be read, or something makes no sense.
    """
    chosen = Study(
        nodes=given.nodes,
        workload=(given.workload(),),
        arm=tuple(arm_of(name) for name in arms or ARMS),
        title=f"{given.jobs.name} on {_sizes_text(given)}",
        **given.environment(),
    )
    chosen.check(COMMAND_LINE)
    if arms:
        return chosen
    cluster = chosen.sizes()[0].cluster
    jobs = kept.jobs_of(chosen.workload[0], cluster, chosen.seeds[0], out, progress=True)
    if int(jobs["num_pods"].max()) > 1:
        return chosen
    alike = tuple(one for one in chosen.arm if one.name not in OF_GANGS)
    return msgspec.structs.replace(chosen, arm=alike)


def _sizes_text(given: Given) -> str:
    if given.cluster:
        return ", ".join(Path(one).name for one in given.cluster)
    gpus = 8 if given.shape.gpus_per_node is None else given.shape.gpus_per_node
    sizes = listed([exact(n) for n in given.nodes])
    noun = "node" if list(given.nodes) == [1] else "nodes"
    return f"{sizes} {noun} of {counted(gpus, 'GPU')}"


def arm_of(name: str) -> Arm:
    """Return an arm by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ARMS:
        raise ValueError(
            f"arm {name!r} is unknown; choose among {', '.join(ARMS)}, or describe it in "
            "study.toml (docs/study.md)"
        )
    return ARMS[name]


def plan(
    given: Given, arm: str, targets: Sequence[Target], bounds: tuple[int, int] | None, out: Path
) -> Plan:
    """Return a plan that varies the nodes, or chooses among cluster files.

    Without `bounds` the search goes from the nodes that the largest job needs to those on which,
    by its GPUs, CPUs and memory, nobody would have to wait.

    Raises:
        ValueError: the file cannot be read, or some job fits on no node.
    """
    vary = Vary(what="cluster") if given.cluster else Vary(what="nodes", low=1, high=2)
    if bounds is not None:
        vary = Vary(what="nodes", low=bounds[0], high=bounds[1])
    workload = given.workload()
    chosen = Plan(
        workload=workload,
        arm=arm_of(arm),
        target=tuple(targets) or TARGETS,
        vary=vary,
        **given.environment(),
    )
    chosen.check(COMMAND_LINE)
    if given.cluster or bounds is not None:
        return chosen
    jobs = kept.jobs_of(workload, given.shape.of(1), chosen.seeds[0], out, progress=True)
    low, high = node_range(jobs, given.shape)
    given.shape.of(high)
    return msgspec.structs.replace(chosen, vary=Vary(what="nodes", low=low, high=high))


def node_range(jobs: pd.DataFrame, shape: NodeShape) -> tuple[int, int]:
    """Return how many nodes the largest job needs, and on how many hardly anybody would wait.

    Raises:
        ValueError: some job fits on no such node.
    """
    per_node = _pods_per_node(jobs, shape)
    never = jobs.loc[per_node < 1, "job"]
    if len(never):
        raise ValueError(
            f"{len(never):,} of {len(jobs):,} jobs (such as {never.iloc[0]!r}) ask for more per "
            "pod than a node has; give larger nodes (--gpus-per-node, --cpu-per-node, "
            "--mem-gib-per-node) or leave these jobs out"
        )
    nodes = jobs["num_pods"].to_numpy(np.float64) / per_node
    begin_s = jobs["submit_s"].to_numpy(np.float64)
    at_s = np.concatenate((begin_s, begin_s + jobs["duration_s"].to_numpy(np.float64)))
    order = np.lexsort((np.repeat((0, 1), len(jobs)), at_s))
    peak = float(np.concatenate((nodes, -nodes))[order].cumsum().max())
    low = max(int(np.ceil(nodes.max())), 1)
    return low, max(int(np.ceil(1.1 * peak)) + len(np.unique(per_node)), low + 1)


def _pods_per_node(jobs: pd.DataFrame, shape: NodeShape) -> NDArray[np.float64]:
    """Return how many pods of each job fit on an empty node [num_jobs]; inf where no limit is."""
    gpus = 8 if shape.gpus_per_node is None else shape.gpus_per_node
    limits = (
        ("gpus_per_pod", float(gpus)),
        ("cpu_per_pod", shape.cpu_per_node),
        ("mem_gib_per_pod", shape.mem_gib_per_node),
    )
    found = np.full(len(jobs), np.inf)
    for column, has in limits:
        asked = jobs[column].to_numpy(np.float64)
        if has is not None:
            fits = np.divide(has, asked, out=np.full(len(jobs), np.inf), where=asked > 0)
            found = np.minimum(found, np.floor(fits + 1e-9))
    return found


def write_settings(study: Study, out: Path) -> Path | None:
    """Write a study as study.toml into its folder; None where somebody else's file lies there."""
    path = out / "study.toml"
    if path.exists() and not path.read_text("utf-8", "replace").startswith(MARK):
        return None
    workload = study.workload[0]
    beside = {"name": workload.name, "jobs": os.path.relpath(workload.jobs, out)}
    days = {} if workload.days is None else {"days": workload.days}
    files = [os.path.relpath(one, out) for one in study.cluster]
    shape = {name: getattr(study, name) for name in study.shape.given()}
    top = {
        "title": study.title,
        "control_plane": study.control_plane,
        **({"cluster": files} if files else {"nodes": list(study.nodes), **shape}),
    }
    said = msgspec.to_builtins(workload.reader.given())
    names = said.pop("map", {})
    tables = [("[workload]", {**beside, **days, **said})]
    if names:
        tables.append(("workload.map", names))
    for arm in study.arm:
        words = {"admission": arm.admission, "discipline": arm.policy.discipline}
        usual = {"admission": "gang", "discipline": "strict"}
        other = {name: word for name, word in words.items() if word != usual[name]}
        tables.append(("[arm]", {"name": arm.name, **other}))
    parts = [MARK + msgspec.toml.encode(top).decode()]
    parts += [f"[{name}]\n{msgspec.toml.encode(table).decode()}" for name, table in tables]
    whole.write_text(path, "\n".join(parts))
    return path
