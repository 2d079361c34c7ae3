"""What goes wrong says what, where and how on, and never hangs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.conftest import START_S, Run, events, final_digest
from trainer.local import Gang

pytestmark = [pytest.mark.slow, pytest.mark.torch]
Make = Callable[..., Run]


def committed(out: Path) -> list[int]:
    return sorted(int(p.parent.name[5:]) for p in out.glob("checkpoints/step_*/.metadata"))


def test_sigterm_on_one_rank_stops_all_after_the_same_step(run: Make) -> None:
    stopped = run(steps=100_000)
    ranks = stopped.start(4)
    ranks.wait_step(stopped.out, 5, START_S)
    os.kill(ranks.pids[2], signal.SIGTERM)
    assert ranks.wait(START_S) == [143] * 4
    ends = [events(stopped.out, rank, "exit")[-1] for rank in range(4)]
    assert {end["reason"] for end in ends} == {"preempted"}
    assert {end["committed_step"] for end in ends} == {ends[0]["step"]}
    assert committed(stopped.out)[-1] == ends[0]["step"]
    (signalled,) = events(stopped.out, 2, "stop_signal")
    assert signalled["signum"] == signal.SIGTERM
    assert not events(stopped.out, 1, "stop_signal")
    assert len({end["state_sha256"] for end in ends}) == 1


VOTES = """
import sys, time
import torch
from trainer.config import CheckpointConfig, RunConfig
from trainer.session import Session

saves = CheckpointConfig(every_s=0.5, mode="sync", keep=100)
config = RunConfig(out=sys.argv[1], device="cpu", checkpoint=saves, log_every=5)
with Session(config) as session:
    model = session.parallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in session.steps(model, optimizer, until=100_000):
        time.sleep(0.01 if session.launch.rank else 0.03)  # its part of a step, not the whole
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
"""


def test_ranks_of_different_speed_save_by_the_clock_and_stop_together(tmp_path: Path) -> None:
    script, out = tmp_path / "votes.py", tmp_path / "out"
    script.write_text(VOTES, "utf-8")
    with Gang(out, 2, [str(script), str(out)]) as gang:
        gang.start()
        gang.wait_step(100, START_S)
        gang.pods[1].signal(signal.SIGTERM)
        assert all(gang.wait(START_S))
    ends = [events(out, rank, "exit")[-1] for rank in range(2)]
    assert {end["reason"] for end in ends} == {"preempted"}
    assert {end["committed_step"] for end in ends} == {ends[0]["step"]}
    saved = [one["step"] for one in events(out, 0, "save_committed")]
    assert saved == committed(out)
    assert len(saved) >= 3, "100 steps take some three seconds"


def test_a_checkpoint_of_another_model_is_named(run: Make) -> None:
    first = run(steps=2)
    assert first.start(1).wait(START_S) == [0]
    other = first.start(1, {"steps": 4, "gpt.width": 64})
    assert other.wait(START_S) == [1]
    assert "step_00000002' is of another model: 'blocks.0.attention_norm.bias' is [32]" in (
        other.text()
    )
    assert "there and [64] here; use the config of that run, or another folder" in (other.text())


def test_a_checkpoint_of_another_number_of_ranks_needs_leave(run: Make) -> None:
    resized = run(steps=2)
    assert resized.start(2).wait(START_S) == [0, 0]
    alone = resized.start(1, {"steps": 4})
    assert alone.wait(START_S) == [1]
    assert "was saved by 2 ranks, this gang has 1; start 2 ranks, or set checkpoint.resize" in (
        alone.text()
    )
    allowed = resized.start(1, {"steps": 4, "checkpoint.resize": True})
    assert allowed.wait(START_S) == [0]
    assert events(resized.out, 0, "restore")[-1]["from_step"] == 2


@pytest.mark.parametrize("name", ["__0_0.distcp", "index.json", ".metadata"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run: Make, name: str) -> None:
    straight = run("straight", steps=9)
    assert straight.start(2).wait(START_S) == [0, 0]

    damaged = run("damaged", **{"checkpoint.every_steps": 3, "checkpoint.keep": 3})
    assert damaged.start(2, {"steps": 6}).wait(START_S) == [0, 0]
    file = damaged.out / "checkpoints" / "step_00000006" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x40
    file.write_bytes(data)
    again = damaged.start(2, {"steps": 9})
    assert again.wait(START_S) == [0, 0]
    assert (
        f"step_00000006': {name} has changed since it was written; using the one before"
        in again.text()
    )
    assert events(damaged.out, 0, "restore")[-1]["from_step"] == 3
    assert (damaged.out / "checkpoints" / "step_00000006.damaged").is_dir()
    assert final_digest(damaged.out, 2) == final_digest(straight.out, 2)


HOSTILE = """
import pickle, sys, pathlib

