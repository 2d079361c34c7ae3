"""A run that is stopped, killed and resumed ends in the very bits of one that was not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.conftest import START_S, events, final_digest
from trainer.local import Gang

pytestmark = [pytest.mark.slow, pytest.mark.torch]
Make = Callable[..., Gang]
STEPS = 24
#: big enough that writing a checkpoint takes a while, so that a kill can come in between
SETTINGS = {"steps": STEPS, "gpt.width": 256, "gpt.layers": 2, "checkpoint.every_steps": 4}


def cut_off_a_save(gang: Gang) -> Path:
    """Kill -9 a rank while a checkpoint is being written; return its uncommitted folder."""
    folder = gang.out / "checkpoints"
    seen = set(folder.glob("step_*"))
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        beat = gang.beat(1)
        for path in set(folder.glob("step_*")) - seen:
            if beat is None or (path / ".metadata").exists():
                continue
            os.kill(beat.pid, signal.SIGSTOP)  # a stopped rank cannot take part in a commit
            time.sleep(0.2)
            committed = (path / ".metadata").exists()
            os.kill(beat.pid, signal.SIGCONT if committed else signal.SIGKILL)
            if not committed:
                return path
            seen.add(path)
    raise AssertionError("no save could be caught before its commit")


@pytest.mark.parametrize(("ranks", "precision"), [(2, "float32"), (4, "bf16")])
def test_a_run_stopped_three_times_ends_in_the_same_bits(
    gang: Make, ranks: int, precision: str
) -> None:
    settings = SETTINGS | {"precision": precision}
    straight = gang(ranks, "straight", settings=settings)
    straight.start()
    assert straight.wait(START_S) == [0] * ranks

    cut = gang(ranks, "cut", settings=settings)
    cut.start()
    cut.wait_step(3, START_S)
    cut.pods[1].signal(signal.SIGTERM)
    assert all(cut.wait(START_S))
    assert events(cut.out, 0, "exit")[-1]["reason"] == "preempted"

    cut.start()
    os.kill(cut.wait_step(9, START_S, rank=1).pid, signal.SIGKILL)
    assert all(cut.wait(START_S))

    cut.start()
    uncommitted = cut_off_a_save(cut)
    assert all(cut.wait(START_S))
    assert not (uncommitted / ".metadata").exists()

    cut.start()
    assert cut.wait(START_S) == [0] * ranks
    assert "its save was cut off; removed" in cut.tail(lines=100)
    assert [one["attempt"] for one in events(cut.out, 0, "process_start")] == [1, 2, 3, 4]
    assert len(events(cut.out, 0, "restore")) == 3
    assert final_digest(cut.out, ranks) == final_digest(straight.out, ranks)
