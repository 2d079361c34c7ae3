"""What the steps of one rank take: in all, waiting for data, waiting for the other ranks."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

#: dense bf16 operations per second of one device, from the maker's data sheets; first match wins
PEAK_FLOPS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L4": 121e12}


class Meter:
    """Adds up steps until they are taken for the log."""

    def __init__(self, model: Any, optimizer: Any, device: Any) -> None:
        self._clock = GpuClock() if device.type == "cuda" else CpuClock()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self._peak = next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
        # The gradient of the first parameter comes last; from then on a rank waits for the others.
        first = next(one for one in model.parameters() if one.requires_grad)
        first.register_post_accumulate_grad_hook(lambda _: self._clock.gradients())
        optimizer.register_step_pre_hook(lambda *_: self._clock.update())
        self._forget()

    def _forget(self) -> None:
        self.num_steps = self.tokens = 0
        self.dur_s = self.max_step_s = self.data_wait_s = self.flops = 0.0
        self.values: dict[str, Any] = {}

    def begin(self) -> None:
        """Start a step."""
        self._began_s = time.monotonic()
        self._clock.begin()

    def end(self) -> None:
        """End a step."""
        self._clock.end()
        took_s = time.monotonic() - self._began_s
        self.num_steps += 1
        self.dur_s += took_s
        self.max_step_s = max(self.max_step_s, took_s)

    def take(self, world_size: int) -> tuple[float, dict[str, Any]]:
        """Return this rank's own seconds in a typical step, and the fields of a log line."""
        own_s, collective_wait_s = self._clock.take()
        fields: dict[str, Any] = {
            "num_steps": self.num_steps,
            "dur_s": self.dur_s,
            "max_step_s": self.max_step_s,
            "data_wait_s": self.data_wait_s,
            "collective_wait_s": collective_wait_s,
            "tokens": self.tokens,
        }
        fields |= {name: float(value) for name, value in self.values.items()}
        if self._peak and self.flops:
            fields["mfu"] = self.flops / self.dur_s / self._peak / world_size
        self._forget()
        return own_s, fields

    @staticmethod
    def sentence(fields: dict[str, Any]) -> str:
        """Return the line of progress that goes with a log line."""
        parts = [f"{1000.0 * fields['dur_s'] / fields['num_steps']:.3g} ms per step"]
        parts += [f"{name} {fields[name]:.3f}" for name in ("loss", "mfu") if name in fields]
        if fields["tokens"]:
            parts.append(f"{fields['tokens'] / fields['dur_s']:,.0f} tokens/s")
        return ", ".join(parts)


class CpuClock:
    """Times of a step by the process's clock."""

    def __init__(self) -> None:
        self._own_s: list[float] = []
        self._waited_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Start a step."""
        self._begin_s = self._gradients_s = time.perf_counter()

    def gradients(self) -> None:
        """All own gradients are there."""
        self._gradients_s = time.perf_counter()

    def update(self) -> None:
        """Everyone's gradients are there."""
        self._waited_s += time.perf_counter() - self._gradients_s

    def end(self) -> None:
        """End a step."""
        self._own_s.append(self._gradients_s - self._begin_s)

    def take(self) -> tuple[float, float]:
        """Return the median of own time per step and the sum of waits, in seconds; begin anew."""
        own_s = statistics.median(self._own_s) if self._own_s else 0.0
        waited_s, self._waited_s = self._waited_s, 0.0
        self._own_s.clear()
        return own_s, waited_s


class GpuClock:
    """The same by events in the GPU's stream, which are read only when taken."""

    def __init__(self) -> None:
        self._steps: list[tuple[Any, Any, Any]] = []
        self.begin()

    def _now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def begin(self) -> None:
        """Start a step."""
        self._begin = self._gradients = self._update = self._now()

    def gradients(self) -> None:
        """All own gradients are there."""
        self._gradients = self._now()

    def update(self) -> None:
        """Everyone's gradients are there."""
        self._update = self._now()

    def end(self) -> None:
        """End a step."""
        self._steps.append((self._begin, self._gradients, self._update))

    def take(self) -> tuple[float, float]:
        """Return the median of own time per step and the sum of waits, in seconds; begin anew."""
        torch.cuda.synchronize()
        own_ms = [begin.elapsed_time(gradients) for begin, gradients, _ in self._steps]
        waited_ms = [gradients.elapsed_time(update) for _, gradients, update in self._steps]
        self._steps.clear()
        return statistics.median(own_ms or [0.0]) / 1000.0, max(0.0, sum(waited_ms)) / 1000.0
