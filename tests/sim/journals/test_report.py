"""A live journal gives the report of a run, and goes on in the simulator."""

from __future__ import annotations

import heapq
import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from scheduler.core.decisions import Admit, Preempt
from scheduler.core.events import (
    Admitted,
    CheckpointSaved,
    ForeignPodBound,
    GangCancelled,
    GangResized,
    GangSubmitted,
    MemberAppeared,
    MemberLost,
    NodeAdded,
    NodeCordoned,
)
from scheduler.core.model import Gang, Node, PodShape, Role, Selector
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US, ends_us, to_us
from scheduler.journal import lines as journals
from scheduler.journal.history import Follower, lines_of, read, told
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.spec import PolicySpec
from sim import RunResult
from sim.commands.main import invoke
from sim.journals.recorded import recorded
from sim.journals.resumed import resume, scene
from sim.report.report import build_report
from sim.runs.steps import pending_steps
from sim.schema import planes
from sim.schema.config import RunConfig
from sim.schema.tables import REASONS

POLICY = PolicySpec()
EIGHT = PodShape(8)
#: each plays two runs; HYPOTHESIS_PROFILE=thorough draws 800
EXAMPLES = settings.default.max_examples * 2 // 5


def nodes(number: int, pool: str = "") -> list[Node]:
    return [Node(f"node-{i}", EIGHT, pool) for i in range(number)]


def gang(name: str, pods: int, gpus: int = 8, **more: Any) -> Gang:
    for name_s in ("submit_s", "walltime_s"):
        if name_s in more:
            more[name_s[:-2] + "_us"] = to_us(more.pop(name_s))
    return Gang(name, (Role(pods, PodShape(gpus), more.pop("selector", Selector())),), **more)


