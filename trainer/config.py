"""Settings of a run: a TOML file, then `--set name=value`; unknown names are errors."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

Struct = TypeVar("Struct", bound="RunConfig")


def _positive(config: msgspec.Struct, section: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(
                f"{section}{'.' if section else ''}{name} = {value}: give a number above 0"
            )


class CheckpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When and how state is saved. With neither interval given, Young's and Daly's is used."""

    every_steps: int | None = None
    every_s: float | None = None
    mode: Literal["async", "sync"] = "async"
    keep: int = 2  #: committed checkpoints that stay
    resize: bool = False  #: restore what another number of ranks saved
    assumed_stall_s: float = 0.5  #: what a save costs, until the first one was measured
    #: Llama 3's 419 interruptions in 54 days on 16,384 GPUs (Meta, arXiv:2407.21783, table 5)
    rank_mtbf_h: float = 50_000.0

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_s is not None:
            raise ValueError(
                f"checkpoint.every_steps = {self.every_steps} and checkpoint.every_s = "
                f"{self.every_s}: give one of them"
            )
        _positive(self, "checkpoint", "every_steps", "every_s", "keep", "rank_mtbf_h")
        _positive(self, "checkpoint", "assumed_stall_s")


class HealthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long to wait for others, and when a rank counts as slow."""

    first_step_timeout_s: float = 300.0  #: until the first step is done; it may compile
    step_timeout_s: float = 120.0  #: from then on; also for a save
    straggler_score: float = 0.75  #: fastest rank's time over its own; below it a rank is slow
    heartbeat: bool = True  #: keep `<out>/heartbeat/rank_N` up to date, for liveness probes

    def __post_init__(self) -> None:
        _positive(self, "health", "first_step_timeout_s", "step_timeout_s")


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `Session` needs around any training script."""

    out: str = "runs/train"  #: folder that all ranks see: goodput log, checkpoints, heartbeats
    name: str = ""  #: run_id in the goodput log; by default the name of `out`
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = False  #: only algorithms that give the same bits again
    digest: bool = False  #: each rank logs the SHA-256 of its final state with its exit
    log_every: int = 10  #: steps per line of the goodput log
    checkpoint: CheckpointConfig = CheckpointConfig()
    health: HealthConfig = HealthConfig()

    def __post_init__(self) -> None:
        _positive(self, "", "log_every")

    @property
    def run_id(self) -> str:
        """Name of the run, the same in all its attempts."""
        return self.name or Path(self.out).resolve().name


class GptConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shape of the byte-level GPT."""

    layers: int = 2
    heads: int = 2
    width: int = 64
    context: int = 64  #: bytes that a prediction may look back on
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, "gpt", "layers", "heads", "width", "context")
        if self.width % self.heads:
            raise ValueError(
                f"gpt.width = {self.width} is not a multiple of gpt.heads = {self.heads}; use "
                f"gpt.width = {-(-self.width // self.heads) * self.heads}"
            )


class TrainConfig(RunConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of `trainer/train.py`."""

    model: Literal["gpt", "toy"] = "gpt"
    gpt: GptConfig = GptConfig()
    data: str = "stdlib"  #: the standard library's source, or a file of any bytes
    steps: int = 200
    global_batch: int = 32  #: samples per step over all ranks
    micro_batch: int = 8  #: samples per forward pass of a rank
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "", "steps", "global_batch", "micro_batch", "learning_rate", "clip_norm")

    def share(self, world_size: int, rank: int) -> slice:
        """Return which of a step's samples a rank takes.

        Raises:
            ValueError: the batch is not a multiple; names the numbers and the nearest that are.
        """
        unit = world_size * self.micro_batch
        if self.global_batch % unit:
            below, above = (self.global_batch // unit * unit, -(-self.global_batch // unit) * unit)
            raise ValueError(
                f"global_batch = {self.global_batch} is not a multiple of {world_size} ranks x "
                f"micro_batch = {self.micro_batch}; use global_batch = "
                f"{f'{below} or ' if below else ''}{above}, or another micro_batch"
            )
        size = self.global_batch // world_size
        return slice(rank * size, (rank + 1) * size)


def load(kind: type[Struct], path: Path | None = None, sets: list[str] | None = None) -> Struct:
    """Read a config of a kind; later `sets` such as `gpt.layers=4` win over the file.

    Raises:
        ValueError: an unknown name or a value of the wrong type; names the place.
    """
    place = "--set" if path is None else str(path)
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"config {str(path)!r}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"config {str(path)!r}: {error}") from None
    for one in sets or []:
        name, equals, text = one.partition("=")
        if not equals:
            raise ValueError(f"--set {one!r}: write name=value, such as gpt.layers=4")
        _put(tree, name.strip(), _value(text.strip()))
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"config ({place}): {error}") from None


def _value(text: str) -> Any:
    """Return a TOML value; what is not one is a string, so that quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = value


def from_command_line(
    kind: type[Struct], arguments: list[str] | None, description: str | None
) -> Struct:
    """Read `--config FILE.toml` and `--set name=value`; errors print one line and exit with 2."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, metavar="FILE.toml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="sets")
    given = parser.parse_args(arguments)
    try:
        return load(kind, given.config, given.sets)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
