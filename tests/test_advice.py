"""Advice can be followed: flags and commands that a message names are there, and each helps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from sim.commands.main import INTERRUPTED, USAGE_ERROR, app, invoke
from tests.sim.journals.test_report import Live, nodes

ROOT = Path(__file__).resolve().parents[1]
READING = ("run", "study", "plan", "validate", "trace describe", "trace convert")
INTO_A_FOLDER = ("run", "study", "report")

#: which commands print the messages of a file, or of the files of a folder
SAID_BY: dict[str, tuple[str, ...]] = {
    "traces/": READING,
    "sim/commands/costs.py": ("plan-checkpoint",),
    "sim/commands/modelcheck.py": ("trace validate-model",),
    "sim/commands/options.py": ("run", "study", "plan"),
    "sim/commands/run.py": ("run",),
    "sim/commands/study.py": ("study",),
    "sim/commands/trace.py": ("trace generate",),
    "sim/commands/train.py": ("train",),
    "sim/goodput/": ("plan-checkpoint",),
    "sim/queues/": ("queues import",),
    "sim/report/diff.py": ("diff",),
    "sim/report/queue_diff.py": ("diff",),
    "sim/schema/queues.py": ("run",),
    "sim/report/": INTO_A_FOLDER,
    "sim/runs/": INTO_A_FOLDER,
    "sim/runs/experiment.py": ("run",),
    "sim/commands/words.py": READING,
    "sim/study/": ("study", "plan"),
}

#: flags that no table need name
OTHERS = {
    "--help": "every command has it",
    "--noheader": "one of sacct",
    "--audit-log-path": "one of kube-apiserver",
}

#: a variable of CSS is none
FLAG = re.compile(r"(?<![\w-])(?<!var\()--[a-z][a-z0-9-]*[a-z0-9](?![\w:-])")
COMMAND = re.compile(r"(?:`|: |see |[Rr]un |\()muster ([a-z-]+(?: [a-z][a-z-]*)?)")


def commands() -> dict[str, set[str]]:
    """Return the flags of each command of muster."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, name: str) -> None:
        if hasattr(command, "commands"):  # a group
            for word, below in command.commands.items():
                walk(below, f"{name} {word}".strip())
            return
        found[name] = {"--help"} | {
            flag for one in command.params for flag in (*one.opts, *one.secondary_opts)
        }

    walk(typer.main.get_command(app), "")
    return found


COMMANDS = commands()


def is_described(call: ast.Call) -> bool:
    """True for a call that declares an option, an argument or a command."""
    name = ast.unparse(call.func)
    return name.startswith("typer.") or name.endswith(".command")


