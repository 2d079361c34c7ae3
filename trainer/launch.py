"""Reads a process's place in the gang from the environment; the only reader of these variables.

Before the launcher, RANK and WORLD_SIZE count pods (PyTorchJob v1) and PET_* say the same
(Trainer v2). In a process that the launcher started, RANK and WORLD_SIZE count processes.
`python -m trainer.launch` checks a pod's variables and then becomes its launcher.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WAY_OUT = (
    "PyTorchJob v1 sets MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK, Trainer v2 sets PET_*; "
    "start this in a pod of one of them, or with `muster train` on one machine"
)
DEFAULT_MODULE = "trainer.train"


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the gang, as its operator describes it to the launcher."""

    num_pods: int
    pod_rank: int
    procs_per_pod: int
    master_addr: str
    master_port: int

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Pod:
        """Read PET_* where present, else v1's variables.

        Raises:
            ValueError: a variable is missing or invalid; names it, its value and the fix.
        """
        procs = _procs_per_pod(env)
        if "PET_NNODES" in env:
            num_pods = _count(env, "PET_NNODES")
        else:  # v1 counts processes: replicas x nprocPerNode
            processes = _count(env, "WORLD_SIZE")
            if processes % procs:
                raise ValueError(
                    f"WORLD_SIZE={processes} is not a multiple of PET_NPROC_PER_NODE={procs}; "
                    "WORLD_SIZE is replicas x nprocPerNode"
                )
            num_pods = processes // procs
        rank_name = "PET_NODE_RANK" if env.get("PET_NODE_RANK") else "RANK"
        pod_rank = _index(env, rank_name, num_pods, "pods")
        addr = _text(env, "PET_MASTER_ADDR" if env.get("PET_MASTER_ADDR") else "MASTER_ADDR")
        port_name = "PET_MASTER_PORT" if env.get("PET_MASTER_PORT") else "MASTER_PORT"
        return cls(num_pods, pod_rank, procs, addr, _port(env, port_name))

    def check_literal(self, env: Mapping[str, str]) -> None:
        """Refuse variables with which `--nproc_per_node 1 --nnodes $WORLD_SIZE` would hang."""
        processes = _count(env, "WORLD_SIZE")
        _index(env, "RANK", processes, "pods")
        if processes != self.num_pods or self.procs_per_pod > 1:
            raise ValueError(
                f"WORLD_SIZE={processes} counts processes, but there are {self.num_pods} pods of "
                f"PET_NPROC_PER_NODE={self.procs_per_pod}: `--nproc_per_node 1 --nnodes "
                "$WORLD_SIZE` would wait for pods that do not exist; set nprocPerNode to 1, or "
                "start trainer/launch.sh"
            )

    def command(self, script: list[str], *, rendezvous_s: int, shutdown_s: int) -> list[str]:
        """Return the launcher's command line; one attempt, because the gang restarts as a whole."""
        # fmt: off
        return [
            sys.executable, "-m", "torch.distributed.run",
            "--nproc_per_node", str(self.procs_per_pod),
            "--nnodes", str(self.num_pods),
            "--node_rank", str(self.pod_rank),
            "--master_addr", self.master_addr,
            "--master_port", str(self.master_port),
            "--max_restarts", "0",
            "--rdzv_conf", f"timeout={rendezvous_s}",
            "--shutdown_timeout", str(shutdown_s),
            *(script if script[:1] and script[0].endswith(".py") else ["-m", *script]),
        ]
        # fmt: on


@dataclass(frozen=True, slots=True)
class Launch:
    """One process of the gang."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_addr: str
    master_port: int
    alone: bool = False  #: started without a launcher: a gang of one

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Launch:
        """Read torchrun's variables; without any of them, a gang of one.

        Raises:
            ValueError: as `Pod.from_env`.
        """
        if not any(env.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "PET_NNODES")):
            return cls(0, 1, 0, 1, "127.0.0.1", 0, alone=True)
        addr, port = _text(env, "MASTER_ADDR"), _port(env, "MASTER_PORT")
        world_size = _count(env, "WORLD_SIZE")
        rank = _index(env, "RANK", world_size, "processes")
        if world_size > 1 and not env.get("LOCAL_RANK"):
            raise ValueError(
                "LOCAL_RANK is not set: this process was started by the pod, not by a launcher; "
                "start it with `python -m torch.distributed.run ...` or trainer/launch.sh"
            )
        local_world_size = _count(env, "LOCAL_WORLD_SIZE") if env.get("LOCAL_WORLD_SIZE") else 1
        local_rank = _index(env, "LOCAL_RANK", local_world_size, "processes of this pod")
        return cls(rank, world_size, local_rank, local_world_size, addr, port)


def _text(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise ValueError(f"{name} is not set: {WAY_OUT}")
    return value


def _int(env: Mapping[str, str], name: str) -> int:
    value = _text(env, name)
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name}={value!r} is not a whole number: {WAY_OUT}") from None


def _count(env: Mapping[str, str], name: str) -> int:
    value = _int(env, name)
    if value < 1:
        raise ValueError(f"{name}={value}: a gang has at least 1: {WAY_OUT}")
    return value


def _index(env: Mapping[str, str], name: str, of: int, what: str) -> int:
    value = _int(env, name) if env.get(name) or name != "LOCAL_RANK" else 0
    if not 0 <= value < of:
        raise ValueError(
            f"{name}={value} with {of} {what}: it counts from 0 to {of - 1}; replicas and "
            "WORLD_SIZE (PET_NNODES) of the pods disagree"
        )
    return value


def _port(env: Mapping[str, str], name: str) -> int:
    value = _int(env, name)
    if not 0 < value < 65536:
        raise ValueError(f"{name}={value} is not a port: give 1 to 65535")
    return value


def _procs_per_pod(env: Mapping[str, str]) -> int:
    value = env.get("PET_NPROC_PER_NODE", "").strip() or "1"
    if value in ("auto", "gpu"):  # v1's default; its WORLD_SIZE then counts one process per pod
        return max(1, len(list(Path("/dev").glob("nvidia[0-9]*"))))
    if value == "cpu":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return _count({"PET_NPROC_PER_NODE": value}, "PET_NPROC_PER_NODE")


def main() -> None:
    """Check this pod's variables, then become its launcher; bad ones exit with one line and 2."""
    parser = argparse.ArgumentParser(prog="trainer.launch", description=__doc__)
    parser.add_argument(
        "--check-literal",
        action="store_true",
        help="only check, for `--nproc_per_node 1 --nnodes $WORLD_SIZE`",
    )
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT.py|MODULE [ARGS]")
    given = parser.parse_args()
    try:
        pod = Pod.from_env(os.environ)
        if given.check_literal:
            pod.check_literal(os.environ)
            return
        command = pod.command(
            given.script or [DEFAULT_MODULE],
            rendezvous_s=_count(
                {"RENDEZVOUS_TIMEOUT_S": "300", **os.environ}, "RENDEZVOUS_TIMEOUT_S"
            ),
            shutdown_s=_count({"SHUTDOWN_TIMEOUT_S": "60", **os.environ}, "SHUTDOWN_TIMEOUT_S"),
        )
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
