"""Discrete-event simulation of gangs on GPU clusters, around the scheduler's own policy core."""

from sim.cluster import Cluster
from sim.config import ControlPlane, Faults, RunConfig, Timeouts
from sim.experiment import RunResult, run

__all__ = ["Cluster", "ControlPlane", "Faults", "RunConfig", "RunResult", "Timeouts", "run"]