class Runs:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(sys.argv[2]),))

pathlib.Path(sys.argv[1]).write_bytes(pickle.dumps(Runs()))
"""


def test_a_checkpoint_of_somebody_runs_nothing(run: Make, tmp_path: Path) -> None:
    """Its pickled index is not read; without our own it is refused, and stays."""
    given = run(**{"checkpoint.every_steps": 2, "checkpoint.keep": 3})
    assert given.start(1, {"steps": 4}).wait(START_S) == [0]
    folder, ran = given.out / "checkpoints" / "step_00000004", tmp_path / "it ran"
    hostile = [sys.executable, "-c", HOSTILE, str(folder / ".metadata"), str(ran)]
    subprocess.run(hostile, check=True)
    for sums in folder.glob("checksums_*"):
        sums.unlink()
    assert given.start(1, {"steps": 5}).wait(START_S) == [0]
    assert events(given.out, 0, "restore")[-1]["from_step"] == 4
    newest = given.out / "checkpoints" / "step_00000005"
    for name in ("index.json", "checksums_0.json"):
        (newest / name).unlink()
    subprocess.run([*hostile[:-2], str(newest / ".metadata"), str(ran)], check=True)
    refused = given.start(1, {"steps": 6})
    assert refused.wait(START_S) == [1]
    text = refused.text()
    assert "step_00000005' has no index.json" in text
    assert "if you trust it: python -m trainer.index" in text
    assert newest.is_dir()
    assert not ran.exists()


def test_a_checkpoint_of_torch_can_be_given_an_index(run: Make) -> None:
    given = run(**{"checkpoint.every_steps": 2})
    assert given.start(1, {"steps": 4}).wait(START_S) == [0]
    folder = given.out / "checkpoints" / "step_00000004"
    whole = (folder / "index.json").read_bytes()
    for name in ("index.json", "checksums_0.json"):
        (folder / name).unlink()
    subprocess.run([sys.executable, "-m", "trainer.index", str(folder)], check=True)
    assert (folder / "index.json").read_bytes() == whole
    assert given.start(1, {"steps": 5}).wait(START_S) == [0]
    assert events(given.out, 0, "restore")[-1]["from_step"] == 4


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ('"__0_0.distcp"', '"../../../secret"'),
        ('"float32"', '"load"'),
        ('"begin":0', '"begin":-1'),
        ('"version":1', '"version":' + "[" * 2000 + "]" * 2000),
    ],
)
def test_an_index_that_cannot_be_gives_way_to_the_checkpoint_before(
    run: Make, was: str, is_now: str
) -> None:
    given = run(**{"checkpoint.every_steps": 2, "checkpoint.keep": 3})
    assert given.start(1, {"steps": 4}).wait(START_S) == [0]
    folder = given.out / "checkpoints" / "step_00000004"
    text = (folder / "index.json").read_text("utf-8")
    assert was in text
    (folder / "index.json").write_text(text.replace(was, is_now), "utf-8")
    (folder / "checksums_0.json").unlink()
    again = given.start(1, {"steps": 5})
    assert again.wait(START_S) == [0]
    assert "index.json: " in again.text()
    assert events(given.out, 0, "restore")[-1]["from_step"] == 2


def test_a_cut_file_is_noticed_without_checksums(run: Make) -> None:
    cut = run(**{"checkpoint.every_steps": 2, "checkpoint.keep": 3})
    assert cut.start(2, {"steps": 4}).wait(START_S) == [0, 0]
    folder = cut.out / "checkpoints" / "step_00000004"
    for sums in folder.glob("checksums_*"):
        sums.unlink()
    with (folder / "__1_0.distcp").open("r+b") as file:
        file.truncate(1000)
    again = cut.start(2, {"steps": 5})
    assert again.wait(START_S) == [0, 0]
    assert "using the one before" in again.text()
    assert events(cut.out, 0, "restore")[-1]["from_step"] == 2


def test_a_full_disk_stops_no_training_but_says_so(run: Make) -> None:
    full = run(steps=6, **{"gpt.width": 128, "checkpoint.every_steps": 2})
    ranks = full.start(2, max_file_bytes=300_000)
    assert ranks.wait(START_S) == [1, 1]
    failed = events(full.out, 0, "save_failed")
    assert [one["step"] for one in failed] == [2, 4, 6]
    assert re.search(r"step_00000002': rank \d: .*, with [\d,]+ MB free there", failed[0]["error"])
    assert events(full.out, 0, "exit")[-1]["step"] == 6
    assert "the newest saved step is 0; make room there, or lower checkpoint.keep" in ranks.text()
    assert "OSError: the state after step 6 is not saved" in ranks.text()
    assert committed(full.out) == []
    assert full.start(2).wait(START_S) == [0, 0]
    assert committed(full.out)[-1] == 6


def test_a_batch_that_does_not_divide_ends_all_ranks(run: Make) -> None:
    ranks = run(steps=2, global_batch=9).start(2)
    assert ranks.wait(START_S) == [1, 1]
    assert "global_batch = 9 is not a multiple of 2 ranks x micro_batch = 2" in ranks.text()


def test_a_rank_that_hangs_is_left_after_the_timeout(run: Make) -> None:
    hung = run(steps=100_000, **{"health.step_timeout_s": 3.0})
    ranks = hung.start(2)
    ranks.wait_step(hung.out, 3, START_S)
    os.kill(ranks.pids[1], signal.SIGSTOP)
    began_s = time.monotonic()
    while not events(hung.out, 0, "exit"):
        assert time.monotonic() < began_s + START_S, ranks.text()
        time.sleep(0.01)
    (end,) = events(hung.out, 0, "exit")
    assert end["reason"] == "failed"
    assert 2.5 < end["t_mono_s"] - began_s < 20.0
    os.kill(ranks.pids[1], signal.SIGCONT)  # its own watchdog, or the lost peer, ends it
    assert ranks.wait(START_S) == [1, 1]


def test_a_gang_that_stays_incomplete_names_what_it_waited_for(run: Make) -> None:
    settings = {"health.first_step_timeout_s": 2.0}
    ranks = run(**settings).start(1, env={"WORLD_SIZE": "2"})
    assert ranks.wait(START_S) == [1]
    assert "not all of WORLD_SIZE=2 ranks reached MASTER_ADDR=127.0.0.1" in ranks.text()


def test_a_run_that_is_done_is_not_done_again(run: Make) -> None:
    done = run(steps=3)
    assert done.start(2).wait(START_S) == [0, 0]
    assert done.start(2).wait(START_S) == [0, 0]
    assert len(events(done.out, 0, "first_step")) == 1
    assert events(done.out, 0, "exit")[-1]["committed_step"] == 3
    assert final_digest(done.out, 2) == events(done.out, 0, "exit")[0]["state_sha256"]


def test_async_saves_are_logged_and_pruned(run: Make) -> None:
    saved = run(steps=12, **{"checkpoint.every_steps": 2, "checkpoint.keep": 2})
    assert saved.start(2).wait(START_S) == [0, 0]
    staged = events(saved.out, 0, "save_staged")
    assert [one["mode"] for one in staged] == ["async"] * 5 + ["sync"]
    assert [one["step"] for one in events(saved.out, 0, "save_committed")] == [2, 4, 6, 8, 10, 12]
    assert committed(saved.out) == [10, 12]


FAILS = """
import atexit, sys, time
import torch
from trainer.config import RunConfig
from trainer.session import Session

