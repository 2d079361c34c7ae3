"""What a reader asks next, as commands to copy: each runs as printed, where the report was made."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from scheduler.core.times import DAY_S
from sim.report.digest import Digest
from sim.report.wording import counted, exact, listed
from sim.schema import planes
from sim.schema.config import RunConfig

FLAGS = ("--force",)
#: options that say what a jobs file is and what a node has: `run`, `study` and `plan` take them
OF_FILE = (
    "--jobs", "--gpus-per-node", "--cpu-per-node", "--mem-gib-per-node", "--control-plane",
    "--days", "--kind", "--on-bad-row", "--map", "--columns", "--dates", "--gpus-per-pod",
)  # fmt: skip
OF_FILE_FLAGS = ("--ignore-extra",)
MORE_NODES = 1.25
TOP = 20


@dataclass(frozen=True, slots=True)
class Command:
    """A question and the command that answers it."""

    question: str
    line: str


def shown_path(path: Path) -> str:
    """Return a path from the folder in which the report is made, where that is above it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def compare(first: Digest, other: Digest) -> Command:
    """Ask which jobs wait longer under one of two arms."""
    return Command(
        f"Which jobs wait longer under {first.head.arm}, and which under {other.head.arm}?",
        _line("diff", shown_path(first.head.folder), shown_path(other.head.folder), *_top()),
    )


def other_discipline(one: Digest) -> Command | None:
    """Ask what another discipline would have done with the same jobs."""
    if one.config.queues is not None:
        return None  # each queue has its own
    is_easy = one.config.admission == "gang" and one.config.policy.discipline == "easy"
    word = "strict" if is_easy else "easy"
    question = "What does EASY backfill save?" if is_easy else "Would EASY backfill help?"
    return _variant(one, question, word, {"--admission": "gang", "--discipline": word})


def shortest_first(one: Digest) -> Command | None:
    """Ask what another order of the queue would do."""
    if one.config.admission != "gang":
        return None
    word = "fifo" if one.config.policy.order == "sjf" else "sjf"
    what = "jobs went in order of arrival" if word == "fifo" else "short jobs went first"
    return _variant(one, f"Who would wait if {what}?", word, {"--order": word})


def more_nodes(one: Digest) -> Command | None:
    """Ask what a larger cluster would do for the same jobs."""
    nodes = max(ceil(one.head.nodes * MORE_NODES), one.head.nodes + 1)
    question = f"Would {counted(nodes, 'node')} end it?"
    return _variant(one, question, f"{nodes}-nodes", {"--nodes": str(nodes)})


def longer_study(study: Sequence[str], digests: Sequence[Digest]) -> Command | None:
    """Ask for all days of a study, if its settings have more of them."""
    full = max((one.head.full_days or 0.0 for one in digests), default=0.0)
    days = max(one.whole.window.days for one in digests)
    if not study or "--full" in study or days > 0.98 * full:
        return None
    kept = _without([word for word in study if word not in ("--quick", "--merge")], ("--shard",))
    if "--quick" in study:
        return Command("And with all sizes of the settings?", _line(*_without(kept, ("--out",))))
    return Command(
        f"And over all {full:g} days? That takes hours.",
        _line(*_without(kept, ("--out",)), "--full"),
    )


def more_sizes(one: Digest, study: Sequence[str]) -> Command | None:
    """Ask how the peak changes with the cluster, where there is one size of the user's own jobs."""
    words = _of_file(one, study)
    if words is None:
        return None
    sizes = sorted({one.head.nodes, *(ceil(one.head.nodes * by) for by in (MORE_NODES, 1.5))})
    out = _beside(one, "sizes")
    nodes = ",".join(map(str, sizes))
    return Command(
        f"How does the peak change with {listed([exact(size) for size in sizes])} nodes?",
        _line("study", *words, "--nodes", nodes, "--out", out),
    )


def enough_nodes(one: Digest, study: Sequence[str]) -> Command | None:
    """Ask how many nodes would do, where the jobs are the user's own."""
    words = _of_file(one, study)
    if words is None:
        return None
    return Command(
        "How many nodes keep 95 % of the queueing delays below 30 minutes?",
        _line("plan", *words, "--delay-p95", "30min", "--out", _beside(one, "plan")),
    )


def checkpoints(one: Digest) -> Command | None:
    """Ask how often to save a checkpoint, at the costs of a run."""
    costs, rate = one.config.costs, one.config.faults.per_1000_node_days
    save_s = 0.0 if costs is None else costs.save_stall_s.mean_s
    if costs is None or not (save_s > 0 and rate > 0):
        return None
    nodes = one.head.nodes
    return Command(
        f"How often should a job on {'the' if nodes == 1 else 'all'} {counted(nodes, 'node')} save "
        f"a checkpoint, at {rate:g} failures in 1,000 node-days?",
        _line("plan-checkpoint", "--mtbf", f"{1000 / rate:.4g}d", "--nodes", str(nodes),
              "--save", f"{save_s:.4g}s", "--restore", f"{costs.restore_s.mean_s:.4g}s",
              "--out", _beside(one, "checkpoint")),
    )  # fmt: skip


