"""Discrete-event simulation of gangs on GPU clusters, around the scheduler's own policy core."""

from sim.runs.experiment import run
from sim.runs.folder import RunResult
from sim.schema.cluster import Cluster
from sim.schema.config import ControlPlane, Faults, RunConfig, Timeouts

__all__ = ["Cluster", "ControlPlane", "Faults", "RunConfig", "RunResult", "Timeouts", "run"]
