"""A run that is stopped, killed and resumed ends in the very bits of one that was not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.conftest import START_S, Run, events, final_digest
from tests.trainer.forking import Ranks

pytestmark = [pytest.mark.slow, pytest.mark.torch]
Make = Callable[..., Run]
#: big enough that writing a checkpoint takes a while, so that a kill can come in between
SETTINGS = {"steps": 24, "gpt.width": 256, "gpt.layers": 2, "checkpoint.every_steps": 4}


def cut_off_a_save(run: Run, ranks: Ranks) -> Path:
    """Kill -9 all ranks while a checkpoint is being written; return its uncommitted folder."""
    folder = run.out / "checkpoints"
    seen = set(folder.glob("step_*"))
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        for path in set(folder.glob("step_*")) - seen:
            os.kill(ranks.pids[1], signal.SIGSTOP)  # a commit needs all ranks
            time.sleep(0.3)
            committed = (path / ".metadata").exists()
            if not committed:
                ranks.kill()
                return path
            os.kill(ranks.pids[1], signal.SIGCONT)
            seen.add(path)
    raise AssertionError("no save could be caught before its commit")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_run_stopped_three_times_ends_in_the_same_bits(
    run: Make, ranks: int, precision: str
) -> None:
    settings = SETTINGS | {"precision": precision}
    straight = run("straight", **settings)
    assert straight.start(ranks).wait(START_S) == [0] * ranks

    cut = run("cut", **settings)
    first = cut.start(ranks)
    first.wait_step(cut.out, 3, START_S)
    os.kill(first.pids[1], signal.SIGTERM)
    assert first.wait(START_S) == [143] * ranks

    second = cut.start(ranks)
    second.wait_step(cut.out, 9, START_S)
    os.kill(second.pids[1], signal.SIGKILL)
    assert second.wait(START_S) == [1, -signal.SIGKILL, *[1] * (ranks - 2)]

    third = cut.start(ranks)
    uncommitted = cut_off_a_save(cut, third)
    assert uncommitted.is_dir()
    assert not (uncommitted / ".metadata").exists()

    last = cut.start(ranks)
    assert last.wait(START_S) == [0] * ranks
    assert f"{str(uncommitted)!r}: its save was interrupted; removed" in last.text()
    assert [one["attempt"] for one in events(cut.out, kind="process_start")] == [1, 2, 3, 4]
    assert len(events(cut.out, kind="restore")) == 3
    assert final_digest(cut.out, ranks) == final_digest(straight.out, ranks)
