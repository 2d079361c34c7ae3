"""The network of PyTorch's DDP tutorial in ten lines of training: what a script of your own needs.

Run it by torchrun, as a pod of PyTorchJob does, or alone:  python trainer/toy.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when run by path

import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record

from trainer.config import RunConfig, from_command_line
from trainer.session import Session


class ToyModel(nn.Module):
    """Linear 10-10, ReLU, Linear 10-5."""

    def __init__(self) -> None:
        super().__init__()
        self.net1, self.relu, self.net2 = nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 5)

    def forward(self, inputs: Any) -> Any:
        """Map [batch, 10] to [batch, 5]."""
        return self.net2(self.relu(self.net1(inputs)))


@record
def main(arguments: list[str] | None = None) -> None:
    """Train for 100 steps on random numbers."""
    with Session(from_command_line(RunConfig, arguments, __doc__)) as session:
        model = session.parallel(ToyModel())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
        for _ in session.steps(model, optimizer, until=100):
            inputs, labels = torch.randn(20, 10), torch.randn(20, 5)
            outputs = model(inputs.to(session.device))
            optimizer.zero_grad()
            nn.functional.mse_loss(outputs, labels.to(session.device)).backward()
            optimizer.step()


if __name__ == "__main__":
    main()
