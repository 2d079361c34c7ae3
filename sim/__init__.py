"""Discrete-event simulation of gangs on GPU clusters, around the scheduler's own policy core.

Names are imported on first use: importing pandas takes longer than most commands.
"""

import importlib

import scheduler  # noqa: F401  (before any engine, so that engines run compiled where they can)

TYPE_CHECKING = False  # as type checkers read it; typing is half of what is imported here
if TYPE_CHECKING:
    from scheduler.policies.spec import PolicySpec
    from sim.runs.experiment import run
    from sim.runs.folder import RunResult
    from sim.schema.cluster import Cluster
    from sim.schema.config import ControlPlane, Faults, RunConfig, Timeouts

__all__ = [
    "Cluster", "ControlPlane", "Faults", "PolicySpec", "RunConfig", "RunResult", "Timeouts", "run",
]  # fmt: skip

_HOMES = {
    "Cluster": "sim.schema.cluster",
    "ControlPlane": "sim.schema.config",
    "Faults": "sim.schema.config",
    "PolicySpec": "scheduler.policies.spec",
    "RunConfig": "sim.schema.config",
    "RunResult": "sim.runs.folder",
    "Timeouts": "sim.schema.config",
    "run": "sim.runs.experiment",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
