"""Checkpoints by torch.distributed.checkpoint: every rank writes its share, all commit together.

A checkpoint is a folder `step_%08d`. It is committed once `.metadata` exists, which is written
last; each rank then adds checksums of what it wrote. The newest committed checkpoint that can be
read is the one to restore. It is read by `index.json`, never by torch's pickled index.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from trainer.config import CheckpointConfig
from trainer.goodput import GoodputLog
from trainer.index import INDEX, SHARE, Planner, Reader, Writer, put
from trainer.saved import Saved

COMMITTED = ".metadata"


def best_interval_s(save_s: float, mtbf_s: float) -> float:
    """Return the time between saves that loses least; a save stalls steps for `save_s`.

    Daly's second-order optimum (Future Generation Computer Systems 22(3), 2006, eq. 37), near
    Young's sqrt(2 save_s mtbf_s) (CACM 17(9), 1974) while a save is short against the mean time
    between failures.
    """
    if save_s >= 2.0 * mtbf_s:
        return mtbf_s
    ratio = save_s / (2.0 * mtbf_s)
    young_s = math.sqrt(2.0 * save_s * mtbf_s)
    return young_s * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - save_s


class Checkpointer:
    """Saves and restores a model and its optimizer; one save is in flight at most.

    `group` is a separate gloo group: a save's collectives run in a thread beside the step's.
    """

    def __init__(self, folder: Path, group: Any, config: CheckpointConfig, log: GoodputLog) -> None:
        self.folder = folder
        self.committed_step = 0
        self.stall_s: float | None = None  #: of the last save
        self._group, self._config, self._log = group, config, log
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        pinned = torch.cuda.is_available()
        self._stager = DefaultStager(  # keeps its buffers from save to save
            StagingOptions(
                use_pinned_memory=pinned,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=pinned,
            )
        )
        self._saved = Saved.of_pod(os.environ) if self._rank == 0 else None
        self._saving: Future[Any] | None = None
        self._settled = threading.Event()  #: the save in flight has ended and was accounted for
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step_{step:08d}"

    # -- save

    def save(self, step: int, model: Any, optimizer: Any, *, mode: str | None = None) -> None:
        """Save the state after `step` steps; in mode `async` a thread does the writing.

        A failed save is reported and keeps the last committed one; see `finish` for the last save.
        """
        began_s = time.monotonic()
        self.wait()
        mode = mode or self._config.mode
        state, done_unix_s = self._state(model, optimizer), time.time()
        path, num_bytes = self.path(step), _num_bytes(state)

        def settle(saved: Future[Any]) -> None:
            try:
                self._settle(saved, step, mode, num_bytes, began_s)
                if self._saved is not None and self.committed_step == step:
                    self._saved.note(done_unix_s)
            finally:
                self._settled.set()

        if mode == "async":
            self._saving = dcp.async_save(
                state,
                checkpoint_id=path,
                storage_writer=Writer(path),
                process_group=self._group,
                async_stager=self._stager,
            )
        else:
            self._saving = Future()
            try:
                self._saving.set_result(
                    dcp.save(
                        state,
                        checkpoint_id=path,
                        storage_writer=Writer(path),
                        process_group=self._group,
                    )
                )
            except dcp.CheckpointException as error:
                self._saving.set_exception(error)
        self.stall_s = time.monotonic() - began_s
        self._log.write("save_staged", step=step, stall_s=self.stall_s, bytes=num_bytes, mode=mode)
        self._settled.clear()
        self._saving.add_done_callback(settle)
        if mode == "sync":
            self.wait()

    def finish(self, step: int, model: Any, optimizer: Any) -> None:
        """Make sure that the state after `step` steps is committed before returning.

        Raises:
            OSError: it could not be written.
        """
        self.wait()
        if self.committed_step < step:
            self.save(step, model, optimizer, mode="sync")
        if self.committed_step < step:
            raise OSError(
                f"the state after step {step} is not saved in {str(self.folder)!r}, the last "
                f"committed one is of step {self.committed_step}; see above for the cause"
            )

    def wait(self) -> None:
        """Wait for the save in flight."""
        if self._saving is not None:
            self._settled.wait()  # later than the end of the future, whose callbacks follow it
            self._saving = None

    def _settle(
        self, saved: Future[Any], step: int, mode: str, num_bytes: int, began_s: float
    ) -> None:
        """Note a commit or a failure; runs in the thread of an asynchronous save."""
        path = self.path(step)
        error = saved.exception()
        if error is not None:
            # torch tells a full disk only as a position that it did not expect
            free_mb = shutil.disk_usage(self.folder).free / 1e6
            text = f"checkpoint {str(path)!r}: {_cause(error)}, with {free_mb:,.0f} MB free there"
            self._log.write("save_failed", step=step, error=text)
            if self._rank == 0:
                shutil.rmtree(path, ignore_errors=True)
                _say(
                    f"{text}; the newest saved step is {self.committed_step}; make room there, or "
                    f"lower checkpoint.keep = {self._config.keep}"
                )
            return
        self.committed_step = step
        self._log.write(
            "save_committed",
            step=step,
            dur_s=time.monotonic() - began_s,
            bytes=num_bytes,
            mode=mode,
        )
        try:
            self._write_checksums(path)
            if self._rank == 0:
                self.prune()
        except OSError as problem:  # neither is needed to restore
            _say(
                f"checkpoint {str(path)!r}: {problem.strerror}: checksums are missing or "
                "out of date"
            )

    def _write_checksums(self, path: Path) -> None:
        own = sorted(path.glob(f"__{self._rank}_*"))
        own += [path / INDEX, path / COMMITTED] if self._rank == 0 else []
        sums = {file.name: _checksum(file) for file in own}
        # half of it would make the whole checkpoint one that is damaged
        put(path / f"checksums_{self._rank}.json", json.dumps(sums).encode())

    def prune(self) -> None:
        """Remove all but the newest committed checkpoints, and older unfinished saves."""
        committed = self.committed()
        kept = committed[-self._config.keep :]
        for path in self.folder.glob("step_*"):
            step = _step_of(path)
            if step is not None and step not in kept and (committed and step < committed[-1]):
                shutil.rmtree(path, ignore_errors=True)

    # -- restore

    def committed(self) -> list[int]:
        """Return the steps of committed checkpoints, the newest last."""
        steps = (_step_of(path.parent) for path in self.folder.glob(f"step_*/{COMMITTED}"))
        return sorted(step for step in steps if step is not None)

    def restore(self, model: Any, optimizer: Any) -> int:
        """Load the newest committed checkpoint that can be read; return its step, 0 without any.

        One that cannot be read is renamed to `step_*.damaged`, and the one before is used.

        Raises:
            ValueError: it has another model or number of ranks, or only a pickled index.
        """
        began_s = time.monotonic()
        found = [self.committed() if self._rank == 0 else None]
        dist.broadcast_object_list(found, src=0, group=self._group)
        for step in reversed(found[0] or []):
            state = self._state(model, optimizer)
            problem = self._load(step, state)
            if problem is None:
                set_state_dict(
                    model,
                    optimizer,
                    model_state_dict=state["model"],
                    optim_state_dict=state["optimizer"],
                )
                self.committed_step = step
                self._log.step = step
                took_s = time.monotonic() - began_s
                size = _num_bytes(state)
                self._log.write("restore", from_step=step, bytes=size, dur_s=took_s)
                break
            if self._rank == 0:
                _say(f"checkpoint {str(self.path(step))!r}: {problem}; using the one before")
                aside = self.path(step).with_suffix(".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                self.path(step).rename(aside)
        if self._rank == 0:
            self._remove_uncommitted()
        dist.barrier(self._group)
        return self.committed_step

    def _load(self, step: int, state: dict[str, Any]) -> str | None:
        """Fill `state` from a checkpoint; return on all ranks why that is not possible."""
        path = self.path(step)
        if self._agree(None if (path / INDEX).is_file() else INDEX) is not None:
            raise ValueError(
                f"checkpoint {str(path)!r} has no {INDEX}: an earlier version or another program "
                "wrote it, with an index that is a pickle. Reading a pickle runs the code in "
                f"it; if you trust it: python -m trainer.index {path}"
            )
        problem = self._agree(self._damage(path))
        if problem is not None:
            return problem
        reader = Reader(path)
        try:
            metadata = reader.read_metadata()
        except ValueError as error:
            problem = str(error)
        if (problem := self._agree(problem)) is not None:
            return problem
        try:
            self._check_world(path, reader)
            _check_model(path, metadata, state["model"])
            dcp.load(state, storage_reader=reader, planner=Planner(), process_group=self._group)
        except dcp.CheckpointException as error:
            problem = _cause(error)
        return self._agree(problem)

    def _damage(self, path: Path) -> str | None:
        """Compare this rank's share of the files with their checksums."""
        sums: dict[str, list[int]] = {}
        try:
            for file in sorted(path.glob("checksums_*.json")):
                sums |= json.loads(file.read_text(encoding="utf-8"))
            for at, (name, expected) in enumerate(sorted(sums.items())):
                if not (SHARE.fullmatch(name) or name in (INDEX, COMMITTED)):
                    return f"{name!r} is not a file of a checkpoint"
                if at % self._world_size == self._rank and _checksum(path / name) != expected:
                    return f"{name} has changed since it was written"
        except (OSError, ValueError, TypeError, RecursionError) as error:
            return f"{error}"
        return None

    def _agree(self, problem: str | None) -> str | None:
        """Return the first rank's problem, the same on all ranks."""
        problems: list[str | None] = [None] * self._world_size
        dist.all_gather_object(problems, problem, group=self._group)
        return next((one for one in problems if one is not None), None)

    def _check_world(self, path: Path, reader: Any) -> None:
        saved = {"world_size": torch.zeros(1, dtype=torch.int64)}
        dcp.load(
            {"run": saved},
            storage_reader=reader,
            planner=Planner(),
            process_group=self._group,
        )
        ranks = int(saved["world_size"])
        if ranks != self._world_size and not self._config.resize:
            raise ValueError(
                f"checkpoint {str(path)!r} was saved by {ranks} ranks, this gang has "
                f"{self._world_size}; start {ranks} ranks, or set checkpoint.resize = true: the "
                "order of the data stays the same, the last bits of the result change"
            )

    def _state(self, model: Any, optimizer: Any) -> dict[str, Any]:
        of_model, of_optimizer = get_state_dict(model, optimizer)
        run = {"world_size": torch.tensor([self._world_size], dtype=torch.int64)}
        return {"model": of_model, "optimizer": of_optimizer, "run": run}

    def _remove_uncommitted(self) -> None:
        committed = self.committed()
        for path in self.folder.glob("step_*"):
            step = _step_of(path)
            if step is not None and step not in committed:
                _say(f"checkpoint {str(path)!r}: its save was interrupted; removed")
                shutil.rmtree(path, ignore_errors=True)


