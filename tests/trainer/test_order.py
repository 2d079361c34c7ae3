"""Which samples a step takes, what a step computes, how often to save."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

with contextlib.suppress(ModuleNotFoundError):  # without torch its tests skip, and say so
    import torch

    from trainer import corpus
    from trainer.checkpoint import best_interval_s
    from trainer.config import GptConfig, TrainConfig
    from trainer.health import scores
    from trainer.model import Gpt, flops_per_token, loss_of
    from trainer.order import sample_ids, stream_seed

pytestmark = pytest.mark.torch


@given(
    num_samples=st.integers(1, 60),
    global_batch=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    epochs=st.integers(1, 3),
)
def test_every_epoch_takes_each_sample_once(
    num_samples: int, global_batch: int, seed: int, epochs: int
) -> None:
    steps = math.ceil(epochs * num_samples / global_batch)
    ids = torch.cat([sample_ids(step, seed, global_batch, num_samples) for step in range(steps)])
    for epoch in range(epochs):
        part = ids[epoch * num_samples : (epoch + 1) * num_samples].tolist()
        assert sorted(part) == list(range(num_samples))


@given(step=st.integers(0, 500), ranks=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 99))
def test_the_order_is_the_same_for_any_number_of_ranks(step: int, ranks: int, seed: int) -> None:
    config = TrainConfig(global_batch=32, micro_batch=2)
    ids = sample_ids(step, seed, config.global_batch, 1000)
    parts = [ids[config.share(ranks, rank)] for rank in range(ranks)]
    assert torch.equal(torch.cat(parts), ids)


def test_streams_are_told_apart() -> None:
    seeds = {
        stream_seed(s, name, n) for s in (0, 1) for name in ("noise", "order") for n in (1, 11)
    }
    assert len(seeds) == 8
    assert stream_seed(0, "order", 3) == 228291028133782092


def test_micro_batches_add_up_to_one_batch() -> None:
    torch.manual_seed(0)
    shape = GptConfig(layers=1, width=16, context=8, dropout=0.0)
    model, text = Gpt(shape), corpus.load(__file__)
    inputs, targets = text.batch(torch.arange(12), shape.context)
    loss_of(model(inputs), targets).backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for some in torch.arange(12).split(3):
        (loss_of(model(inputs[some]), targets[some]) / 4).backward()
    for parameter, grad in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_the_gpt_sees_only_what_came_before() -> None:
    torch.manual_seed(0)
    model = Gpt(GptConfig(layers=2, width=16, context=8, dropout=0.0)).eval()
    tokens = torch.randint(0, 256, (1, 8))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 256
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5], after[:, 5])


def test_flops_count_what_is_multiplied() -> None:
    shape = GptConfig(layers=3, width=32, context=16)
    block = 12 * 32 * 32 + 13 * 32
    multiplied = 3 * block + 2 * 32 + 256 * 32
    assert flops_per_token(Gpt(shape), shape) == 6 * multiplied + 12 * 3 * 16 * 32


def test_text_is_cut_without_overlap(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(bytes(range(101)))
    text = corpus.load(str(tmp_path / "text"))
    assert text.num_samples(10) == 10
    inputs, targets = text.batch(torch.tensor([0, 9]), 10)
    assert inputs[1].tolist() == list(range(90, 100))
    assert targets[1].tolist() == list(range(91, 101))
    with pytest.raises(ValueError, match=r"has 101 bytes, one sample takes gpt.context \+ 1 = 201"):
        text.num_samples(200)
    with pytest.raises(ValueError, match="give a readable file, or 'stdlib'"):
        corpus.load(str(tmp_path / "nothing"))


def test_the_standard_library_is_a_corpus() -> None:
    text = corpus.load("stdlib")
    assert len(text.tokens) > 5e6
    assert text.sha256 == corpus.load("stdlib").sha256


@pytest.mark.parametrize("mtbf_s", [3600.0, 86400.0])
@pytest.mark.parametrize("save_s", [0.1, 10.0, 60.0])
def test_the_best_interval_loses_least(save_s: float, mtbf_s: float) -> None:
    def lost(interval_s: float) -> float:  # Daly's model, restarts at no cost
        cycle_s = interval_s + save_s
        return mtbf_s * math.expm1(cycle_s / mtbf_s) / interval_s

    best_s = best_interval_s(save_s, mtbf_s)
    assert lost(best_s) <= lost(0.9 * best_s)
    assert lost(best_s) <= lost(1.1 * best_s)
    assert best_s == pytest.approx(math.sqrt(2 * save_s * mtbf_s), rel=0.15)


def test_scores_compare_with_the_fastest() -> None:
    assert scores([1.0, 2.0, 1.0, 0.5]) == [0.5, 0.25, 0.5, 1.0]
    assert scores([0.0, 0.0]) == [1.0, 1.0]
