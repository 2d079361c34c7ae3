"""The queues file: its TOML text to `Queues`, and back. docs/queues.md describes the form.

Drivers read and write the file itself. Amounts in the file are in the units that people use: `cpus`
in cores and `mem_gib` in GiB, where the core counts thousandths and bytes.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from enum import StrEnum
from math import isfinite
from typing import Any, Final

from scheduler.core.queues import (
    DEFAULT_FLAVOR,
    MOST_AMOUNT,
    Cohort,
    Flavor,
    Holding,
    Preference,
    Queue,
    Queues,
    Quota,
    Quotas,
    Search,
    Serve,
    ShareRule,
    Sharing,
    Victims,
    checked,
)

#: units of a core's amount in one of the file's, and the name there; other resources keep theirs
UNITS: Final[dict[str, tuple[str, int]]] = {
    "gpus": ("gpus", 1),
    "cpus": ("cpu", 1000),
    "mem_gib": ("memory", 1 << 30),
    "pods": ("pods", 1),
}
#: what else people call them
_MEANT: Final = {"gpu": "gpus", "nvidia.com/gpu": "gpus", "cpu": "cpus", "memory": "mem_gib"}
_LIMITS: Final = ("nominal", "borrow", "lend")
TEXT, NUMBER, WHOLE, WORDS, LABELS, QUOTA = "text", "number", "whole", "words", "labels", "quota"
RULES = "rules"
#: what to choose of where not all of an enumeration makes sense; see `queues.checked`
_CHOICES: Final[dict[str, list[StrEnum]]] = {
    "within": [
        Victims.NEVER,
        Victims.LOWER_PRIORITY,
        Victims.LOWER_OR_NEWER_EQUAL_PRIORITY,
    ],
    "reclaim": [Victims.NEVER, Victims.LOWER_PRIORITY, Victims.ANY],
    "borrow_within": [Victims.NEVER, Victims.LOWER_PRIORITY],
}
#: the keys of each kind of table, and what each holds: one of the above, or a choice
KEYS: Final[dict[str, dict[str, Any]]] = {
    "flavor": {"name": TEXT, "pool": TEXT, "gpu_model": TEXT, "labels": LABELS},
    "cohort": {"name": TEXT, "parent": TEXT, "weight": NUMBER, "quota": QUOTA},
    "queue": {
        "name": TEXT,
        "cohort": TEXT,
        "weight": NUMBER,
        "quota": QUOTA,
        "flavors": WORDS,
        "discipline": Holding,
        "within": Victims,
        "reclaim": Victims,
        "borrow_within": Victims,
        "max_priority": WHOLE,
        "when_can_borrow": Search,
        "when_can_preempt": Search,
        "preference": Preference,
        "min_runtime_s": NUMBER,
        "max_lost_s": NUMBER,
    },
    "sharing": {
        "heads": Serve,
        "half_life_s": NUMBER,
        "k": NUMBER,
        "victims": RULES,
        "age_s": NUMBER,
        "age_priority": WHOLE,
    },
}


def read(content: bytes, place: str) -> Queues:
    """Return the queues that a file describes; `place` names the file in messages.

    Raises:
        ValueError: it is not TOML, or describes no possible queues; all faults, with the way out.
    """
    try:
        told = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(
            f"{place}: {error}; a queues file is TOML with [[queue]] tables (docs/queues.md)"
        ) from None
    reading = _Reading(told)
    found = reading.queues()
    if reading.faults:
        raise ValueError("\n".join(f"{place}: {fault}" for fault in reading.faults))
    return checked(found, place)


class _Reading:
    """One file: what is read of it, and the faults found on the way."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        self._has_flavors = "flavor" in told
        self.faults: list[str] = []

    def queues(self) -> Queues:
        """Return what the file says, as far as it can be read."""
        self._known("the file", self._told, [*KEYS, "aliases"])
        flavors = tuple(Flavor(**fields) for fields in self._tables("flavor"))
        return Queues(
            flavors=flavors if self._has_flavors else (Flavor(DEFAULT_FLAVOR),),
            cohorts=tuple(Cohort(**fields) for fields in self._tables("cohort")),
            queues=tuple(Queue(**fields) for fields in self._tables("queue")),
            aliases=self._value("the file", "aliases", LABELS, self._told.get("aliases", {})) or {},
            sharing=self._sharing(),
        )

    def _sharing(self) -> Sharing:
        table = self._told.get("sharing", {})
        if not isinstance(table, dict):
            self.faults.append(f"sharing is {_shown(table)}; write a table [sharing]")
            return Sharing()
        self._known("sharing", table, KEYS["sharing"])
        return Sharing(**self._fields("sharing", table, KEYS["sharing"]))

    def _fields(self, what: str, table: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a table that can be read."""
        found = {
            key: self._value(what, key, holds, table[key])
            for key, holds in keys.items()
            if key in table
        }
        return {key: value for key, value in found.items() if value is not None}

    def _tables(self, kind: str) -> Iterable[dict[str, Any]]:
        tables = self._told.get(kind, [])
        if not _is_tables(tables):
            self.faults.append(f"{kind} is {_shown(tables)}; write a [[{kind}]] table for each")
            return
        for number, table in enumerate(tables, 1):
            name = table.get("name")
            named = isinstance(name, str) and name != ""
            what = f"{kind} {name!r}" if named else f"[[{kind}]] number {number}"
            if "name" not in table:
                self.faults.append(f"{what}: it has no name; give it one")
            self._known(what, table, KEYS[kind])
            yield {"name": "", **self._fields(what, table, KEYS[kind])}

    def _known(self, what: str, table: dict[str, Any], keys: Iterable[str]) -> None:
        known = list(keys)
        for key in table:
            if key not in known:
                self.faults.append(f"{what}: {key!r} is unknown; {_instead(key, known)}")

    def _value(self, what: str, key: str, holds: Any, value: Any) -> Any:
        """Return one value as the dataclasses have it; None, and a fault, if it is none such."""
        if holds is QUOTA:
            return self._quotas(what, value)
        if holds is TEXT and isinstance(value, str):
            return value
        if holds is NUMBER and _is_number(value):
            return float(value)
        if holds is WHOLE and _is_number(value) and isinstance(value, int):
            return value
        if holds is WORDS and isinstance(value, list) and all(isinstance(w, str) for w in value):
            return tuple(value)
        if holds is RULES and isinstance(value, list):
            found = [self._value(what, key, ShareRule, word) for word in value]
            return None if None in found else tuple(found)
        if holds is LABELS and isinstance(value, dict):
            if all(isinstance(text, str) for text in value.values()):
                return value
        elif isinstance(holds, type) and issubclass(holds, StrEnum):
            if isinstance(value, str) and value in [one.value for one in holds]:
                return holds(value)
            words = [one.value for one in _CHOICES.get(key, list(holds))]
            self.faults.append(f"{what}: {key} is {_shown(value)}; {_instead(str(value), words)}")
            return None
        self.faults.append(f"{what}: {key} is {_shown(value)}; give {_FORMS[holds]}")
        return None

    def _quotas(self, what: str, told: Any) -> Quotas | None:
        if not isinstance(told, dict):
            self.faults.append(f"{what}: quota is {_shown(told)}; give {_FORMS[QUOTA]}")
            return None
        if not self._has_flavors:
            return {DEFAULT_FLAVOR: self._resources(what, told)}
        quotas: Quotas = {}
        for flavor, resources in told.items():
            if isinstance(resources, dict):
                quotas[flavor] = self._resources(what, resources)
            else:
                self.faults.append(
                    f"{what}: quota.{flavor} is {_shown(resources)}; the file has flavors: give "
                    "quota.FLAVOR.RESOURCE = AMOUNT"
                )
        return quotas

    def _resources(self, what: str, told: dict[str, Any]) -> dict[str, Quota]:
        resources = {}
        for name, value in told.items():
            right = _MEANT.get(name) or ("" if name in UNITS else _misspelt(name))
            if right:
                self.faults.append(
                    f"{what}: quota for {name!r}, which is no resource; did you mean {right!r}?"
                )
                continue
            core, units = UNITS.get(name, (name, 1))
            limits = value if isinstance(value, dict) else {"nominal": value}
            self._known(f"{what}: quota of {name}", limits, _LIMITS)
            amounts: dict[str, int] = {}
            for limit in _LIMITS:
                if limit in limits:
                    amount = limits[limit]
                    if not _is_number(amount) or (units == 1 and amount != int(amount)):
                        self.faults.append(
                            f"{what}: quota of {name}: {limit} is {_shown(amount)}; give a "
                            f"{'whole ' if units == 1 else ''}number"
                        )
                    elif amount * units > MOST_AMOUNT:
                        self.faults.append(
                            f"{what}: quota of {name}: {limit} is {_shown(amount)}; give at most "
                            f"{MOST_AMOUNT // units:.3g}"
                        )
                    elif amount > 0 and round(amount * units) == 0:
                        self.faults.append(
                            f"{what}: quota of {name}: {limit} is {_shown(amount)}; give 0, or at "
                            f"least {1 / units:.3g}"
                        )
                    else:
                        amounts[limit] = round(amount * units)
            resources[core] = Quota(
                amounts.get("nominal", 0), amounts.get("borrow"), amounts.get("lend")
            )
        return resources


_FORMS: Final = {
    TEXT: "a text in quotes",
    NUMBER: "a number",
    WHOLE: "a whole number",
    RULES: f'a list of rules, such as ["{ShareRule.FINAL.value}"]',
    WORDS: 'a list of names, such as ["h100", "a100"]',
    LABELS: 'a table of texts, such as { zone = "a" }',
    QUOTA: "a table, such as quota.gpus = 32",
}


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _misspelt(name: str) -> str:
    """Return the resource that a name is close to; any other may be one of Kubernetes or of DRA."""
    if re.search(r"[^A-Za-z_]", name):
        return ""
    return next(iter(get_close_matches(name.lower(), UNITS, n=1, cutoff=0.7)), "")


def _instead(word: str, known: Sequence[str]) -> str:
    """Return the way out of an unknown word."""
    close = get_close_matches(word.lower(), known, n=1)
    choice = f"choose one of {', '.join(known)}"
    return f"did you mean {close[0]!r}? Else {choice}" if close else choice


# -- writing


def write(queues: Queues, comments: Sequence[str] = ()) -> str:
    """Return a file that reads as these queues, with comments at its top."""
    plain = queues.flavors == (Flavor(DEFAULT_FLAVOR),)
    lines = [f"# {line}".rstrip() for text in comments for line in (text.splitlines() or [""])]
    if not plain:
        for flavor in queues.flavors:
            lines += _table("flavor", flavor, Flavor(""), plain)
    shared = lines_of(queues.sharing)
    if shared:
        lines += ["", "[sharing]", *shared]
    for cohort in queues.cohorts:
        lines += _table("cohort", cohort, Cohort(""), plain)
    for queue in queues.queues:
        lines += _table("queue", queue, Queue(""), plain)
    if queues.aliases:
        lines += ["", "[aliases]"]
        lines += [f"{_key(alias)} = {_toml(name)}" for alias, name in queues.aliases.items()]
    return "\n".join(lines).lstrip("\n") + "\n"


def lines_of(sharing: Sharing) -> list[str]:
    """Return the words of the table [sharing] that are not the usual ones, a line each."""
    told = {key: getattr(sharing, key) for key in KEYS["sharing"]}
    usual = Sharing()
    return [
        f"{key} = {_toml(value)}" for key, value in told.items() if value != getattr(usual, key)
    ]


def _table(kind: str, one: Any, default: Any, plain: bool) -> list[str]:
    """Return the lines of one table; what is as usual is left out."""
    lines = ["", f"[[{kind}]]"]
    for key in KEYS[kind]:
        value = getattr(one, key)
        if key == "quota":
            for flavor, resources in value.items():
                if not resources:
                    lines.append("quota = {}" if plain else f"quota.{_key(flavor)} = {{}}")
                for core, quota in resources.items():
                    lines.append(_quota_line(None if plain else flavor, core, quota))
        elif value != getattr(default, key):
            lines.append(f"{key} = {_toml(value)}")
    return lines


def _quota_line(flavor: str | None, core: str, quota: Quota) -> str:
    name, units = next(
        ((name, units) for name, (own, units) in UNITS.items() if own == core), (core, 1)
    )
    path = ".".join(_key(part) for part in ("quota", flavor, name) if part is not None)
    limits = {"nominal": quota.nominal, "borrow": quota.borrow, "lend": quota.lend}
    told = {
        limit: str(amount // units if amount % units == 0 else amount / units)
        for limit, amount in limits.items()
        if amount is not None
    }
    if len(told) == 1:
        return f"{path} = {told['nominal']}"
    return f"{path} = {{ {', '.join(f'{limit} = {text}' for limit, text in told.items())} }}"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{_key(key)} = {_toml(one)}" for key, one in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)