def digest(model: Any, optimizer: Any) -> str:
    """Return the SHA-256 of all parameters, buffers and optimizer state, by name."""
    of_model, of_optimizer = get_state_dict(model, optimizer)
    sha = hashlib.sha256()
    for name, value in sorted(_leaves({"model": of_model, "optimizer": of_optimizer})):
        sha.update(name.encode())
        if isinstance(value, torch.Tensor):
            data = value.detach().cpu().contiguous()
            sha.update(f"{data.dtype}{list(data.shape)}".encode())
            sha.update(ctypes.string_at(data.data_ptr(), data.numel() * data.element_size()))
        else:
            sha.update(repr(value).encode())
    return sha.hexdigest()


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of everything in nested dicts and lists."""
    if isinstance(tree, dict):
        parts = list(tree.items())
    elif isinstance(tree, list):
        parts = list(enumerate(tree))
    else:
        yield name, tree
        return
    for key, value in parts:
        yield from _leaves(value, f"{name}.{key}")


def _check_model(path: Path, metadata: Any, model: dict[str, Any]) -> None:
    """Compare names and shapes of parameters and buffers."""
    saved = {
        name.removeprefix("model."): list(entry.size)
        for name, entry in metadata.state_dict_metadata.items()
        if name.startswith("model.") and hasattr(entry, "size")
    }
    ours = {name: list(entry.shape) for name, entry in model.items()}
    for name in sorted(saved.keys() | ours.keys()):
        if saved.get(name) != ours.get(name):
            raise ValueError(
                f"checkpoint {str(path)!r} is of another model: {name!r} is "
                f"{saved.get(name, 'absent')} there and {ours.get(name, 'absent')} here; use the "
                "config of that run, or another folder `out`"
            )


def _step_of(path: Path) -> int | None:
    digits = path.name.removeprefix("step_")
    return int(digits) if digits.isdecimal() else None


def _num_bytes(state: dict[str, Any]) -> int:
    tensors = [value for _, value in _leaves(state) if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _checksum(path: Path) -> list[int]:
    """Return size and CRC-32 of a file."""
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _cause(error: BaseException) -> str:
    """Return the first rank's own error in one line."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (inner, _) = min(failures.items())
        return f"rank {rank}: {_cause(inner)}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _say(text: str) -> None:
    print(f"trainer: {text}", file=sys.stderr, flush=True)
