"""Settings of one run, as they stand in `config.toml`."""

from __future__ import annotations

from typing import Literal

import msgspec

from sim.schema.costs import Costs, Interrupt

Order = Literal["fifo", "priority", "sjf", "smallest"]
Discipline = Literal["strict", "skip"]
Backfill = Literal["none", "easy"]
Admission = Literal["gang", "pod", "permit"]
Placement = Literal["pack", "spread", "first-fit"]


class ControlPlane(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast API server, scheduler and kubelets are; docs/simulator.md gives the sources."""

    name: str = "ideal"
    #: pods the scheduler places per second on its own; inf takes no time
    schedule_per_s: float = float("inf")
    #: client limits of the binding component
    bind_qps: float = float("inf")
    bind_burst: int = 1
    #: pods of submitted jobs that controllers create per second, job after job
    create_per_s: float = float("inf")
    #: what is left of schedule_per_s while they do: both need the API server
    creating_ratio: float = 1.0
    #: from a pod's turn at the binder to its binding, on top; others have theirs meanwhile
    bind_lag_s: float = 0.0
    #: cost of one attempt on a pod that fits nowhere
    unschedulable_attempt_s: float = 0.0
    #: first and largest pod backoff
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 10.0
    #: container start with the image on the node, and extra time where it is not
    start_warm_s: float = 0.0
    pull_cold_s: float = 0.0
    #: a node is cold until its first pod ran, and again after an outage
    warm_at_start: bool = True
    #: the pods of an attempt start by up to this much slower, drawn once per attempt
    start_jitter_ratio: float = 0.0


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ends a half-placed gang in pod and permit mode."""

    rendezvous_s: float = 600.0  #: pod mode: first rank waits so long for the last
    permit_s: float = 60.0  #: permit mode: first assumed pod waits so long for quorum
    restart_backoff_s: float = 10.0  #: before a timed-out job tries again, doubling
    restart_backoff_max_s: float = 360.0


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Node failures injected into the run; none by default."""

    source: Literal["none", "calibrated", "stepfun"] = "none"
    per_1000_node_days: float = 4.2
    checkpoint_interval_s: float = 1800.0  #: work since the last checkpoint is run again
    restart_overhead_s: float = 750.0  #: added to each attempt after a fault


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that, with the jobs and the cluster, determines a run."""

    admission: Admission = "gang"
    order: Order = "fifo"
    discipline: Discipline = "strict"
    backfill: Backfill = "none"
    placement: Placement = "pack"
    control_plane: ControlPlane = ControlPlane()
    timeouts: Timeouts = Timeouts()
    faults: Faults = Faults()
    seed: int = 0
    audit: bool = False
    #: stop at this time; jobs still waiting or running are `unfinished`. None runs to the end
    until_s: float | None = None
    label: str = ""  #: name of the run in reports
    #: start-up, checkpoints, stops and restarts; they replace the two numbers of `faults`
    costs: Costs | None = None
    interrupt: tuple[Interrupt, ...] | None = None  #: cuts by script; they need costs
