"""A gang on one machine: each pod is a separate launcher on the loopback interface.

Pods get exactly the variables that PyTorchJob v1 injects and run the literal launch command. As its
controller would, `Gang` restarts all pods after one failed. Nothing here needs torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

TRAIN = Path(__file__).resolve().parent / "train.py"
PR_SET_PDEATHSIG = 1
POLL_S = 0.01
#: what the pods of deploy/trainer set besides; a gang that stays incomplete ends after this time
RENDEZVOUS = {"PET_RDZV_CONF": "timeout=60"}


def free_port() -> int:
    """Return a port that the system says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def operator_env(
    num_pods: int, pod_rank: int, port: int, procs: int | None = None
) -> dict[str, str]:
    """Return what PyTorchJob v1 (training-operator 1.9) injects into a pod.

    `procs` is nprocPerNode; without it the operator's default, auto.
    """
    return {
        "PYTHONUNBUFFERED": "1",
        "MASTER_PORT": str(port),
        "PET_MASTER_PORT": str(port),
        "MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": str(num_pods * (procs or 1)),
        "RANK": str(pod_rank),
        "PET_NODE_RANK": str(pod_rank),
        "PET_NPROC_PER_NODE": "auto" if procs is None else str(procs),
        "PET_NNODES": str(num_pods),
    }


def literal_command(env: Mapping[str, str], script: Sequence[str]) -> list[str]:
    """Return the command of a PyTorchJob's pod, with its variables filled in."""
    # fmt: off
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1",
        "--nnodes", env["WORLD_SIZE"], "--node_rank", env["RANK"],
        "--master_addr", env["MASTER_ADDR"], "--master_port", env["MASTER_PORT"],
        *script,
    ]
    # fmt: on


