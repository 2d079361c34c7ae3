"""Named control planes and control planes read from TOML."""

from __future__ import annotations

from math import isnan
from pathlib import Path

import msgspec

from sim.config import ControlPlane

IDEAL = ControlPlane()

#: default client limits and published rates; docs/simulator.md gives source and switch of each
KUBERNETES = ControlPlane(
    name="kubernetes",
    schedule_per_s=300.0,
    bind_qps=50.0,
    bind_burst=100,
    unschedulable_attempt_s=1 / 600,
    backoff_initial_s=1.0,
    backoff_max_s=10.0,
    start_warm_s=3.0,
    pull_cold_s=300.0,
    warm_at_start=True,
    start_jitter_ratio=0.5,
)

NAMED = {"ideal": IDEAL, "kubernetes": KUBERNETES}


def load(name: str | Path) -> ControlPlane:
    """Return a control plane by name, or from a TOML file with the fields of `ControlPlane`.

    Raises:
        ValueError: neither a known name nor a readable file, or the file makes no sense.
    """
    if str(name) in NAMED:
        return NAMED[str(name)]
    path = Path(name)
    try:
        content = path.read_bytes()
    except OSError:
        raise ValueError(
            f"control plane {str(name)!r} is neither {' nor '.join(NAMED)} nor a readable file"
        ) from None
    try:
        plane = msgspec.toml.decode(content, type=ControlPlane)
    except msgspec.MsgspecError as error:
        known = ", ".join(ControlPlane.__struct_fields__)
        raise ValueError(f"control plane file {str(name)!r}: {error}; fields: {known}") from None
    check(plane)
    return plane


def check(plane: ControlPlane) -> None:
    """Raise ValueError if a value cannot be."""
    for field in ("schedule_per_s", "bind_qps", "bind_burst"):
        value = getattr(plane, field)
        if isnan(value) or value <= 0:
            raise ValueError(f"control plane {plane.name!r}: {field} is {value}; give more than 0")
    for field in (
        "unschedulable_attempt_s",
        "backoff_initial_s",
        "backoff_max_s",
        "start_warm_s",
        "pull_cold_s",
        "start_jitter_ratio",
    ):
        value = getattr(plane, field)
        if isnan(value) or value < 0:
            raise ValueError(f"control plane {plane.name!r}: {field} is {value}; give 0 or more")
