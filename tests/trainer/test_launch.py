"""From a pod's environment to a place in the gang."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trainer.launch import Launch, Pod
from trainer.local import literal_command, operator_env

V1 = operator_env(4, 2, 23456)
V2 = {
    "PET_NNODES": "4",
    "PET_NPROC_PER_NODE": "2",
    "PET_NODE_RANK": "3",
    "PET_MASTER_ADDR": "job-node-0-0.job",
    "PET_MASTER_PORT": "29500",
}
WORKER = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_pytorchjob_v1_names_pods() -> None:
    assert Pod.from_env(V1) == Pod(4, 2, 1, "127.0.0.1", 23456)


def test_v1_counts_processes_in_world_size() -> None:
    env = operator_env(4, 2, 23456, procs=2)
    assert env["WORLD_SIZE"] == "8"
    assert Pod.from_env(env) == Pod(4, 2, 2, "127.0.0.1", 23456)
    del env["PET_NNODES"]  # operators before 1.7
    assert Pod.from_env(env).num_pods == 4


def test_trainer_v2_brings_only_pet_variables() -> None:
    assert Pod.from_env(V2) == Pod(4, 3, 2, "job-node-0-0.job", 29500)


def test_a_launchers_process_knows_its_rank() -> None:
    assert Launch.from_env(WORKER) == Launch(3, 4, 1, 2, "127.0.0.1", 29500)


def test_without_a_launch_it_is_a_gang_of_one() -> None:
    launch = Launch.from_env({"PATH": "/bin"})
    assert (launch.world_size, launch.alone) == (1, True)


@pytest.mark.parametrize(
    ("env", "change", "message"),
    [
        (V1, {"MASTER_ADDR": None, "PET_MASTER_ADDR": None}, "MASTER_ADDR is not set: PyTorchJob"),
        (V1, {"PET_NNODES": None, "WORLD_SIZE": "four"}, "WORLD_SIZE='four' is not a whole number"),
        (V1, {"PET_NNODES": "1:4"}, "PET_NNODES='1:4' is not a whole number"),
        (V1, {"PET_NODE_RANK": None, "RANK": "4"}, "RANK=4 with 4 pods: it counts from 0 to 3"),
        (V1, {"PET_MASTER_PORT": "70000"}, "PET_MASTER_PORT=70000 is not a port"),
        (V2, {"PET_NODE_RANK": "4"}, "PET_NODE_RANK=4 with 4 pods"),
        (V2, {"PET_NPROC_PER_NODE": "two"}, "PET_NPROC_PER_NODE='two' is not a whole number"),
        (
            V1,
            {"PET_NNODES": None, "PET_NPROC_PER_NODE": "3"},
            "WORLD_SIZE=4 is not a multiple of PET_NPROC_PER_NODE=3",
        ),
    ],
)
def test_bad_pods_are_named(
    env: dict[str, str], change: dict[str, str | None], message: str
) -> None:
    changed = {name: value for name, value in (env | change).items() if value is not None}
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Pod.from_env(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE='x' is not a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: a gang has at least 1"),
        ({"RANK": "4"}, "RANK=4 with 4 processes: it counts from 0 to 3"),
        ({"LOCAL_RANK": None}, "LOCAL_RANK is not set: this process was started by the pod"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
    ],
)
def test_bad_processes_are_named(change: dict[str, str | None], message: str) -> None:
    changed = {name: value for name, value in (WORKER | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Launch.from_env(changed)


def test_the_literal_command_with_two_processes_per_pod_is_refused() -> None:
    env = operator_env(4, 2, 23456, procs=2)
    with pytest.raises(ValueError, match="would wait for pods that do not exist; set nprocPerNode"):
        Pod.from_env(env).check_literal(env)
    Pod.from_env(V1).check_literal(V1)


def test_the_check_ends_a_pod_at_once_with_one_line() -> None:
    command = [sys.executable, "-m", "trainer.launch", "--check-literal"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()}
    good = subprocess.run(command, env=env | V1, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    bad = subprocess.run(
        command, env=env | V1 | {"RANK": "9"}, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("trainer.launch: RANK=9 with 4 pods")
    assert len(bad.stderr.splitlines()) == 1


def test_the_literal_command_is_as_people_write_it() -> None:
    words = literal_command(V1, ["your_training_script.py"])[1:]
    assert " ".join(words) == (
        "-m torch.distributed.run --nproc_per_node 1 --nnodes 4 --node_rank 2 "
        "--master_addr 127.0.0.1 --master_port 23456 your_training_script.py"
    )
