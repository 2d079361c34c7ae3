"""One job of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DemoJob:
    """One PyTorchJob and its progress."""

    name: str
    pods: int
    gpus_per_pod: int
    run_s: int
    high: bool = False
    never: bool = False
    placed: int = 0  #: have a node and have not ended
    running: int = 0
    done: int = 0
    reason: str = ""
    text: str = ""
    started_s: float = -1.0  #: all ranks run
    ended_s: float = -1.0
    told: set[str] = field(default_factory=set)  #: pods that were told how long to run
    reminded_s: float = 0.0  #: no pod was missing then, or the operator was reminded

    @property
    def gpus(self) -> int:
        """GPUs of all pods."""
        return self.pods * self.gpus_per_pod

    @property
    def phase(self) -> str:
        """One word."""
        if self.ended_s >= 0:
            return "removed" if self.never else "done"
        if self.running + self.done >= self.pods:
            return "running"
        return "starting" if self.placed + self.done >= self.pods else "waiting"
