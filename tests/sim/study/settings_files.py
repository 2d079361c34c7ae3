"""Small settings files of studies and plans over a jobs file."""

from __future__ import annotations

from pathlib import Path

from sim.study.plan import Plan
from sim.study.study import Study


def study_of(folder: Path, *, jobs: str, top: str = "nodes = [1]", **workload: object) -> Study:
    """Return a study of one workload and one arm; `workload` has more words of it."""
    path = folder / "study.toml"
    more = "".join(f"{name} = {_toml(value)}\n" for name, value in workload.items())
    path.write_text(
        f'control_plane = "ideal"\n{top}\n[[workload]]\nname = "mine"\njobs = "{jobs}"\n{more}'
        '[[arm]]\nname = "fifo"\n'
    )
    return Study.load(path)


def plan_of(folder: Path, *, jobs: str, low: int, high: int, metric: str, at_most: float) -> Plan:
    """Return a plan that varies nodes for one target."""
    path = folder / "plan.toml"
    path.write_text(
        f'control_plane = "ideal"\n[workload]\nname = "mine"\njobs = "{jobs}"\n'
        f'[arm]\nname = "fifo"\n[vary]\nwhat = "nodes"\nlow = {low}\nhigh = {high}\n'
        f'[[target]]\nmetric = "{metric}"\nat_most = {at_most}\n'
    )
    return Plan.load(path)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {_toml(one)}' for name, one in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