def _of_file(one: Digest, study: Sequence[str]) -> list[str] | None:
    """Return the words about the jobs file and the nodes; None without a file, or numbers.

    None with queues, too: those of `study` and `plan` are in their settings.
    """
    if one.config.queues is not None:
        return None
    words = [str(word) for word in (study or one.manifest.get("command", ()))]
    if words[:1] not in (["run"], ["study"]) or not _has(words, "--jobs"):
        return None
    if not _has(words, "--nodes"):
        return None
    kept = _only(words, OF_FILE, OF_FILE_FLAGS)
    if words[0] == "run":
        if not _has(words, "--control-plane"):
            kept += ["--control-plane", RunConfig().control_plane.name]
        if one.config.until_s is not None:
            kept += ["--days", f"{one.config.until_s / DAY_S:g}"]
    return kept


# -- a run under other settings ----------------------------------------------------------------


def _variant(one: Digest, question: str, suffix: str, changes: Mapping[str, str]) -> Command | None:
    """Run the same jobs with some options given in another way, and compare."""
    words = _simulated_by(one)
    if words is None or ("--nodes" in changes and not _has(words, "--nodes")):
        return None
    gone = [*changes, "--out"]
    if "--discipline" in changes:
        gone += ["--backfill", "--number"]
    folder, out = one.head.folder, _beside(one, suffix)
    given = [part for name, value in changes.items() for part in (name, value)]
    simulate = _line(*_without(words, gone), *given, "--out", out)
    return Command(question, f"{simulate} && {_line('diff', shown_path(folder), out, *_top())}")


def _beside(one: Digest, suffix: str) -> str:
    """Return a folder for another run, beside that of this one or of its study or report."""
    folder = one.head.folder
    if one.is_live:  # the run folder of a journal lies inside its report
        return shown_path(folder.parent.with_name(f"{folder.parent.name}-{suffix}"))
    beside = folder.parents[2] if folder.parent.name == "points" else folder.parent
    return shown_path(beside / f"{folder.name}-{suffix}")


def _simulated_by(one: Digest) -> list[str] | None:
    """Return the words of `muster run` behind a run; None where they are not known."""
    if one.is_live:
        journal = [str(name) for name in one.manifest.get("journal", ())]
        words = ["run", *(part for name in journal for part in ("--journal", name))]
        return words if journal else None
    given = [str(word) for word in one.manifest.get("command", ())]
    if given[:1] == ["run"]:
        return [word for word in given if word not in FLAGS]
    return _of_point(one)


def _of_point(one: Digest) -> list[str] | None:
    """Return the words for a point of a study, whose jobs lie beside its runs."""
    sha = str(one.manifest.get("point", {}).get("jobs_sha256", ""))[:12]
    folder = one.head.folder
    jobs = sorted((folder.parents[1] / "workloads").glob(f"*-{sha}.parquet")) if sha else []
    plane = _plane_name(one.config)
    defaults = RunConfig()
    per_node, rest = divmod(one.head.num_gpus, one.head.nodes)
    is_plain = one.config.timeouts == defaults.timeouts and one.config.faults == defaults.faults
    is_plain &= one.config.queues is None  # the run has their words, not their file
    if not jobs or plane is None or rest or not is_plain or not one.is_uniform:
        return None
    policy, usual = one.config.policy, defaults.policy
    options = [
        ("--nodes", str(one.head.nodes), ""),
        ("--gpus-per-node", str(per_node), "8"),
        ("--control-plane", plane, defaults.control_plane.name),
        ("--admission", one.config.admission, defaults.admission),
        ("--order", policy.order, usual.order),
        ("--discipline", policy.discipline, usual.discipline),
        ("--placement", policy.placement, usual.placement),
        ("--seed", str(one.config.seed), str(defaults.seed)),
        *(("--number", f"{name}={value:g}", "") for name, value in policy.numbers.items()),
    ]
    if one.config.until_s is not None:
        options.append(("--until-days", f"{one.config.until_s / DAY_S:g}", ""))
    given = [part for name, value, default in options if value != default for part in (name, value)]
    return ["run", "--jobs", shown_path(jobs[0]), *given]


def _plane_name(config: RunConfig) -> str | None:
    """Return the name of a run's control plane; None where its numbers came from a file."""
    for name in planes.names():
        if planes.load(name) == config.control_plane:
            return name
    return None


def _has(words: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in words)


def _only(words: Sequence[str], options: Iterable[str], flags: Iterable[str]) -> list[str]:
    """Return these options of a command line, with their values, and these flags."""
    wanted = tuple(options)
    kept: list[str] = []
    takes = False
    for word in words:
        if takes or word in flags or word.startswith(tuple(f"{name}=" for name in wanted)):
            kept.append(word)
            takes = False
        elif word in wanted:
            kept.append(word)
            takes = True
    return kept


def _without(words: Sequence[str], options: Iterable[str]) -> list[str]:
    """Return a command line without options that take a value, however they are given."""
    gone = tuple(options)
    kept, skips = [], False
    for word in words:
        if skips:
            skips = False
        elif word in gone:
            skips = True
        elif not word.startswith(tuple(f"{name}=" for name in gone)):
            kept.append(word)
    return kept


def _top() -> tuple[str, str]:
    return ("--top", str(TOP))


def _line(*words: str) -> str:
    return shlex.join(("muster", *words))