def own_env(threads: int) -> dict[str, str]:
    """Return this process's environment without another launch in it."""
    gone = ("PET_", "TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_", "LOCAL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(gone)}
    kept.pop("RANK", None)
    kept.pop("WORLD_SIZE", None)
    return {"OMP_NUM_THREADS": str(threads)} | kept


@dataclass
class PodProcess:
    """One pod: a launcher in a session of its own, and the processes below it."""

    pod_rank: int
    process: subprocess.Popen[bytes]
    log: Path
    _known: dict[int, int] = field(default_factory=dict)  #: pid to start time of what it started

    @classmethod
    def start(
        cls, pod_rank: int, command: list[str], env: Mapping[str, str], log: Path
    ) -> PodProcess:
        """Start a launcher; it is told to stop if this process dies."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        return cls(pod_rank, process, log)

    @property
    def exit_code(self) -> int | None:
        """How the launcher ended, or None while it runs."""
        return self.process.poll()

    def descendants(self) -> list[int]:
        """Return the processes below the launcher that run, the deepest last."""
        for pid in _below(self.process.pid):
            self._known.setdefault(pid, _started(pid) or 0)
        return [pid for pid, started in self._known.items() if _started(pid) == started]

    def signal(self, signum: int) -> None:
        """Send a signal to the launcher, as a kubelet does to a container's first process."""
        self.descendants()
        if self.exit_code is None:
            self.process.send_signal(signum)

    def kill_all(self) -> None:
        """End the launcher and all below it at once, as when a container is removed."""
        found = self.descendants()
        self.signal(signal.SIGKILL)
        self.process.wait()
        for pid in reversed(found):
            _kill(pid)
        while any(_started(pid) == self._known[pid] for pid in found):
            time.sleep(POLL_S)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _below(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [one for child in map(int, children) for one in (child, *_below(child))]


def _started(pid: int) -> int | None:
    """Return when a process started, which tells it from a later one of the same number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(fields[18])


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something to do to a gang once a rank has done so many steps."""

    kind: Literal["kill", "preempt"]  #: kill -9 of one rank, or SIGTERM to every pod
    at_step: int
    rank: int = 0

    def __str__(self) -> str:
        what = f"kill -9 of rank {self.rank}" if self.kind == "kill" else "preemption"
        return f"{what} at step {self.at_step}"


@dataclass(frozen=True, slots=True)
class Beat:
    """The process of a rank, and the steps it has done."""

    pid: int
    step: int


class Gang:
    """All pods of one job; use as a context, so that nothing is left running.

    `script` is what the literal command ends with; `command` may make another from a pod's
    variables, and `env` adds to them. `procs` is nprocPerNode.
    """

    def __init__(
        self,
        out: Path,
        ranks: int,
        script: Sequence[str],
        *,
        command: Callable[[Mapping[str, str], Sequence[str]], list[str]] = literal_command,
        env: Mapping[str, str] | None = None,
        procs: int | None = None,
    ) -> None:
        self.out, self.ranks, self.attempt = out, ranks, 0
        self.pods: list[PodProcess] = []
        self._script, self._command, self._procs = list(script), command, procs
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ranks
        self._env = own_env(max(1, cores // ranks)) | dict(env or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, pods: Sequence[int] | None = None) -> None:
        """Start an attempt: all pods, or only some; what is left of the last one is ended."""
        self.end()
        self.attempt += 1
        port = free_port()
        for rank in range(self.ranks) if pods is None else pods:
            env = RENDEZVOUS | self._env | operator_env(self.ranks, rank, port, self._procs)
            log = self.out / "pods" / f"attempt_{self.attempt}_pod_{rank}.log"
            command = self._command(env, self._script)
            self.pods.append(PodProcess.start(rank, command, env, log))

    def beat(self, rank: int) -> Beat | None:
        """Return what a rank of this attempt last said, None before its first step."""
        pod = next((one for one in self.pods if one.pod_rank == rank), None)
        try:
            text = (self.out / "heartbeat" / f"rank_{rank:05d}").read_text(encoding="ascii")
            pid, step = map(int, text.split())
        except (OSError, ValueError):
            return None
        own = pod is not None and _parent(pid) == pod.process.pid
        return Beat(pid, step) if own else None

    def exit_codes(self) -> list[int | None]:
        """Return how each pod ended; None for those that run."""
        return [pod.exit_code for pod in self.pods]

    def wait(self, timeout_s: float) -> list[int]:
        """Return the exit codes once all pods have ended.

        Raises:
            TimeoutError: some still run.
        """
        self._until(lambda: None not in self.exit_codes(), timeout_s, "end")
        return [code for code in self.exit_codes() if code is not None]

    def wait_step(self, step: int, timeout_s: float, rank: int = 0) -> Beat:
        """Return what a rank says once it has done so many steps."""

        def reached() -> bool:
            beat = self.beat(rank)
            if beat is None and None not in self.exit_codes():
                raise RuntimeError(f"the gang ended before step {step}:\n{self.tail()}")
            return beat is not None and beat.step >= step

        self._until(reached, timeout_s, f"come to step {step}")
        beat = self.beat(rank)
        assert beat is not None
        return beat

    def _until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        until_s = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > until_s:
                raise TimeoutError(f"the gang did not {what} in {timeout_s:g} s:\n{self.tail()}")
            time.sleep(POLL_S)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines that each pod of this attempt wrote."""
        return "\n".join(
            f"--- {pod.log}\n" + "\n".join(pod.log.read_text("utf-8").splitlines()[-lines:])
            for pod in self.pods
        )

    def signal(self, signum: int) -> None:
        """Send a signal to all pods."""
        for pod in self.pods:
            pod.signal(signum)

    def end(self, grace_s: float = 0.0) -> None:
        """End all pods: SIGTERM first if there is grace, then kill what is left."""
        if grace_s > 0:
            self.signal(signal.SIGTERM)
            with suppress(TimeoutError):
                self.wait(grace_s)
        for pod in self.pods:
            pod.kill_all()
        self.pods.clear()


def supervise(
    gang: Gang,
    faults: Sequence[Fault] = (),
    *,
    grace_s: float = 60.0,
    backoff_limit: int = 3,
) -> Iterator[str | None]:
    """Run a gang to its end as its controller would: after a failure all pods start anew.

    Yields a sentence when something happened and None between, some times a second. Ends once all
    pods succeeded.

    Raises:
        RuntimeError: it failed more often than `backoff_limit` without anybody's doing.
    """
    left, own_failures = list(faults), 0
    last: Fault | None = None  #: of this attempt
    gang.start()
    yield f"attempt 1 starts {gang.ranks} pods"
    while True:
        struck = _strike(gang, left)
        if struck is not None:
            left.remove(struck)
            last = struck
            yield str(struck)
        codes = gang.exit_codes()
        if all(code == 0 for code in codes):
            for late in filter(None, [last, *left]):
                yield f"{late} came too late: the gang had already finished; give an earlier step"
            yield f"attempt {gang.attempt}: all pods succeeded"
            return
        if any(codes):
            yield f"attempt {gang.attempt}: a pod failed"
            yield from _drain(gang, grace_s)
            caused = len(faults) - len(left)
            own_failures = gang.attempt - caused
            if own_failures > backoff_limit:
                raise RuntimeError(
                    f"the gang failed {own_failures} times by itself; the last output of its "
                    f"pods:\n{gang.tail()}"
                )
            gang.start()
            last = None
            yield f"attempt {gang.attempt} starts {gang.ranks} pods"
        time.sleep(POLL_S)
        yield None


def _strike(gang: Gang, faults: Sequence[Fault]) -> Fault | None:
    """Carry out the first fault whose step has come."""
    for fault in faults:
        beat = gang.beat(fault.rank)
        if beat is None or beat.step < fault.at_step:
            continue
        if fault.kind == "kill":
            _kill(beat.pid)
        else:
            gang.signal(signal.SIGTERM)
        return fault
    return None


def _drain(gang: Gang, grace_s: float) -> Iterator[None]:
    """Wait for the other pods of a failed gang; those that stay are told to stop, then killed."""
    until_s = time.monotonic() + grace_s
    while None in gang.exit_codes() and time.monotonic() < until_s:
        time.sleep(POLL_S)
        yield None
    for pod in gang.pods:
        pod.kill_all()


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])
