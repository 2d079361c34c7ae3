"""Named control planes, stored beside the code as TOML, and those of a file."""

from __future__ import annotations

from functools import cache
from importlib import resources
from math import isnan
from pathlib import Path

import msgspec

from sim.schema.config import ControlPlane

_FOLDER = resources.files("sim.schema") / "control_planes"


@cache
def names() -> tuple[str, ...]:
    """Return the names of the control planes that come with muster."""
    found = (item.name for item in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def load(name: str | Path) -> ControlPlane:
    """Return a control plane by name, or from a TOML file with the fields of `ControlPlane`.

    Raises:
        ValueError: neither a known name nor a readable file, or the file is invalid.
    """
    if str(name) in names():
        return _named(str(name))
    try:
        content = Path(name).read_bytes()
    except OSError:
        known = ", ".join(names())
        raise ValueError(
            f"control plane {str(name)!r} is neither a readable file nor one of {known}"
        ) from None
    return _decode(content, f"control plane file {str(name)!r}")


@cache
def _named(name: str) -> ControlPlane:
    return _decode((_FOLDER / f"{name}.toml").read_bytes(), f"control plane {name!r}")


def _decode(content: bytes, what: str) -> ControlPlane:
    try:
        plane = msgspec.toml.decode(content, type=ControlPlane)
    except (msgspec.MsgspecError, RecursionError) as error:
        known = ", ".join(ControlPlane.__struct_fields__)
        raise ValueError(f"{what}: {error}; fields: {known}") from None
    check(plane)
    return plane


def check(plane: ControlPlane) -> None:
    """Raise ValueError if a value cannot be."""
    for field in ("schedule_per_s", "bind_qps", "bind_burst", "create_per_s"):
        value = getattr(plane, field)
        if isnan(value) or value <= 0:
            raise ValueError(f"control plane {plane.name!r}: {field} is {value}; give more than 0")
    if not 0 < plane.creating_ratio <= 1:
        raise ValueError(
            f"control plane {plane.name!r}: creating_ratio is {plane.creating_ratio}; "
            "give more than 0 and at most 1"
        )
    for field in (
        "bind_lag_s",
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
