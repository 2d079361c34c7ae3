"""What a training script needs around its own step to be stopped, resumed and measured well.

    with Session(RunConfig(out="/shared/run")) as session:
        model = session.parallel(MyModel())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in session.steps(model, optimizer, until=1000):
            ...  # forward, backward, optimizer.step(), as always

`with` opens the goodput log and joins the process group; `steps` restores the newest checkpoint,
then after every step lets all ranks agree on stopping and saving; leaving the block ends together:
0 finished, 143 stopped by SIGTERM with its state saved, anything else failed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from trainer import health
from trainer.checkpoint import Checkpointer, best_interval_s, digest
from trainer.config import RunConfig
from trainer.goodput import GoodputLog
from trainer.launch import Launch
from trainer.meter import Meter
from trainer.order import stream_seed
from trainer.preempt import STOPPED, StopFlag, Votes

TERMINATION_LOG = Path("/dev/termination-log")  #: Kubernetes shows what is written here


class Session:
    """One rank's part in one attempt of a run."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        self.launch = Launch.from_env(os.environ)
        self.stop = StopFlag()
        self._heartbeat: health.Heartbeat | None = None
        self._is_measured = False  #: what a save costs
        self._reason = "failed"
        self._in_steps = False
        self._ending: dict[str, Any] = {}  #: more fields of the exit event

    # -- begin

    def __enter__(self) -> Self:
        launch, config = self.launch, self.config
        self.log = GoodputLog(self.out / "goodput", config.run_id, launch.rank)
        try:
            self._join()
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def _join(self) -> None:
        self.log.start(world_size=self.launch.world_size)
        self.device = self._device()
        if self.config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        torch.manual_seed(stream_seed(self.config.seed, "weights"))
        timeout = timedelta(seconds=self.config.health.first_step_timeout_s)
        store = self._meet(timeout)
        self.log.mark("rendezvous_done")
        backend = "gloo"
        if self.device.type == "cuda":  # saves run on the CPU, beside the step's collectives
            health.prepare_nccl()
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=store,
            rank=self.launch.rank,
            world_size=self.launch.world_size,
            timeout=timeout,
        )
        self._control = dist.new_group(backend="gloo", timeout=timeout)
        saving = dist.new_group(backend="gloo", timeout=timeout)
        attempt = torch.tensor([self.log.own_attempt])
        dist.broadcast(attempt, src=0, group=self._control)
        self.log.agree(int(attempt))
        self.log.mark("pg_ready", world_size=self.launch.world_size, backend=backend)
        self._watchdog = health.Watchdog([None, self._control, saving])
        self._watchdog.allow(self.config.health.first_step_timeout_s)
        self._checkpoints = Checkpointer(
            self.out / "checkpoints", saving, self.config.checkpoint, self.log
        )

    def _device(self) -> Any:
        wanted, found = self.config.device, torch.cuda.is_available()
        if wanted == "cpu" or (wanted == "auto" and not found):
            return torch.device("cpu")
        count = torch.cuda.device_count() if found else 0
        if self.launch.local_rank >= count:
            raise ValueError(
                f"LOCAL_RANK={self.launch.local_rank} needs its own GPU, but this pod has "
                f"{count}; lower the processes per pod, or set device = 'cpu'"
            )
        device = torch.device("cuda", self.launch.local_rank)
        torch.cuda.set_device(device)
        return device

    def _meet(self, timeout: timedelta) -> Any:
        """Return the store at which all ranks have arrived.

        Raises:
            TimeoutError: names the ranks that are missing.
        """
        if self.launch.alone:
            return dist.HashStore()
        ranks = range(self.launch.world_size)
        store = None
        try:
            store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
            store.set(f"met/{self.launch.rank}", b"here")
            store.wait([f"met/{rank}" for rank in ranks], timeout)
        except dist.DistError as error:
            missing = [rank for rank in ranks if store and not store.check([f"met/{rank}"])]
            raise TimeoutError(
                f"not all of WORLD_SIZE={len(ranks)} ranks reached "
                f"MASTER_ADDR={self.launch.master_addr} MASTER_PORT={self.launch.master_port} "
                "within health.first_step_timeout_s = "
                f"{timeout.total_seconds():g}{f'; missing: {missing[:8]}' if missing else ''}: "
                f"{_one_line(error)}"
            ) from error
        return store

    # -- train

    def parallel(self, model: Any, *, compiled: bool = False) -> Any:
        """Move a model to this rank's device and average its gradients over all ranks."""
        model = model.to(self.device)
        if compiled:
            model = torch.compile(model)
        on_gpu = self.device.type == "cuda"
        return torch.nn.parallel.DistributedDataParallel(
            model, device_ids=[self.device.index] if on_gpu else None
        )

    def steps(
        self,
        model: Any,
        optimizer: Any,
        until: int,
        *,
        rehearse: Callable[[], None] | None = None,
    ) -> Iterator[int]:
        """Yield the steps that are left to do; between them, vote, save, log and watch.

        Random numbers depend on (seed, step, rank) alone, so a resumed run draws the same ones.
        `rehearse` is called before the first step of an attempt.
        """
        self._in_steps = True
        start = self._checkpoints.restore(model, optimizer)
        self._meter = Meter(model, optimizer, self.device)
        if self.config.health.heartbeat:
            self._heartbeat = health.Heartbeat(self.out / "heartbeat", self.launch.rank)
        self._advise(self.config.checkpoint.assumed_stall_s, "assumed")
        self._last_save_s = time.monotonic()
        self.stop.install()
        votes = self._votes = Votes(self._control)
        for step in range(start, until):
            began_s = time.monotonic()
            if step == start and rehearse is not None:
                rehearse()
            self._seed_noise(step)
            votes.begin(stop=self.stop.is_set, save=self._wants_save())
            self._meter.begin()
            yield step
            self._meter.end()
            self.log.step = step + 1
            stop, save = votes.end()
            save |= self._is_due(step + 1)
            if step == start:
                self._first_step_done(began_s)
            self._alive(step + 1)
            if stop or step + 1 == until or (step + 1) % self.config.log_every == 0:
                self._log_steps()
            if stop and step + 1 < until:
                self._stop_here(step + 1)
                break
            if save and step + 1 < until:
                self._checkpoints.save(step + 1, model, optimizer)
                self._saved()
        self._checkpoints.finish(self.log.step, model, optimizer)
        if self.config.digest:
            self._ending["state_sha256"] = digest(model, optimizer)
        self._alive(self.log.step)
        dist.barrier(self._control)
        self._in_steps = False
        self._reason = "preempted" if self.log.step < until else "finished"

    def _seed_noise(self, step: int) -> None:
        """Do what torch.manual_seed does, without its search for devices that are not used."""
        seed = stream_seed(self.config.seed, "noise", step, self.launch.rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        began_s = time.monotonic()
        yield
        self._meter.data_wait_s += time.monotonic() - began_s

    def note(self, *, tokens: int = 0, flops: float = 0.0, **values: Any) -> None:
        """Tell what a step did over all ranks; `values` such as loss go to the log as they are."""
        self._meter.tokens += tokens
        self._meter.flops += flops
        self._meter.values = values

    def say(self, text: str) -> None:
        """Print a line on stderr, from rank 0 only."""
        if self.launch.rank == 0:
            print(f"trainer: {text}", file=sys.stderr, flush=True)

    def _alive(self, step: int) -> None:
        self._watchdog.alive()
        if self._heartbeat is not None:
            self._heartbeat.beat(step)

    def _log_steps(self) -> None:
        """Log the steps since the last time, and name ranks that are slow."""
        meter, world_size = self._meter, self.launch.world_size
        if not meter.num_steps:
            return
        own_s, fields = meter.take(world_size)
        self._votes.step_s = fields["dur_s"] / fields["num_steps"]
        found = health.straggler_scores(own_s, world_size, self._control)
        self.log.write("steps", **fields)
        for rank, score in enumerate(found):
            if score < self.config.health.straggler_score:
                self.log.write("straggler", slow_rank=rank, score=round(score, 3))
        self.say(f"step {self.log.step}: {meter.sentence(fields)}")

    def _first_step_done(self, began_s: float) -> None:
        self._meter.take(self.launch.world_size)
        self.log.write("first_step", dur_s=time.monotonic() - began_s)
        dist.barrier(self._control)
        self._watchdog.allow(self.config.health.step_timeout_s)

    # -- stop and save

    def _stop_here(self, step: int) -> None:
        if self.stop.is_set:
            self.log.write("stop_signal", signum=self.stop.signum, **self.stop.at)
        self.log.write("stop_agreed")
        self.say(f"stopping after step {step}, because of a signal")

    def _is_due(self, step: int) -> bool:
        """Whether every rank saves after `step`, by its number."""
        every_steps = self.config.checkpoint.every_steps
        return every_steps is not None and step % every_steps == 0

    def _wants_save(self) -> bool:
        """Whether rank 0 wants a save by its clock; a vote makes it everyone's."""
        if self.launch.rank != 0 or self.config.checkpoint.every_steps is not None:
            return False
        return time.monotonic() - self._last_save_s >= self._interval_s

    def _advise(self, stall_s: float, source: str) -> None:
        """Say how often to save, and do so unless the config says otherwise."""
        config, ranks = self.config.checkpoint, self.launch.world_size
        mtbf_s = 3600.0 * config.rank_mtbf_h / ranks
        best_s = best_interval_s(stall_s, mtbf_s)
        self._interval_s = best_s if config.every_s is None else config.every_s
        if config.every_steps is not None:
            chosen = f"every {config.every_steps} steps"
        else:
            chosen = f"every {self._interval_s:,.0f} s"
        self.say(
            f"checkpoints {chosen}; Young/Daly: every {best_s:,.0f} s with a stall of "
            f"{stall_s:.3g} s ({source}) and a failure of one of {ranks} ranks every "
            f"{mtbf_s / 3600.0:,.0f} h"
        )

    def _saved(self) -> None:
        self._last_save_s = time.monotonic()
        if not self._is_measured and self._checkpoints.stall_s is not None:
            self._is_measured = True
            self._advise(self._checkpoints.stall_s, "measured")

    # -- end

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left = error is None and self._in_steps
        if left:
            error = RuntimeError(
                f"the loop over steps was left after step {self.log.step}, before its end, and "
                "nothing was saved; let it run to `until`, and give a smaller `until` to end "
                "earlier"
            )
        self._leave(error)
        if error is None:
            self._watchdog.end()
            dist.destroy_process_group()
            if self._reason == "preempted":
                # Python's own way out takes a second of this pod's GPU
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(STOPPED)
        elif not self.launch.alone:
            _end_once_told()
        if left and error is not None:
            raise error

    def _leave(self, error: BaseException | None) -> None:
        """Write how this attempt ended into the log and the pod's termination message."""
        checkpoints = getattr(self, "_checkpoints", None)
        committed = 0 if checkpoints is None else checkpoints.committed_step
        fields = {"reason": self._reason, "committed_step": committed, **self._ending}
        if error is not None:
            fields |= {"reason": "failed", "error": _one_line(error)}
        self.log.write("exit", **fields)
        if self.launch.local_rank == 0 and TERMINATION_LOG.exists():
            text = f"{fields['reason']} after step {self.log.step}, saved: step {committed}"
            try:
                TERMINATION_LOG.write_text(f"{text}; {fields.get('error', '')}".rstrip("; "))
            except OSError:
                self.say(f"{TERMINATION_LOG} cannot be written")
        self.log.close()


def _end_once_told() -> None:
    """End this process as soon as an error that nobody catches was reported.

    Python's own way out takes seconds with torch loaded, and peers that talk with this rank alone
    learn only then, from its closed connections, that it failed.
    """
    tell = sys.excepthook

    def told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        tell(kind, error, trace)
        if issubclass(kind, Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    sys.excepthook = told


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