def messages() -> Iterator[tuple[str, int, str]]:
    """Yield (file, line, text) of what the program may say; {} stands for what it fills in."""
    for folder in ("sim", "traces"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            passed: set[int] = set()
            for node in ast.walk(tree):
                inside: list[ast.AST] = []
                if isinstance(node, ast.Call) and is_described(node):
                    inside = [one for one in ast.walk(node) if one is not node]
                elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    inside = [node.value]
                elif isinstance(node, ast.JoinedStr):
                    inside = list(node.values)
                passed |= {id(one) for one in inside}
            for node in ast.walk(tree):
                if id(node) in passed:
                    continue
                place = path.relative_to(ROOT).as_posix()
                if isinstance(node, ast.JoinedStr):
                    parts = [one.value if isinstance(one, ast.Constant) else "{}"
                             for one in node.values]  # fmt: skip
                    yield place, node.lineno, "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield place, node.lineno, node.value


def advice() -> Iterator[tuple[str, int, str, str]]:
    """Yield (file, line, flag, text) of every flag that a message names."""
    for place, line, text in messages():
        if not FLAG.fullmatch(text.partition("/")[0]):  # else it declares one, or is its name
            for flag in set(FLAG.findall(text)) - OTHERS.keys():
                yield place, line, flag, text


def saying(place: str) -> tuple[str, ...]:
    """Return the commands that print messages of a file."""
    fits = [prefix for prefix in SAID_BY if place.startswith(prefix)]
    assert fits, f"{place} names a flag; say in SAID_BY which commands print its messages"
    return SAID_BY[max(fits, key=len)]


def test_every_flag_that_a_message_names_is_there() -> None:
    wrong = []
    for place, line, flag, text in advice():
        named = COMMAND.search(text)
        words = named[1] if named and text.index(flag) > named.start() else ""
        of = [one for one in COMMANDS if words in (one, one.split(" ")[0])] if words else ()
        for command in of or saying(place):
            if flag not in COMMANDS[command]:
                wrong += [f"{place}:{line}: muster {command} has no {flag}: {text[:100]!r}"]
    assert not wrong, "\n".join(wrong)


def test_every_command_that_a_message_names_is_there() -> None:
    groups = {name.split(" ")[0] for name in COMMANDS}
    wrong = []
    for place, line, text in messages():
        for named in COMMAND.findall(text):
            first, _, second = named.partition(" ")
            is_there = first in COMMANDS or f"{first} {second}" in COMMANDS
            if first not in groups or not (is_there or not second):
                wrong.append(f"{place}:{line}: there is no muster {named}: {text[:100]!r}")
    assert not wrong, "\n".join(wrong)


# -- each kind is followed once ----------------------------------------------------------------

HEADER = "job,submit_s,duration_s,num_pods,gpus_per_pod\n"
JOBS = HEADER + "".join(f"j{i},{60 * i},{600 + 10 * i},{1 + i % 4},8\n" for i in range(10))
EXTRA = JOBS.replace("gpus_per_pod", "gpus_per_pod,colour").replace(",8\n", ",8,red\n")
DATES = "job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration\n"
DATES += "".join(
    f"{i},u,v,8,8,1,COMPLETED,03/04/2020 1{i}:00:00,03/04/2020 1{i}:00:00,03/04/2020 18:00:00,60\n"
    for i in range(1, 6)
)
STUDY = """
nodes = [4, 8]
[[workload]]
name = "mine"
jobs = "jobs.csv"
[[arm]]
name = "strict"
"""
PLAN = """
[workload]
name = "mine"
jobs = "jobs.csv"
[arm]
name = "strict"
[vary]
what = "nodes"
low = 4
high = 8
step = 4
[[target]]
metric = "queueing_delay_p90_s"
at_most = 36000
"""
SACCT = "".join(
    f"{i}|user|COMPLETED|2026-10-0{i}T00:00:00|2026-10-0{i}T00:01:00|2026-10-0{i}T02:00:00|cpu=8,"
    "gres/gpu=8,node=1\n"
    for i in range(1, 9)
)
SACCT_COLUMNS = "--columns JobID,User,State,Submit,Start,End,AllocTRES"
FILES = {
    "jobs.csv": JOBS,
    "bad.csv": f"{JOBS}bad,0,-1,1,8\n",
    "extra.csv": EXTRA,
    "theirs.csv": JOBS.replace("duration_s", "run_time"),
    "bare.csv": JOBS.removeprefix(HEADER),
    "sacct.txt": SACCT,
    "odd.dat": JOBS.replace(HEADER, "task,at,run,num_pods,gpus_per_pod\n"),
    "dates.csv": DATES,
    "cluster.toml": '[[pool]]\nname = "a"\nnodes = 4\n',
    "study.toml": STUDY,
    "plan.toml": PLAN,
    "large.csv": f"{JOBS}large,0,600,1,16\n",
    "state.json": "{}",
    "costs.toml": "[startup_s]\np50 = 30.0\n",
    "queues.toml": '[[queue]]\nname = "default"\n',
}  # fmt: skip
#: how each command that reads a jobs file is given one
WITH_JOBS = {
    "run": "run --jobs {} --nodes 4 --out out --no-report",
    "study": "study --jobs {} --nodes 4 --arms gang-fifo --out out --no-report --processes 1",
    "plan": "plan --jobs {} --nodes 4-8 --delay-p95 10h --out out --processes 1",
    "validate": "validate {}",
    "trace describe": "trace describe {}",
    "trace convert": "trace convert {} out.parquet",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A command that is refused, what it is told, and the command of one who does so."""

    wrong: str
    says: str
    right: str
    before: tuple[str, ...] = field(default=())


READ = [
    ("bad.csv", "", "with --on-bad-row skip", "--on-bad-row skip"),
    ("extra.csv", "", "with --ignore-extra", "--ignore-extra"),
    ("theirs.csv", "", "with --map theirs=ours", "--map run_time=duration_s"),
    ("dates.csv", "", "--dates day-first or --dates month-first", "--dates day-first"),
    ("odd.dat", "", "name the format with --kind",
     "--kind jobs --map task=job --map at=submit_s --map run=duration_s"),
    ("sacct.txt", "", "as you gave them to sacct: --columns", SACCT_COLUMNS),
    ("bare.csv", "--columns job,submit_s", "--columns names 2 columns, the first row has 5",
     "--columns job,submit_s,duration_s,num_pods,gpus_per_pod"),
]  # fmt: skip
RUN = "run --jobs jobs.csv --nodes 4 --no-report"
LIVE = "run --journal journal.jsonl --no-report"
SHARD = "study --settings study.toml --out out --no-report --processes 1"
CASES = [
    Case(
        "plan --jobs large.csv --delay-p95 10h --out o --processes 1",
        "give larger nodes (--gpus-per-node",
        "plan --jobs large.csv --delay-p95 10h --out o --processes 1 --gpus-per-node 16",
    ),
    *(
        Case(f"{line.format(file)} {more}", says, f"{line.format(file)} {advised}")
        for file, more, says, advised in READ
        for line in WITH_JOBS.values()
    ),
    *(
        Case(f"{line.format('jobs.csv')} --gpus-per-pod 8", "of format jobs; leave it out",
             line.format("jobs.csv"))
        for line in WITH_JOBS.values()
    ),
    Case(f"{RUN} --out jobs.csv", "is a file; give a folder", f"{RUN} --out out"),
    Case(f"{RUN} --out .", "give another folder", f"{RUN} --out out"),
    Case(
        f"{RUN} --seed 1 --out out",
        "give --force to replace it",
        f"{RUN} --seed 1 --out out --force",
        (f"{RUN} --out out",),
    ),
    Case("run --nodes 4 --out out", "give --jobs FILE", f"{RUN} --out out"),
    Case("run --jobs jobs.csv --out out", "give --nodes N", f"{RUN} --out out"),
    Case(
        "run --jobs jobs.csv --out out",
        "or --cluster FILE.toml",
        "run --jobs jobs.csv --cluster cluster.toml --out out --no-report",
    ),
    Case(
        f"{RUN} --cluster cluster.toml --out out",
        "not both",
        "run --jobs jobs.csv --cluster cluster.toml --out out --no-report",
    ),
    Case(
        "run --jobs jobs.csv --cluster cluster.toml --gpus-per-node 4 --out out --no-report",
        "a cluster file sets it",
        "run --jobs jobs.csv --cluster cluster.toml --out out --no-report",
    ),
    Case(f"{RUN} --snapshot state.json --out o", "leave out --jobs, --nodes", f"{RUN} --out o"),
    Case(f"{RUN} --journal journal.jsonl --out o", "leave out --jobs", f"{LIVE} --out o"),
    Case("run --nodes 4 --out o", "or --snapshot or --journal", f"{LIVE} --out o"),
    Case(f"{LIVE} --admission pod --out o", "leave out --admission", f"{LIVE} --out o"),
    Case(f"{LIVE} --assumed-hours 0 --out o", "above 0", f"{LIVE} --assumed-hours 1 --out o"),
    Case(f"{LIVE} --queues queues.toml --out o", "--queues needs --jobs",
         f"{RUN} --queues queues.toml --out o"),
    Case(f"{LIVE} --costs costs.toml --out o", "--costs needs --jobs",
         f"{RUN} --costs costs.toml --out o"),
    Case(f"{RUN} --until-days 0 --out o", "give a number above 0", f"{RUN} --until-days 1 --out o"),
    Case(
        f"{RUN} --number depth --out o --discipline easy",
        "give a name and a number",
        f"{RUN} --out o --discipline easy",
    ),
    Case(f"{SHARD} --quick --full", "give one of them", f"{SHARD} --full"),
    Case(f"{SHARD} --merge", "run muster study with the same settings first", SHARD),
    Case(f"{SHARD} --shard 2/2", "give i/n", f"{SHARD} --shard 1/2"),
    Case(f"{SHARD} --processes 0", "give at least 1", f"{SHARD} --processes 1"),
    Case("diff a b --top -1", "give 0 or more", "diff a b --top 0",
         (f"{RUN} --out a", f"{RUN} --out b --seed 1")),
    Case("report none --out o", "written by `muster run`", "report a --out o", (f"{RUN} --out a",)),
    Case("report a --out jobs.csv", "jobs.csv", "report a --out o", (f"{RUN} --out a",)),
    Case(
        "plan-checkpoint --mtbf 1h --save 30s --days 2 --nodes 0 --out o",
        "--nodes is 0; give at least 1",
        "plan-checkpoint --mtbf 1h --save 30s --days 2 --nodes 1 --out o",
    ),
    Case("trace generate o.csv --gpus 8 --days 1", "give --profile NAME or --superpose philly",
         "trace generate o.csv --gpus 8 --days 1 --profile acme"),
    Case("trace generate o.csv --gpus 0 --profile acme", "--gpus is 0; give at least 1",
         "trace generate o.csv --gpus 8 --days 1 --profile acme"),
    Case("trace generate o.csv --gpus 8 --days 1 --seed -1 --profile acme", "give 0 or more",
         "trace generate o.csv --gpus 8 --days 1 --seed 1 --profile acme"),
    Case(
        "trace generate o.csv --gpus 8 --days 1 --superpose philly --tail-scale 1",
        "--tail-scale goes with --profile",
        "trace generate o.csv --gpus 8 --days 1 --profile acme --tail-scale 1",
    ),
]  # fmt: skip


#: flags that no case tries
UNTRIED = {
    "--json": "said of a long table, which is no fault",
    **dict.fromkeys(("--ranks", "--kill-rank", "--at-step"), "training needs torch"),
    **dict.fromkeys(("--cpu-per-node", "--mem-gib-per-node"), "as --gpus-per-node"),
}


def test_every_flag_that_a_message_names_is_tried() -> None:
    tried = {flag for case in CASES for flag in FLAG.findall(f"{case.wrong} {case.right}")}
    named = {flag for _, _, flag, _ in advice()}
    assert not named - tried - UNTRIED.keys(), "add a case that follows the advice"
    assert UNTRIED.keys() <= named


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    jobs = pd.read_csv(tmp_path / "jobs.csv").assign(walltime_s=900.0)
    Live(tmp_path / "journal.jsonl", nodes(4)).play(jobs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.wrong[:40]}: {case.says[:30]}")
def test_advice_is_followed(case: Case, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in case.before:
        assert invoke(command.split()) == 0
    capsys.readouterr()
    assert invoke(case.wrong.split()) not in (0, INTERRUPTED)
    assert case.says in capsys.readouterr().err
    assert invoke(case.right.split()) == 0, capsys.readouterr().err


#: the same advice where a settings file names the jobs file: file, what is said, what one writes
WORDS = [
    ("bad.csv", 'with on_bad_row = "skip"', 'on_bad_row = "skip"'),
    ("extra.csv", "with ignore_extra = true", "ignore_extra = true"),
    ("theirs.csv", 'map = { theirs = "ours" }', 'map = { run_time = "duration_s" }'),
    ("dates.csv", 'dates = "day-first" or dates = "month-first"', 'dates = "day-first"'),
    (
        "odd.dat",
        "name the format with kind",
        'kind = "jobs"\nmap = { task = "job", at = "submit_s", run = "duration_s" }',
    ),
    (
        "sacct.txt",
        'columns = ["JobID", "User", ...]',
        f"columns = {SACCT_COLUMNS.partition(' ')[2].split(',')}",
    ),
]


@pytest.mark.parametrize(("file", "says", "words"), WORDS)
@pytest.mark.parametrize(
    "command",
    [
        "validate study.toml", "validate plan.toml", SHARD, "plan plan.toml --out o --processes 1",
    ],
)  # fmt: skip
def test_advice_about_a_settings_file_is_in_its_words(
    command: str, file: str, says: str, words: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = place / ("plan.toml" if "plan" in command else "study.toml")
    text = settings.read_text()
    settings.write_text(text.replace("jobs.csv", file))
    assert invoke(command.split()) == USAGE_ERROR
    error = capsys.readouterr().err
    assert says in error
    assert f"in the workload in '{settings.name}'" in error
    assert not set(FLAG.findall(error)) - OTHERS.keys()
    settings.write_text(text.replace('"jobs.csv"', f'"{file}"\n{words}'))
    assert invoke(command.split()) == 0, capsys.readouterr().err


def test_validate_names_all_that_is_wrong(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = '[[workload]]\nname = "other"\njobs = "extra.csv"\n'
    (place / "study.toml").write_text(STUDY.replace("jobs.csv", "bad.csv") + other)
    command = "validate bad.csv none.csv study.toml jobs.csv"
    assert invoke(command.split()) == USAGE_ERROR
    said = capsys.readouterr()
    assert said.out.startswith("jobs.csv: jobs table: 10 jobs")
    first, second, third = said.err.splitlines()
    assert "bad.csv" in first
    assert "none.csv" in second
    assert "bad.csv" in third and "extra.csv" in third


def test_validate_names_every_point_of_a_study_that_is_not_sound(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(SHARD.split()) == 0
    for point in (place / "out" / "points").iterdir():
        (point / "attempts.parquet").unlink()
    capsys.readouterr()
    assert invoke(["validate", "out"]) == USAGE_ERROR
    assert capsys.readouterr().err.count("attempts.parquet is missing") == 2
