"""Queues of another scheduler: which one a file is of, and its queues in muster's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scheduler.core.queues import Queues
from scheduler.policies import queuesfile
from sim.queues import kai, kueue, slurm, volcano
from sim.queues.notes import Notes
from sim.queues.objects import Object, objects
from sim.queues.tree import Cell

SYSTEMS = {kueue.GROUP: "Kueue", kai.GROUP: "KAI", volcano.GROUP: "Volcano"}
HOW = (
    "give the output of `kubectl get clusterqueues,cohorts,localqueues,resourceflavors,"
    "workloadpriorityclasses -A -o yaml` (Kueue), `kubectl get queues.scheduling.run.ai -o yaml` "
    "(KAI), `kubectl get queues.scheduling.volcano.sh -o yaml` (Volcano) or `sacctmgr -P show "
    "assoc tree` (Slurm)"
)


class Imported(NamedTuple):
    """Queues of another scheduler."""

    system: str
    queues: Queues
    notes: list[str]  #: what has no counterpart, and what was assumed


def read(paths: Sequence[Path], totals: Mapping[Cell, int]) -> Imported:
    """Return the queues of one system that files describe; `totals` is what its cluster has.

    Raises:
        ValueError: files are of no known system, or of several, or have impossible values.
        OSError: a file cannot be read.
    """
    notes = Notes()
    found: list[Object] = []
    texts = []
    for path in paths:
        text = _text(path)
        if slurm.is_output(text):
            texts.append((text, str(path)))
        elif why := slurm.mistaken(text):
            raise ValueError(f"{path}: {why}; `sacctmgr -P show assoc tree`")
        else:
            found += objects(text, str(path))
    known = [one for one in found if one.group in SYSTEMS]
    systems = sorted({SYSTEMS[one.group] for one in known} | ({"Slurm"} if texts else set()))
    place = ", ".join(str(path) for path in paths)
    if len(systems) != 1 or len(texts) > 1:
        what = f"queues of {' and '.join(systems)}" if len(systems) > 1 else "no queues"
        if len(texts) > 1:
            what = "several outputs of sacctmgr"
        raise ValueError(f"{place}: {what}; {HOW}, of one cluster")
    for one in found:
        if one.group not in SYSTEMS:
            notes.add("is no object of queues and left out", f"{one.kind} {one.name}")
    if systems == ["Slurm"]:
        queues = slurm.queues_of(*texts[0], totals, notes)
    elif systems == ["Kueue"]:
        queues = kueue.queues_of(known, notes)
    else:
        queues_of = kai.queues_of if systems == ["KAI"] else volcano.queues_of
        of_kind = [one for one in known if one.kind == "Queue"]
        for one in known:
            if one.kind != "Queue":
                notes.add("has no counterpart", f"{one.kind} {one.name}")
        queues = queues_of(of_kind, totals, notes)
    # what is returned is what a file can say
    return Imported(systems[0], queuesfile.read(queuesfile.write(queues).encode(), place), [*notes])


def _text(path: Path) -> str:
    content = path.read_bytes()
    # as PowerShell saves what a command prints
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not text; {HOW}") from None
