"""Pods with torchrun in them, started as an operator would."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.conftest import SHUTDOWN_S, START_S, events, final_digest, sets
from trainer.local import TRAIN, Fault, Gang, supervise

pytestmark = [pytest.mark.slow, pytest.mark.torch]
Make = Callable[..., Gang]
LAUNCH_SH = TRAIN.with_name("launch.sh")


def test_the_literal_command_trains_in_two_pods(gang: Make) -> None:
    pods = gang(2, settings={"steps": 5})
    pods.start()
    assert pods.wait(START_S) == [0, 0]
    assert events(pods.out, 0, "exit")[-1]["step"] == 5
    final_digest(pods.out, 2)
    (start,) = events(pods.out, 1, "process_start")
    assert start["launcher_s"] > 0.1


def test_the_literal_command_runs_the_ten_line_demo(gang: Make, tmp_path: Path) -> None:
    script = [
        str(TRAIN.with_name("toy.py")),
        *sets({"out": str(tmp_path / "gang"), "digest": True}),
    ]
    pods = gang(2, script)
    pods.start()
    assert pods.wait(START_S) == [0, 0]
    assert events(pods.out, 1, "exit")[-1]["step"] == 100
    final_digest(pods.out, 2)


def test_sigterm_to_one_pod_ends_both_soon(gang: Make) -> None:
    """Plain torchrun keeps the other pod for the 300 s of its exit barrier."""
    pods = gang(2, settings={"steps": 100_000, "model": "toy"})
    pods.start()
    pods.wait_step(5, START_S)
    pods.pods[1].signal(signal.SIGTERM)
    began_s = time.monotonic()
    assert all(pods.wait(60.0))
    took_s = time.monotonic() - began_s
    assert took_s < SHUTDOWN_S / 2, "what manifests give a pod to stop leaves room for real steps"
    ends = [events(pods.out, rank, "exit")[-1] for rank in range(2)]
    assert {end["reason"] for end in ends} == {"preempted"}
    assert ends[0]["committed_step"] == ends[1]["committed_step"] == ends[0]["step"]


def test_launch_sh_takes_pet_variables_alone(gang: Make) -> None:
    def command(_: object, script: list[str]) -> list[str]:
        gone = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        return ["env", *(f"-u{name}" for name in gone), str(LAUNCH_SH), *script]

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    pods = gang(1, settings={"steps": 3}, command=command, env={"PATH": path}, procs=2)
    pods.start()
    assert pods.wait(START_S) == [0]
    assert events(pods.out, 1, "exit")[-1]["reason"] == "finished"


def test_a_pod_without_its_peer_gives_up_in_time(gang: Make) -> None:
    pods = gang(2, env={"PET_RDZV_CONF": "timeout=5"})
    pods.start(pods=[0])
    assert pods.wait(START_S) == [1]
    assert "1/2 clients joined" in pods.tail(lines=200)


def test_a_failed_gang_starts_anew_as_a_whole(gang: Make) -> None:
    # a synchronous save is committed before the next step, so the kill finds one
    settings = {"steps": 400, "checkpoint.every_steps": 5, "checkpoint.mode": "sync"}
    pods = gang(2, settings=settings)
    faults = [Fault("kill", 8, rank=1), Fault("preempt", 200)]
    news = [one for one in supervise(pods, faults) if one]
    assert news[1] == "kill -9 of rank 1 at step 8"
    assert news[-1] == "attempt 3: all pods succeeded"
    restores = [one["from_step"] for one in events(pods.out, 0, "restore")]
    assert 5 <= restores[0] < 200
    assert restores[0] % 5 == 0
    assert restores[1] >= 200
    assert [one["reason"] for one in events(pods.out, 0, "exit")] == [
        "failed",
        "preempted",
        "finished",
    ]


def test_nothing_is_left_behind(gang: Make) -> None:
    pods = gang(2, settings={"steps": 100_000, "model": "toy"})
    pods.start()
    pods.wait_step(3, START_S, rank=1)
    kept = list(pods.pods)
    assert [len(pod.descendants()) for pod in kept] == [1, 1]
    pods.end()
    assert [pod.descendants() for pod in kept] == [[], []]
    assert None not in [pod.exit_code for pod in kept]


def test_a_gang_that_cannot_start_is_given_up(gang: Make) -> None:
    pods = gang(1, settings={"steps": 3, "global_batch": 7})
    with pytest.raises(RuntimeError, match=r"by itself(.|\n)*global_batch = 7 is not"):
        list(supervise(pods, backoff_limit=0))
