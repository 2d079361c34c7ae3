"""Associations of Slurm: the accounts of `sacctmgr -P show assoc`, their shares and GrpTRES.

An account's GrpTRES is a limit at its level of the tree. Where those of the accounts below it add
up to no more, each has its own as nominal quota and borrows nothing. Else it has the quota itself,
and the accounts below borrow from it up to their limits. Nobody is evicted for another.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from scheduler.core.queues import DEFAULT_FLAVOR, Flavor, Holding, Queues, Serve, Sharing
from sim.queues.notes import Notes
from sim.queues.tree import Amounts, Cell, Node, grown

ROOT = "root"
#: columns that say which association a line is, or what is kept of it
KEPT = {"cluster", "account", "user", "share", "fairshare", "grptres"}
#: columns that limit nothing
SAYS_NOTHING = {
    "id", "par id", "par name", "parentname", "lft", "rgt", "lineage", "partition", "qos",
    "def qos", "qos_raw", "flags", "comment", "priority",
}  # fmt: skip
#: memory without a suffix is in megabytes
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


@dataclass
class _Account:
    name: str
    parent: str
    share: float = 1.0
    limit: dict[str, int] = field(default_factory=dict)
    has_users: bool = False


def is_output(text: str) -> bool:
    """True if a text begins with the header of `sacctmgr -P show assoc`."""
    columns = _columns(text.lstrip().partition("\n")[0])
    return {"account", "user"} <= set(columns)


def mistaken(text: str) -> str:
    """Return why a text is no such output although it comes from sacctmgr; empty if it does not."""
    first = text.lstrip().partition("\n")[0]
    if first.count("|") >= 3:
        return (
            "its first line has no column Account and User: leave out -n, and add both to format="
        )
    if {"account", "user"} <= set(first.lower().split()):
        return "its columns are cut to fixed widths: print them with -P"
    if first.startswith("{") and '"associations"' in text:
        return "JSON of sacctmgr is not read: print it as text, with -P"
    return ""


def _columns(header: str) -> list[str]:
    return [name.strip().lower() for name in header.strip().split("|")]


def queues_of(text: str, place: str, totals: Mapping[Cell, int], notes: Notes) -> Queues:
    """Return the queues that associations describe: one for each account with users.

    Raises:
        ValueError: lines have no account, or a value that Slurm does not write.
    """
    accounts = _accounts(text, place, notes)
    flavors, cells = _flavors(accounts, notes)
    top = accounts.pop(ROOT, None)
    totals = {**totals, **(_cells(top.limit, cells) if top else {})}
    nodes = {
        one.name: Node(
            one.name,
            "" if one.parent in ("", ROOT) else one.parent,
            one.share,
            limit=_cells(one.limit, cells),
            takes_jobs=one.has_users,
            discipline=Holding.EASY,
        )
        for one in accounts.values()
    }
    below: dict[str, list[Node]] = {}
    for node in nodes.values():
        below.setdefault(node.parent, []).append(node)
    for cell in set(cells.values()):
        for node in below.get("", []):
            _set_quota(node, cell, below)
    notes.add("an account's share is its weight; shares of users have no counterpart")
    notes.add(
        "heads are ordered by the fair tree, with Slurm's usual half-life of a week: set "
        "half_life_s of [sharing] to PriorityDecayHalfLife, or leave [sharing] out if jobs are not "
        "ordered by fair share"
    )
    sharing = Sharing(Serve.FAIR_TREE)
    return grown(list(nodes.values()), ROOT, totals, flavors, notes, sharing)


def _accounts(text: str, place: str, notes: Notes) -> dict[str, _Account]:
    lines = [line for line in text.splitlines() if line.strip()]
    columns = _columns(lines[0])
    written = dict(zip(columns, (name.strip() for name in lines[0].split("|")), strict=True))
    rows = list(csv.reader(lines[1:], delimiter="|", quoting=csv.QUOTE_NONE))
    has_parents = "par name" in columns or "parentname" in columns
    accounts: dict[str, _Account] = {}
    clusters: set[str] = set()
    with_users: set[str] = set()
    path: list[tuple[int, str]] = []  #: indents and names of the accounts around a line
    for number, row in enumerate(rows, 2):
        fields = dict(zip(columns, row, strict=False))
        told = fields.get("account", "")
        name = told.strip()
        if not name:
            raise ValueError(f"{place}, line {number}: it has no account; get the output again")
        clusters.add(fields.get("cluster", "").strip())
        what = f"{place}, line {number}: account {name!r}"
        if fields.get("user", "").strip():
            with_users.add(name)
            for column, value in fields.items():
                limits = column == "grptres" or column not in KEPT | SAYS_NOTHING
                if limits and value.strip():
                    notes.add(f"limits of users ({written[column]}) have no counterpart", name)
            continue
        indent = len(told) - len(told.lstrip())
        while path and path[-1][0] >= indent:
            path.pop()
        around = path[-1][1] if path else ""
        path.append((indent, name))
        parent = (fields.get("par name") or fields.get("parentname") or "").strip()
        share = (fields.get("share") or fields.get("fairshare") or "1").strip()
        accounts[name] = _Account(
            name,
            parent if has_parents else around,
            _share(share, what, notes, name),
            _tres(fields.get("grptres", ""), what, notes),
        )
        for column, value in fields.items():
            if column not in KEPT | SAYS_NOTHING and value.strip():
                notes.add(f"{written[column]} has no counterpart", name)
    for name in with_users & accounts.keys():
        accounts[name].has_users = True
    if len(clusters) > 1:
        raise ValueError(
            f"{place}: associations of the clusters {', '.join(sorted(clusters))}; choose one: "
            "sacctmgr -P show assoc tree cluster=NAME"
        )
    if not accounts:
        raise ValueError(
            f"{place}: it has no line of an account; leave out user= and get the output again"
        )
    if not has_parents and all(one.parent in ("", ROOT) for one in accounts.values()):
        notes.add(
            "the output does not say which account is in which, so all are beside each other; "
            "`sacctmgr -P show assoc tree` does"
        )
    return accounts


def _share(text: str, what: str, notes: Notes, name: str) -> float:
    if text.lower() == "parent":
        notes.add("its share is that of its parent (fairshare=parent); it weighs 1 here", name)
        return 1.0
    try:
        return float(int(text or 1))
    except ValueError:
        raise ValueError(f"{what}: share is {text!r}, not a number or parent") from None


def _tres(text: str, what: str, notes: Notes) -> dict[str, int]:
    """Return limits by TRES such as `cpu`, `mem` and `gres/gpu:h100`, in units of the core."""
    found: dict[str, int] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        name = name.lower()
        try:
            if name == "mem":
                suffix = value[-1:].upper()
                number = Decimal(value[:-1] if suffix in _BYTES else value)
                amount = int(number * _BYTES.get(suffix, _BYTES["M"]))
            else:
                amount = int(value)
        except (InvalidOperation, ValueError):
            raise ValueError(f"{what}: GrpTRES has {part!r}; wanted TYPE=NUMBER") from None
        if amount < 0:
            continue  # -1 is no limit
        if name == "cpu":
            found[name] = amount * 1000
        elif name == "mem" or name.startswith("gres/gpu"):
            found[name] = amount
        else:
            notes.add(
                f"GrpTRES of {name} has no counterpart", what.rpartition("account ")[2].strip("'")
            )
    return found


def _flavors(
    accounts: Mapping[str, _Account], notes: Notes
) -> tuple[list[Flavor], dict[str, Cell]]:
    """Return flavors, and the cell of each TRES: a flavor per GPU model if all limits name one."""
    named = sorted({tres for one in accounts.values() for tres in one.limit})
    typed = [tres for tres in named if tres.startswith("gres/gpu:")]
    plain = {"gres/gpu": "gpus", "cpu": "cpu", "mem": "memory"}
    if typed and "gres/gpu" not in named:
        models = [tres.partition(":")[2] for tres in typed]
        if left := [tres for tres in named if tres not in typed]:
            notes.add(f"GrpTRES of {', '.join(left)} is left out: GPUs are limited by model")
        notes.add("flavors have the names of Slurm's GPU types; set gpu_model to what nodes have")
        return (
            [Flavor(model, gpu_model=model) for model in models],
            {tres: (model, "gpus") for tres, model in zip(typed, models, strict=True)},
        )
    if typed:
        notes.add("limits of GPU models are left out, as others limit GPUs of all models")
    return (
        [Flavor(DEFAULT_FLAVOR)],
        {tres: (DEFAULT_FLAVOR, plain[tres]) for tres in named if tres in plain},
    )


def _cells(limit: Mapping[str, int], cells: Mapping[str, Cell]) -> Amounts:
    return {cells[tres]: amount for tres, amount in limit.items() if tres in cells}


def _set_quota(node: Node, cell: Cell, below: Mapping[str, Sequence[Node]]) -> None:
    """Give quotas from the top: to each account its limit, while those below fit into it."""
    if cell in node.limit:
        node.quota[cell] = node.limit[cell]
        if sum(_needs(child, cell, below) for child in below.get(node.name, ())) > node.limit[cell]:
            return
    for child in below.get(node.name, ()):
        _set_quota(child, cell, below)


def _needs(node: Node, cell: Cell, below: Mapping[str, Sequence[Node]]) -> int:
    if cell in node.limit:
        return node.limit[cell]
    return sum(_needs(child, cell, below) for child in below.get(node.name, ()))