with Session(RunConfig(out=sys.argv[1], device="cpu")) as session:
    model = session.parallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in session.steps(model, optimizer, until=1000):
        if step == 2 and session.launch.rank == 1:
            atexit.register(time.sleep, 3600)  # a very slow way out
            raise RuntimeError("enough")
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
"""


def test_a_rank_that_fails_ends_at_once_however_slow_its_way_out(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(FAILS, "utf-8")
    with Gang(tmp_path / "out", 2, [str(script), str(tmp_path / "out")]) as gang:
        gang.start()
        until_s = time.monotonic() + START_S
        while None in gang.exit_codes():
            assert time.monotonic() < until_s, gang.tail()
            time.sleep(0.05)
        assert gang.exit_codes() == [1, 1]
    told = (tmp_path / "out" / "pods" / "attempt_1_pod_1.log").read_text("utf-8")
    assert "RuntimeError: enough" in told
    (end,) = events(tmp_path / "out", 1, "exit")
    assert (end["reason"], end["step"]) == ("failed", 2)


def test_a_loop_that_is_left_early_is_a_failure_that_says_so(tmp_path: Path) -> None:
    script, out = tmp_path / "breaks.py", tmp_path / "out"
    script.write_text(FAILS.replace("if step == 2 and session.launch.rank == 1:", "if step == 2:")
                      .replace('raise RuntimeError("enough")', "break"), "utf-8")  # fmt: skip
    with Gang(out, 2, [str(script), str(out)]) as gang:
        gang.start()
        assert gang.wait(START_S) == [1, 1]
    told = (out / "pods" / "attempt_1_pod_1.log").read_text("utf-8")
    assert "RuntimeError: the loop over steps was left after step 2, before its end" in told
    assert {events(out, rank, "exit")[-1]["reason"] for rank in range(2)} == {"failed"}
