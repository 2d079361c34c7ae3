"""Scenarios that a peer's own code answered: one JSON file each kind, in the folder `kueue`.

A scenario is known by its `kind`, or by that of its file; files are `.json` or `.json.gz` of any
name.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = "kueue"


class Scenario(NamedTuple):
    """One question with its answer."""

    kind: str
    name: str  #: its id
    fields: dict[str, Any]


@cache
def scenarios(golden: Path) -> tuple[Scenario, ...]:
    """Return all scenarios of a folder, in the order of its files.

    Raises:
        ValueError: a file is no such file.
    """
    found = []
    for path in sorted((golden / FOLDER).glob("*.json*")):
        content = path.read_bytes()
        try:
            text = gzip.decompress(content) if path.suffix == ".gz" else content
            told = json.loads(text)
            file = told["file"]
            found += [Scenario(one.get("kind", file), one["id"], one) for one in told["scenarios"]]
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: no file of scenarios: {error!r}") from None
    return tuple(found)
