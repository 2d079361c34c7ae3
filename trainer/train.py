"""Trains a byte-level GPT, or the toy network, on every rank of a gang.

Join the gang, build the model, restore the newest checkpoint, then for each step: take this rank's
samples, forward and backward in micro-batches, clip, update. `Session` does what is between.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when run by path

import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record

from trainer import corpus
from trainer.config import TrainConfig, from_command_line
from trainer.model import Gpt, flops_per_token, loss_of
from trainer.order import sample_ids, stream_seed
from trainer.session import Session
from trainer.toy import ToyModel

TOY_SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class Task:
    """A model, samples by their ids, and a loss."""

    model: nn.Module
    num_samples: int
    batch: Callable[[Any], tuple[Any, Any]]  #: ids to inputs and targets
    loss: Callable[[Any, Any], Any]  #: the mean over a micro-batch
    tokens_per_sample: int
    flops_per_token: float


def gpt_task(config: TrainConfig) -> Task:
    """Predict the next byte of the corpus."""
    text, model, context = corpus.load(config.data), Gpt(config.gpt), config.gpt.context
    return Task(
        model=model,
        num_samples=text.num_samples(context),
        batch=lambda ids: text.batch(ids, context),
        loss=loss_of,
        tokens_per_sample=context,
        flops_per_token=flops_per_token(model, config.gpt),
    )


def toy_task(config: TrainConfig) -> Task:
    """Learn another network of the same form from its answers."""
    model = ToyModel()
    generator = torch.Generator().manual_seed(stream_seed(config.seed, "toy"))
    inputs = torch.randn(TOY_SAMPLES, 10, generator=generator)
    with torch.no_grad():
        targets = ToyModel()(inputs)
    return Task(
        model=model,
        num_samples=TOY_SAMPLES,
        batch=lambda ids: (inputs[ids], targets[ids]),
        loss=nn.functional.mse_loss,
        tokens_per_sample=1,
        flops_per_token=6.0 * sum(parameter.numel() for parameter in model.parameters()),
    )


def train(config: TrainConfig, session: Session) -> None:
    """Run all steps that are left."""
    share = config.share(session.launch.world_size, session.launch.rank)
    task = (gpt_task if config.model == "gpt" else toy_task)(config)
    model = session.parallel(task.model, compiled=config.compile)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )

    def backward(ids: Any) -> Any:
        """Add the gradients of this rank's samples; return their mean loss."""
        with session.loading():
            micro = [
                tuple(part.to(session.device, non_blocking=True) for part in task.batch(some))
                for some in ids.split(config.micro_batch)
            ]
        total = torch.zeros((), device=session.device)
        for at, (inputs, targets) in enumerate(micro):
            # ranks exchange gradients once, with those of the last micro-batch
            with nullcontext() if at == len(micro) - 1 else model.no_sync():
                with torch.autocast(
                    session.device.type, torch.bfloat16, enabled=config.precision == "bf16"
                ):
                    loss = task.loss(model(inputs), targets) / len(micro)
                loss.backward()
            total += loss.detach()
        return total

    def rehearse() -> None:
        """Compute and forget: DDP regroups gradients after its first pass, which changes the order
        of sums; after a resume as after a start, every step that counts comes later."""
        backward(torch.zeros(config.micro_batch, dtype=torch.int64))
        optimizer.zero_grad()

    tokens = config.global_batch * task.tokens_per_sample
    for step in session.steps(model, optimizer, config.steps, rehearse=rehearse):
        ids = sample_ids(step, config.seed, config.global_batch, task.num_samples)[share]
        loss = backward(ids)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        warmth = min(1.0, (step + 1) / max(1, config.warmup_steps))
        for group in optimizer.param_groups:
            group["lr"] = warmth * config.learning_rate
        optimizer.step()
        optimizer.zero_grad()
        flops = tokens * task.flops_per_token
        session.note(tokens=tokens, flops=flops, loss=loss, grad_norm=norm)


@record
def main(arguments: list[str] | None = None) -> None:
    """Read the config, join the gang, train."""
    config = from_command_line(TrainConfig, arguments, __doc__)
    with Session(config) as session:
        train(config, session)


if __name__ == "__main__":
    main()