class Live:
    """A live muster as its journal sees it: events in, decisions out, a line for each."""

    def __init__(self, path: Path, cluster: list[Node], policy: PolicySpec = POLICY) -> None:
        self.path = path
        self.spec = policy
        self.policy = catalog.policy(policy)
        self.begin(0.0, cluster)

    def begin(self, now_s: float, cluster: list[Node], **more: float) -> None:
        self.state = ClusterState(cluster, order=self.policy.order)
        line = json.loads(journals.snapshot(now_s, self.state, self.spec))
        self.write(json.dumps({**line, **more}).encode())

    def write(self, line: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(line + b"\n")

    def tell(self, now_s: float, event: Any) -> None:
        apply(self.state, event)
        self.write(journals.encode(now_s, event))

    def decide(self, now_s: float) -> list[str]:
        """Run a pass; return the gangs that start."""
        started = []
        while True:
            for decision in decide(self.state, self.policy, to_us(now_s)):
                assert not isinstance(decision, Preempt)
                if isinstance(decision, Admit):
                    self.write(journals.encode(now_s, decision))
                    walltime_us = self.state.gangs[decision.gang].gang.walltime_us
                    now_us = to_us(now_s)
                    end_us = ends_us(now_us, walltime_us)
                    self.tell(now_s, Admitted(decision.gang, decision.placement, now_us, end_us))
                    started.append(decision.gang)
                    continue
                self.tell(now_s, decision)
                if type(decision).__name__ == "Considered":
                    return started

    def play(self, jobs: pd.DataFrame, state_at_s: float = np.inf) -> None:
        """Let jobs come and go; write `/state` beside the journal at `state_at_s`."""
        events: list[tuple[float, int, int, Any]] = []
        numbers = count()
        duration_s = dict(zip(jobs["job"], jobs["duration_s"], strict=True))
        for row in jobs.to_dict("records"):
            one = gang(
                row["job"],
                row["num_pods"],
                row["gpus_per_pod"],
                submit_s=row["submit_s"],
                walltime_s=row["walltime_s"],
                ordinal=next(numbers),
            )
            heapq.heappush(events, (row["submit_s"], 1, next(numbers), GangSubmitted(one)))
        while events:
            now_s = events[0][0]
            if now_s > state_at_s:
                self.write_state(state_at_s)
                state_at_s = np.inf
            while events and events[0][0] == now_s:
                self.tell(now_s, heapq.heappop(events)[-1])
            for name in self.decide(now_s):
                end = GangCancelled(name)
                heapq.heappush(events, (now_s + duration_s[name], 0, next(numbers), end))

    def write_state(self, now_s: float) -> Path:
        lines = [json.loads(bytes(line)) for line in lines_of(now_s, self.state, self.spec)]
        path = self.path.with_name("state.json")
        path.write_text(json.dumps({"zero_unix_s": 0.0, "now_s": now_s, "lines": lines}))
        return path


@st.composite
def crowds(draw: st.DrawFn) -> pd.DataFrame:
    """Draw jobs that all fit on three nodes of 8 GPUs."""
    rows = []
    time_s = 0.0
    for i in range(draw(st.integers(2, 14))):
        time_s += draw(st.sampled_from([0.0, 1.5, 4.0, 30.0]))
        gpus = draw(st.sampled_from([1, 3, 8]))
        pods = draw(st.integers(1, 3 if gpus == 8 else 6))
        duration_s = draw(st.sampled_from([2.0, 17.0, 61.0]))
        rows.append((f"j{i}", time_s, duration_s, duration_s * 2, pods, gpus))
    columns = ["job", "submit_s", "duration_s", "walltime_s", "num_pods", "gpus_per_pod"]
    return pd.DataFrame(rows, columns=columns)


def assert_same_curves(live: RunResult, simulated: RunResult) -> None:
    """Pending pods by reason and GPUs in use are equal at all times."""
    times = np.union1d(live.pending["time_s"], simulated.pending["time_s"])
    ends_s = live.manifest["end_s"], simulated.manifest["end_s"]
    assert ends_s[0] == pytest.approx(ends_s[1])
    curves = [pending_steps(run.pending, ends_s[0]) for run in (live, simulated)]
    for time_s in times:
        np.testing.assert_array_equal(curves[0].at(time_s), curves[1].at(time_s), str(time_s))
    pd.testing.assert_frame_equal(live.allocation, simulated.allocation)


@given(crowds(), st.sampled_from(["strict", "easy"]))
@settings(deadline=None, max_examples=EXAMPLES)
def test_a_journal_gives_the_tables_of_the_same_run(
    tmp_path_factory: pytest.TempPathFactory, jobs: pd.DataFrame, discipline: str
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    Live(path, nodes(3), PolicySpec(discipline=discipline)).play(jobs)
    live = recorded([path])
    simulated = sim.run(jobs, nodes=3, discipline=discipline, from_first=False)
    assert_same_curves(live, simulated)
    same = ["job", "submit_s", "start_s", "end_s", "num_pods", "gpus", "outcome", "held_gpu_s"]
    same += [f"pending_{reason}_s" for reason in REASONS]
    pd.testing.assert_frame_equal(
        live.jobs[same], simulated.jobs[same], check_dtype=False, rtol=1e-9, atol=1e-9
    )
    assert live.config.policy == PolicySpec(discipline=discipline)
    assert live.manifest["accounting"].keys() == simulated.manifest["accounting"].keys()


@given(crowds(), st.sampled_from(["strict", "easy"]), st.sampled_from([0.5, 3.0, 20.0, 50.0]))
@settings(deadline=None, max_examples=EXAMPLES)
def test_a_snapshot_goes_on_as_the_live_cluster_did(
    tmp_path_factory: pytest.TempPathFactory, jobs: pd.DataFrame, discipline: str, at_s: float
) -> None:
    """With the journal, which knows who came later and how long each ran, all starts are equal."""
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    policy = PolicySpec(discipline=discipline)
    Live(path, nodes(3), policy).play(jobs, at_s)
    state = path.with_name("state.json")
    if not state.exists():
        return  # it was all over by then
    live = recorded([path]).jobs.set_index("job")
    built = scene(state, [path], 1.0)
    assert built.policy == policy
    later = resume(built, RunConfig(policy=policy), "state").jobs.set_index("job")
    left = live[~(live["end_s"] <= at_s)]
    assert set(later.index) == set(left.index)
    for job, row in left.iterrows():
        if row["start_s"] > at_s:
            assert later.loc[job, "start_s"] == pytest.approx(row["start_s"] - at_s)
        assert later.loc[job, "end_s"] == pytest.approx(row["end_s"] - at_s)
    assert (later["outcome"] == "completed").all()
    again = scene(None, [path], 1.0)
    whole = resume(again, RunConfig(policy=policy), "journal").jobs.set_index("job")
    pd.testing.assert_series_equal(
        whole["start_s"].sort_index(), live["start_s"].sort_index(), check_names=False
    )


def test_lines_of_a_state_make_it_anew(tmp_path: Path) -> None:
    live = Live(tmp_path / "journal.jsonl", nodes(3))
    live.tell(0.0, ForeignPodBound("node-2", "node-2", PodShape(3)))
    live.tell(0.0, GangSubmitted(gang("runs", 2)))
    live.decide(0.0)
    live.tell(1.0, GangSubmitted(gang("waits", 2)))
    live.tell(1.0, GangSubmitted(gang("gathers", 2), 1))
    live.tell(1.0, GangSubmitted(gang("huge", 9)))
    live.tell(2.0, CheckpointSaved("runs", to_us(1.5)))
    live.tell(2.0, MemberLost("runs", 0, "node-1"))
    live.tell(2.0, GangResized("runs", live.state.gangs["runs"].gang.roles, 1))
    live.decide(2.0)
    lines = [json.loads(bytes(line)) for line in lines_of(1.0, live.state, POLICY)]
    follower = Follower()
    for entry in told(("state", line) for line in lines):
        follower.follow(entry)
    again = follower.state
    assert again.capacity.free_on_each() == live.state.capacity.free_on_each()

    def gangs(state: ClusterState) -> dict[str, tuple[object, ...]]:
        return {
            name: (g.phase, g.gang, g.held, g.missing, g.present, g.admitted_us, g.saved_us)
            for name, g in state.gangs.items()
        }

    assert gangs(again) == gangs(live.state)
    assert live.state.gangs["runs"].missing, "one that lost a rank is among them"


# -- what only a live cluster has ------------------------------------------------------------


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path / "journal.jsonl", nodes(3))


def pending(run: RunResult) -> dict[tuple[str, str], float]:
    """Return mean pending seconds of a pod by job and reason, where there are any."""
    return {
        (row["job"], str(reason)): row[f"pending_{reason}_s"]
        for row in run.jobs.to_dict("records")
        for reason in REASONS
        if row[f"pending_{reason}_s"] > 0
    }


def test_members_impossible_and_withdrawn_gangs(live: Live) -> None:
    live.tell(1.0, GangSubmitted(gang("slow", 2), 1))
    live.tell(1.0, GangSubmitted(gang("huge", 4)))
    live.decide(1.0)
    live.tell(4.0, GangCancelled("slow"))  # as the ledger tells a change: gone and there again
    live.tell(4.0, GangSubmitted(gang("slow", 2), 2))
    live.decide(4.0)
    live.tell(5.0, GangSubmitted(gang("second", 2)))
    live.decide(5.0)
    live.tell(9.0, GangCancelled("second"))
    live.tell(9.0, GangCancelled("slow"))
    live.decide(9.0)
    live.tell(11.0, GangSubmitted(gang("slow", 1)))
    live.decide(11.0)
    run = recorded([live.path])
    assert run.jobs[["job", "outcome"]].to_numpy().tolist() == [
        ["slow", "completed"],
        ["huge", "never_fits"],
        ["second", "cancelled"],
        ["slow (run 2)", "unfinished"],
    ]
    assert pending(run) == {
        ("slow", "members"): 1.5,  # one pod of two waited 3 s for the other
        ("huge", "never_fits"): 10.0,
        ("second", "capacity"): 4.0,
    }
    assert run.summary["outcomes"]["never_fits"] == 1
    assert run.jobs["unmet"].tolist() == [
        "",
        "needs 4 pods of 8 GPUs; empty, the 3 nodes that it may use hold 3",
        "",
        "",
    ]
    assert run.jobs["short_gpus_s"].tolist() == [0, 0, 4, 0]
    built = scene(None, [live.path], 100.0)
    assert [one.name for one in built.gangs] == ["huge", "slow", "slow (run 2)"]
    assert (built.num_left_out, built.num_assumed) == (1, 2)


def test_a_gang_that_loses_a_rank_is_one_job_and_its_rank_waits_with_it(live: Live) -> None:
    """Its pod is gone with the node, comes again 5 s later, and gets a node when another ends."""
    live.tell(0.0, GangSubmitted(gang("a", 2, submit_s=0.0)))
    live.tell(0.0, GangSubmitted(gang("b", 1, submit_s=0.0)))
    live.decide(0.0)
    roles = live.state.gangs["a"].gang.roles
    live.tell(10.0, MemberLost("a", 0, "node-1"))
    live.tell(10.0, GangResized("a", roles, 1))
    live.tell(10.0, NodeCordoned("node-1"))
    live.tell(15.0, MemberAppeared("a"))
    assert live.decide(15.0) == []
    state = live.write_state(17.0)
    live.tell(20.0, GangCancelled("b"))
    assert live.decide(20.0) == ["a"]
    live.tell(30.0, GangCancelled("a"))
    run = recorded([live.path])
    job = run.jobs.set_index("job").loc["a"]
    assert (job["start_s"], job["end_s"], job["attempts"], job["num_pods"]) == (0, 30, 1, 2)
    assert job["held_gpu_s"] == 8 * (10 + 30 + 10)
    assert pending(run) == {("a", "capacity"): 2.5}, "one of two pods waited from 15 s to 20 s"
    built = scene(state, [], 1.0)
    assert [each.name for each in built.gangs] == ["a", "b", "a (missing)"]
    assert [each.num_pods for each in built.gangs] == [1, 1, 1]


def test_what_never_fitted_is_told_so_though_its_pods_went_one_by_one(live: Live) -> None:
    live.tell(1.0, GangSubmitted(gang("huge", 4)))
    live.decide(1.0)
    live.tell(6.0, GangCancelled("huge"))
    live.tell(6.0, GangSubmitted(gang("huge", 4), 3))
    live.decide(6.0)
    live.tell(7.0, GangCancelled("huge"))
    live.decide(7.0)
    run = recorded([live.path])
    assert run.jobs["outcome"].tolist() == ["never_fits"]


def test_gpus_of_no_use_are_unavailable(live: Live) -> None:
    live.tell(1.0, GangSubmitted(gang("a", 1)))
    live.decide(1.0)
    live.tell(2.0, ForeignPodBound("node-1", "node-1", PodShape(3)))
    live.tell(3.0, NodeCordoned("node-1"))
    live.tell(4.0, NodeAdded(Node("node-9", EIGHT)))
    live.decide(5.0)
    run = recorded([live.path])
    table = run.allocation.set_index("time_s")
    assert table["allocated_gpus"].tolist() == [0, 8, 8, 8, 8]
    assert table["unavailable_gpus"].tolist() == [8, 8, 11, 16, 8]
    assert (run.manifest["num_nodes"], run.manifest["num_gpus"]) == (4, 32)
    held = run.nodes.set_index("node")["allocated_gpu_s"]
    assert held.to_dict() == {"node-0": 32.0, "node-1": 0.0, "node-2": 0.0, "node-9": 0.0}


@pytest.mark.parametrize("zero_is_told", [True, False])
def test_a_muster_that_began_anew_goes_on_with_the_story(live: Live, zero_is_told: bool) -> None:
    if zero_is_told:
        live.path.unlink()
        live.begin(0.0, nodes(3), zero_unix_s=1000.0)
    a, b = gang("a", 3, submit_s=1.0), gang("b", 1, submit_s=2.0)
    live.tell(1.0, GangSubmitted(a))
    live.decide(1.0)
    live.tell(2.0, GangSubmitted(b))
    live.decide(2.0)
    held = live.state.gangs["a"].held
    rotated = live.path.rename(live.path.with_name("journal.jsonl.1"))
    live.begin(0.5, nodes(3), **({"zero_unix_s": 1005.0} if zero_is_told else {}))
    live.tell(0.5, GangSubmitted(a._replace(submit_us=to_us(-4.0))))
    live.tell(0.5, Admitted("a", held, to_us(0.5), FOREVER_US))
    live.tell(0.5, GangSubmitted(b._replace(submit_us=to_us(-3.0))))
    live.decide(0.5)
    live.tell(3.5, GangCancelled("a"))
    live.decide(3.5)
    run = recorded([rotated, live.path])
    between_s = 3.5 if zero_is_told else 0.0  # without its zero, a new life follows at once
    assert run.jobs["job"].tolist() == ["a", "b"]
    assert run.jobs["attempts"].tolist() == [1, 1]
    assert run.jobs["start_s"].tolist() == [1.0, 5.0 + between_s]
    assert pending(run) == {("b", "capacity"): 3.0 + between_s}
    if zero_is_told:
        with pytest.raises(ValueError, match=r"time goes back .* the oldest first"):
            recorded([live.path, rotated])


def test_selectors_mean_what_they_meant_when_they_were_written(live: Live) -> None:
    """Classes get new names when a pod tells nodes apart; the simulator has one name for each."""
    live.tell(1.0, GangSubmitted(gang("anywhere", 1)))
    live.decide(1.0)
    live.tell(2.0, GangCancelled("anywhere"))
    live.decide(2.0)
    split = [Node("node-0", EIGHT, "class1"), *nodes(3, "class0")[1:]]
    live.begin(3.0, split)
    live.tell(3.0, GangSubmitted(gang("first", 1, selector=Selector("class1"))))
    live.decide(3.0)
    live.tell(4.0, GangSubmitted(gang("other", 2, selector=Selector("class0"))))
    live.tell(4.0, GangSubmitted(gang("too", 1, selector=Selector("class1"))))
    live.decide(4.0)
    built = scene(None, [live.path], 10.0)
    run = resume(built, RunConfig(), "journal")
    started = run.jobs.set_index("job")["start_s"]
    assert started.to_dict() == {"anywhere": 1.0, "first": 3.0, "other": 4.0, "too": 13.0}


def test_what_runs_holds_its_nodes_for_its_walltime_or_as_assumed(live: Live) -> None:
    live.tell(1.0, GangSubmitted(gang("timed", 1, walltime_s=10.0)))
    live.tell(1.0, GangSubmitted(gang("open", 1)))
    live.decide(1.0)
    live.tell(2.0, GangSubmitted(gang("waits", 3, walltime_s=5.0, submit_s=2.0)))
    live.tell(2.0, GangSubmitted(gang("gathers", 3), 1))
    live.decide(2.0)
    built = scene(live.write_state(4.0), [], 30.0)
    assert [one.left_s for one in built.held] == [7.0, 30.0]
    assert (built.num_assumed, built.num_left_out) == (1, 1)
    assert built.sentence() == (
        "2 gangs run, 1 waits, 0 arrive later; 1 run for an assumed time; "
        "1 left out (pods missing, or taken back)"
    )
    run = resume(built, RunConfig(), "state.json")
    jobs = run.jobs.set_index("job")
    assert jobs["start_s"].to_dict() == {"timed": 0.0, "open": 0.0, "waits": 30.0}
    assert jobs["end_s"].to_dict() == {"timed": 7.0, "open": 30.0, "waits": 35.0}
    assert jobs.loc["timed", "submit_s"] < 0, "it did not wait in this run"
    plane = resume(built, RunConfig(control_plane=planes.load("kubernetes")), "state.json")
    held = plane.jobs.set_index("job").loc["timed"]
    assert held[[f"pending_{reason}_s" for reason in REASONS]].sum() == 0


# -- the command line ------------------------------------------------------------------------


@pytest.fixture
def busy(live: Live) -> Path:
    jobs = pd.DataFrame(
        {
            "job": [f"j{i}" for i in range(6)],
            "submit_s": [0.0, 1.0, 1.0, 2.0, 40.0, 41.0],
            "duration_s": 20.0,
            "walltime_s": 30.0,
            "num_pods": [2, 3, 1, 2, 3, 1],
            "gpus_per_pod": 8,
        }
    )
    live.play(jobs, 10.0)
    return live.path


def test_report_reads_a_journal(
    busy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    for _ in range(2):  # again into the same folder
        assert invoke(["report", str(busy), "--out", str(out)]) == 0
    text = (out / "report.md").read_text()
    assert text.startswith("# journal on 3 nodes, live\n\nRecorded on a live cluster by muster")
    assert re.search(r"capacity \d+ %", text) and "First in the queue is gang j1" in text
    assert "admission gang, order fifo" in text and "checkpoint" not in text
    assert RunResult.load(out / "live").manifest["is_live"]
    simulated = tmp_path / "simulated"
    assert invoke(["run", "--journal", str(busy), "--out", str(simulated), "--no-report"]) == 0
    assert invoke(["report", str(simulated), str(busy), "--out", str(tmp_path / "both")]) == 0
    text = (tmp_path / "both" / "report.md").read_text()
    assert "Recorded on a live cluster, and simulated, by muster" in text
    capsys.readouterr()


def test_report_has_the_layout_of_a_simulated_one(busy: Path, tmp_path: Path) -> None:
    folder = recorded([busy]).save(tmp_path / "live")
    jobs = pd.read_parquet(folder / "jobs.parquet")[["job", "submit_s", "num_pods", "gpus_per_pod"]]
    simulated = sim.run(jobs.assign(duration_s=20.0), nodes=3).save(tmp_path / "simulated")
    files = [
        sorted(
            path.name.replace("live", "X").replace("journal", "W")
            for path in build_report([one], tmp_path / f"report-{one.name}").parent.rglob("*.*")
        )
        for one in (folder, simulated)
    ]
    assert len(files[0]) == len(files[1]) > 10
    tables = [pd.read_parquet(tmp_path / f"report-{n}/tables/episodes.parquet") for n in
              ("live", "simulated")]  # fmt: skip
    assert list(tables[0]) == list(tables[1])


def test_run_takes_a_snapshot_and_the_policy_it_had(
    busy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["run", "--snapshot", str(busy.with_name("state.json")), "--out", str(out)]
    assert invoke([*arguments, "--backfill", "easy", "--audit"]) == 0
    assert "1 gang runs, 3 wait, 0 arrive later" in capsys.readouterr().out
    run = RunResult.load(out)
    assert run.config.policy == PolicySpec("fifo", "easy")
    assert (out / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--jobs", "x.csv", "--journal", "J"], "leave out --jobs, --nodes and --cluster"),
        (["--journal", "J", "--nodes", "3"], "leave out --jobs, --nodes and --cluster"),
        (["--journal", "J", "--admission", "pod"], "leave out --admission"),
        (["--journal", "J", "--assumed-hours", "0"], "--assumed-hours is 0.0"),
        (["--journal", "none.jsonl"], "'none.jsonl': no such file"),
        (["--snapshot", "J"], "the answer of muster's /state"),
        ([], "give --jobs FILE, or --snapshot or --journal"),
    ],
)
def test_wrong_arguments_are_one_line(
    busy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    text: str,
) -> None:
    given = [str(busy) if argument == "J" else argument for argument in arguments]
    assert invoke(["run", *given, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_a_state_without_lines_says_so(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"zero_unix_s": 1.0, "now_s": 2.0, "nodes": [], "gangs": []}')
    with pytest.raises(ValueError, match=r"has no 'lines'; give the answer of /state"):
        scene(path, [], 1.0)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (b"", "the journal is empty"),
        (b"not json\n", r"journal\.jsonl:1: not a journal line"),
        (b'{"t": 1}\n', r"journal\.jsonl:1: not a journal line"),
        (b'{"t":1,"is":"Considered","v":{}}\n', "a journal begins with a snapshot"),
        (b'{"t":1,"is":"Snapshot","format":1}\n', r"jsonl:1: not a journal line: .*`policy`"),
        (
            b'{"t":1,"is":"Snapshot","format":9,"policy":{},"nodes":[]}\n',
            "format 9 is unknown to this version, which reads 1 to 4",
        ),
        (
            b'{"t":1,"is":"Snapshot","format":1,"policy":{},"nodes":[]}\n',
            "policy of the snapshot lacks 'order'",
        ),
        (
            b'{"t":1,"is":"Snapshot","format":1,"policy":{},"nodes":[{"name":3}]}\n',
            "nodes of the snapshot",
        ),
    ],
)
def test_what_is_no_journal_is_refused(tmp_path: Path, lines: bytes, text: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(lines)
    with pytest.raises(ValueError, match=text):
        recorded([path])


def test_a_journal_of_format_1_counts_memory_in_mib_and_no_pods(tmp_path: Path) -> None:
    policy = '{"order":"fifo","discipline":"strict","backfill":"none","placement":"pack"}'
    role = '{"count":2,"pod":[8,1000,2048],"selector":["",""],"name":"worker"}'
    gang = f'["g",[{role}],0.0,"inf",0,"",0,0]'
    node = '{"name":"n0","capacity":[8,4000,65536],"pool":"","gpu_model":""}'
    more = node.replace("n0", "n1")
    path = tmp_path / "journal.jsonl"
    path.write_text(
        f'{{"t":0,"is":"Snapshot","format":1,"policy":{policy},"nodes":[{node}]}}\n'
        f'{{"t":1,"is":"NodeAdded","v":{{"node":{more}}}}}\n'
        f'{{"t":1,"is":"GangSubmitted","v":{{"gang":{gang},"present":null}}}}\n'
        '{"t":2,"is":"Admitted","v":{"gang":"g","placement":[[0,0,2,1]],"now_s":2.0,'
        '"expected_end_s":"inf"}}\n'
    )
    follower = Follower()
    for entry in read([path]):
        follower.follow(entry)
    shape = follower.state.gangs["g"].gang.roles[0].pod
    assert shape == PodShape(8, 1000, 2 << 30)
    assert follower.state.capacity.free_on_each() == [PodShape(0, 3000, 62 << 30)] * 2


def test_lines_that_do_not_follow_name_their_place(live: Live) -> None:
    with pytest.raises(ValueError, match="no gang in 1 line; nothing to report"):
        recorded([live.path])
    live.write(journals.encode(1.0, GangCancelled("ghost")))
    with pytest.raises(ValueError, match=r"jsonl:2: gang 'ghost' is unknown.*the oldest first"):
        recorded([live.path])
    live.path.unlink()
    live.begin(5.0, nodes(1))
    live.write(b'{"t":2.0,"is":"Considered","v":{}}')
    with pytest.raises(ValueError, match=r"jsonl:2: time goes back by 3\.000 s"):
        list(read([live.path]))
    live.write(b'{"t":7.0,"is":"Nonsense","v":{}}')
    with pytest.raises(ValueError, match=r"jsonl:2"):
        recorded([live.path])
