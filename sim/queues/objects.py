"""Objects of Kubernetes, as `kubectl get -o yaml` prints them; faults name the field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

#: powers of the suffixes of a quantity
_SUFFIXES = {
    **{suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(2) ** (10 * power) for power, suffix in enumerate("KMGTPE", 1)},
    "": Decimal(1),
    "m": Decimal("1e-3"),
    "u": Decimal("1e-6"),
    "n": Decimal("1e-9"),
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([numkMGTPE]?i?|Ki)$")


class Fields:
    """A mapping of an object: typed access, and the names of fields that nobody asked for."""

    def __init__(self, told: dict[str, Any], place: str) -> None:
        self._told = told
        self.place = place
        self._asked: set[str] = set()

    def get(self, key: str) -> Any:
        """Return a field, or None."""
        self._asked.add(key)
        return self._told.get(key)

    def text(self, key: str, default: str = "") -> str:
        """Return a text; `default` where there is none."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, value, "a text")
        return value

    def below(self, key: str) -> Fields:
        """Return the mapping in a field; an empty one where there is none."""
        value = self.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(key, value, "a mapping")
        return Fields(value, f"{self.place}.{key}")

    def each(self, key: str) -> Iterator[Fields]:
        """Yield the mappings in the list of a field."""
        value = self.get(key)
        if value is None:
            return
        if not isinstance(value, list):
            raise self.wrong(key, value, "a list")
        for number, one in enumerate(value):
            if not isinstance(one, dict):
                raise self.wrong(f"{key}[{number}]", one, "a mapping")
            yield Fields(one, f"{self.place}.{key}[{number}]")

    def quantity(self, key: str) -> Decimal | None:
        """Return a quantity such as 8, 500m or 1Ti; None where there is none."""
        value = self.get(key)
        if value is None:
            return None
        found = _QUANTITY.match(str(value).strip()) if not isinstance(value, bool) else None
        if found is None or found[2] not in _SUFFIXES:
            raise self.wrong(key, value, "a quantity such as 8, 500m or 1Ti")
        return Decimal(found[1]) * _SUFFIXES[found[2]]

    def names(self) -> list[str]:
        """Return the names of all fields."""
        return [str(key) for key in self._told]

    def unasked(self) -> list[str]:
        """Return the names of fields with a value that nobody asked for."""
        return [
            key
            for key, value in self._told.items()
            if key not in self._asked and value not in (None, {}, [], "")
        ]

    def wrong(self, key: str, value: object, wanted: str) -> ValueError:
        """Return an error about a field."""
        return ValueError(f"{self.place}.{key} is {value!r}, not {wanted}; get the object again")


class Object(Fields):
    """One object: its kind and name, and the fields of its spec."""

    def __init__(self, told: dict[str, Any], place: str) -> None:
        whole = Fields(told, place)
        self.group = whole.text("apiVersion").partition("/")[0]
        self.kind = whole.text("kind")
        metadata = whole.below("metadata")
        self.name = metadata.text("name")
        self.namespace = metadata.text("namespace")
        self.whole = whole
        if not self.name:
            raise ValueError(f"{place}: a {self.kind or 'mapping'} has no metadata.name")
        spec = whole.get("spec")
        if spec is None:
            spec = {}
        if not isinstance(spec, dict):
            raise ValueError(f"{place}: {self.kind} {self.name!r}: spec is no mapping")
        super().__init__(spec, f"{place}: {self.kind} {self.name!r}: spec")


def objects(text: str, place: str) -> list[Object]:
    """Return the objects of a YAML or JSON text: of all its documents, and of lists in them.

    Raises:
        ValueError: it is no such text, or PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise ValueError(
            f"{place}: YAML needs PyYAML; pip install 'muster-scheduler[live]'"
        ) from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        documents = list(yaml.load_all(text, Loader=loader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{place}: no YAML: {error}") from None
    return [Object(one, place) for one in _flat(documents, place)]


def _flat(documents: Iterable[Any], place: str) -> Iterator[dict[str, Any]]:
    for one in documents:
        if one is None:
            continue
        if not isinstance(one, dict):
            raise ValueError(
                f"{place}: {str(one)[:40]!r} is no object of Kubernetes; give the output of "
                "`kubectl get -o yaml`"
            )
        if str(one.get("kind", "")).endswith("List") and isinstance(one.get("items"), list):
            yield from _flat(one["items"], place)
        else:
            yield one
