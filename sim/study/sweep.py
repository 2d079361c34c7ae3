"""Run many independent tasks: here in processes, or on a Dask cluster; with one progress bar."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FrameType

import joblib

from sim.study.progress import ProgressFile
from sim.study.task import Task, Work


@dataclass(frozen=True, slots=True)
class Shard:
    """This process takes the tasks `index`, `index + count`, ... of the list."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `i/n` with 0 <= i < n, as the index of a Kubernetes Indexed Job counts.

        Raises:
            ValueError: it is something else.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match and int(match[1]) < int(match[2]):
            return cls(int(match[1]), int(match[2]))
        raise ValueError(f"shard {text!r}: give i/n with i from 0 to n-1, such as 0/4")


def available_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_executor(executor: str) -> None:
    """Raise ValueError unless `executor` is local or dask:ADDRESS."""
    if executor != "local" and not (executor.startswith("dask:") and executor != "dask:"):
        raise ValueError(f"executor {executor!r}: give local or dask:ADDRESS")


def run_tasks(tasks: Sequence[Task], folder: Path, *, processes: int, executor: str) -> None:
    """Run the tasks that are not done, in the given order; workers report progress in `folder`.

    Raises:
        ValueError: a task failed because of the user's input, or the executor is unknown.
    """
    tasks = [task for task in tasks if not task.is_done()]
    if not tasks:
        return
    with _stop_on_terminate(), _backend(executor, min(processes, len(tasks))) as (workers, parent):
        calls = [joblib.delayed(perform)(task.work, folder / task.name, parent) for task in tasks]
        # Tasks are long: a worker must not take several of them at once.
        joblib.Parallel(n_jobs=workers, batch_size=1, pre_dispatch=2 * workers)(calls)
    for task in tasks:
        if not task.is_done():
            raise ValueError(
                f"{task.name} was run by a worker and its result is not here; "
                "--out must be a folder that all workers share"
            )


def perform(work: Work, report: Path, parent: int | None) -> None:
    """Run one task in this process."""
    if parent is not None:
        # Ctrl-C reaches every process of the terminal; the parent ends its workers itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _follow(parent)
    report.parent.mkdir(parents=True, exist_ok=True)
    progress = ProgressFile(report)
    try:
        work(progress)
    finally:
        progress.close()


@cache
def _follow(parent: int) -> None:
    """End this worker soon after its parent was killed; else it would wait for more work."""

    def watch() -> None:
        never = threading.Event()
        while os.getppid() == parent:
            never.wait(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


@contextmanager
def _backend(executor: str, processes: int) -> Iterator[tuple[int, int | None]]:
    """Choose where joblib runs; yield the number of workers and, for local ones, their parent."""
    if executor == "local":
        with joblib.parallel_config(backend="loky" if processes > 1 else "sequential"):
            yield processes, os.getpid() if processes > 1 else None
        return
    address = executor.removeprefix("dask:")
    try:
        distributed = import_module("distributed")
    except ImportError:
        raise ValueError(
            f"executor {executor!r} needs distributed; pip install 'muster-scheduler[dask]'"
        ) from None
    try:
        client = distributed.Client(address, timeout=20)
    except (OSError, ValueError) as error:
        raise ValueError(f"executor {executor!r}: no Dask scheduler answers ({error})") from None
    with client, joblib.parallel_config(backend="dask"):
        workers = sum(client.ncores().values())
        if not workers:
            raise ValueError(f"executor {executor!r}: the scheduler has no workers")
        yield workers, None


@contextmanager
def _stop_on_terminate() -> Iterator[None]:
    """Let SIGTERM end the process as Ctrl-C does, so that its workers end too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
