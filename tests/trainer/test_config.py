"""Settings of the trainer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from trainer.config import GptConfig, RunConfig, TrainConfig, load


def test_later_settings_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text('steps = 7\nprecision = "bf16"\n[gpt]\nlayers = 3\n', "utf-8")
    config = load(TrainConfig, file, ["gpt.layers=4", "out=/data/run 1", "checkpoint.keep=5"])
    assert (config.steps, config.precision, config.gpt.layers) == (7, "bf16", 4)
    assert (config.out, config.run_id, config.checkpoint.keep) == ("/data/run 1", "run 1", 5)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["stepz=3"], "unknown field `stepz`"),
        (["gpt.layer=3"], r"unknown field `layer` - at `\$.gpt`"),
        (["steps=many"], r"Expected `int`, got `str` - at `\$.steps`"),
        (["steps=0"], "steps = 0: give a number above 0"),
        (["checkpoint.keep=0"], "checkpoint.keep = 0: give a number above 0"),
        (
            ["gpt.width=65"],
            "gpt.width = 65 is not a multiple of gpt.heads = 2; use gpt.width = 66",
        ),
        (["checkpoint.every_s=60", "checkpoint.every_steps=5"], "give one of them"),
        (["precision=fp8"], "Invalid enum value 'fp8'"),
        (["steps"], "write name=value"),
    ],
)
def test_bad_settings_are_named(sets: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(TrainConfig, None, sets)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing.toml': No such file"):
        load(TrainConfig, tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3", "utf-8")
    with pytest.raises(ValueError, match=r"bad.toml': Invalid value"):
        load(TrainConfig, tmp_path / "bad.toml")


@pytest.mark.parametrize(("ranks", "nearest"), [(3, "24 or 48"), (8, "64"), (5, "40")])
def test_a_batch_that_does_not_divide_names_what_does(ranks: int, nearest: str) -> None:
    config = TrainConfig(global_batch=32, micro_batch=8)
    with pytest.raises(ValueError, match=f"use global_batch = {nearest}, or another micro_batch"):
        config.share(ranks, 0)


def test_ranks_share_a_batch() -> None:
    config = TrainConfig(global_batch=32, micro_batch=4)
    ids = list(range(32))
    assert [one for rank in range(4) for one in ids[config.share(4, rank)]] == ids


def test_configs_are_frozen_and_complete() -> None:
    with pytest.raises(AttributeError):
        GptConfig().layers = 3  # type: ignore[misc]
    fields = {field.name for field in msgspec.structs.fields(RunConfig)}
    assert fields < {field.name for field in msgspec.structs.fields(TrainConfig)}
