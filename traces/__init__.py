"""Workloads: jobs tables from files, public traces and a calibrated generator."""

from traces.description import describe
from traces.frames import complete
from traces.load import KINDS, LoadedJobs, convert, load
from traces.schema import TraceError

__all__ = ["KINDS", "LoadedJobs", "TraceError", "complete", "convert", "describe", "load"]
