"""The arms of a report: their order, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sim.report import held, queues
from sim.report.digest import Digest

ADMISSIONS = ("pod", "permit", "gang")  #: the order in which arms are shown


def in_order(digests: Sequence[Digest]) -> list[Digest]:
    """Return runs by workload, cluster size, arm and seed.

    Pods one by one come first, then whole gangs; of these strict FIFO, with which others are
    compared; the rest as they were given.
    """
    workloads = list(dict.fromkeys(one.head.workload for one in digests))
    arms = list(dict.fromkeys(one.head.arm for one in digests))

    def key(one: Digest) -> tuple[Any, ...]:
        policy = one.config.policy
        return (
            workloads.index(one.head.workload),
            one.head.nodes,
            ADMISSIONS.index(one.config.admission),
            (policy.order, policy.discipline) != ("fifo", "strict"),
            arms.index(one.head.arm),
            one.head.seed,
        )

    return sorted(digests, key=key)


def settings(digests: Sequence[Digest]) -> list[dict[str, str]]:
    """Return each arm's settings that are not the same everywhere, and one row for the rest."""
    flat = {one.head.arm: _flat(_fields(one)) for one in digests}
    every = dict.fromkeys(name for fields in flat.values() for name in fields)
    names = [name for name in every if name not in ("label", "seed", "until_s")]
    common, rows = [], []
    for name in names:
        values = {arm: fields.get(name) for arm, fields in flat.items()}
        if len({str(value) for value in values.values()}) == 1:
            common.append(f"{name} {next(iter(values.values()))}")
    for arm, fields in flat.items():
        own = [f"{name} {fields[name]}" for name in names if name in fields]
        own = [text for text in own if text not in common]
        rows.append({"arm": arm, "text": ", ".join(own) or "the same as all"})
    if len(flat) > 1:
        rows.append({"arm": "all", "text": ", ".join(common)})
    else:
        rows = [{"arm": next(iter(flat)), "text": ", ".join(common)}]
    return rows


def _fields(one: Digest) -> dict[str, Any]:
    """Return a run's settings; a live cluster has only its policy."""
    fields: dict[str, Any] = msgspec.to_builtins(one.config)
    policy = fields.pop("policy")
    policy |= policy.pop("numbers")
    fields = {name: value for name, value in fields.items() if name not in held.SETTINGS}
    fields |= held.settings(one.config)
    if fields.pop("queues", None) is not None:
        del policy["discipline"]  # each queue has its own
    policy["queues"] = queues.told(one.config)
    fields.pop("queues_file", None)
    return {"admission": fields.pop("admission"), **policy, **({} if one.is_live else fields)}


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = f"{value:.6g}" if isinstance(value, float) else value
    return found
