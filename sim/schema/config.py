"""Settings of one run, as in `config.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from scheduler.core.queues import Queues
from scheduler.policies import catalog
from scheduler.policies.spec import PolicySpec
from sim.schema.costs import Costs, Interrupt

Admission = Literal["gang", "pod", "permit"]


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
    """The timeouts that end a half-placed gang in pod and permit mode."""

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
    policy: PolicySpec = PolicySpec()
    queues: Queues | None = None  #: with quota; None is one queue without
    queues_file: str = ""  #: the file's name, for people; empty where queues came as words
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

    @property
    def num_queues(self) -> int:
        """How many queues its queues file has; 0 without one."""
        return 0 if self.queues is None else len(self.queues.queues)


#: what may be said of a run, the policy's words one by one
SETTINGS = (*RunConfig.__struct_fields__, *catalog.KEYS)


def with_policy(settings: Mapping[str, Any], base: PolicySpec | None = None) -> dict[str, Any]:
    """Return settings with one policy in place of its separate fields.

    Words that are not among them are those of `policy`, if that is, or of `base`.

    Raises:
        ValueError: see `catalog.read`.
    """
    words = {name: settings[name] for name in catalog.KEYS if name in settings}
    rest = {name: value for name, value in settings.items() if name not in words}
    base = rest.pop("policy", base)
    if not isinstance(base, PolicySpec | None):
        raise ValueError(f"policy is {base!r}; give {', '.join(catalog.KEYS)} one by one")
    return {**rest, "policy": catalog.read(words, base)}


def recorded(fields: Mapping[str, Any]) -> RunConfig:
    """Return the settings of a run folder; earlier versions kept the policy's words among them."""
    rest = {name: value for name, value in fields.items() if name not in catalog.KEYS}
    words = rest.pop("policy", None)
    if words is None:
        words = {name: fields[name] for name in catalog.KEYS if name in fields}
    return msgspec.convert({**rest, "policy": catalog.recorded(words)}, RunConfig)


def check_queues(admission: Admission, policy: PolicySpec) -> None:
    """Raise ValueError if queues have no say there, or a word of the policy contradicts them."""
    if admission != "gang":
        raise ValueError(
            f"queues need admission gang, not {admission}: pods that are placed one by one "
            "have no quota; leave out the queues, or admission"
        )
    if policy.discipline != PolicySpec().discipline:
        raise ValueError(
            f"discipline {policy.discipline!r} is for one queue, and with queues each has "
            "its own; set discipline in the queues file, and leave it out here"
        )


def check_admission(admission: Admission, policy: PolicySpec) -> None:
    """Raise ValueError if an order or a discipline is chosen for pods that queue one by one."""
    if admission == "gang":
        return
    for name in ("order", "discipline"):
        word = getattr(policy, name)
        if word != getattr(PolicySpec(), name):
            raise ValueError(
                f"{name} {word!r} needs admission gang; with admission {admission} pods queue by "
                f"priority and time, as in kube-scheduler: leave out {name}, or admission"
            )
