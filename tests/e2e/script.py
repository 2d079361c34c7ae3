"""Trains as `trainer/train.py` does, then writes down what this rank's parameters are."""

from __future__ import annotations

import hashlib
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record

from trainer.config import TrainConfig, from_command_line
from trainer.session import Session
from trainer.train import train


class Remembering(Session):
    """Keeps the model of this rank."""

    def parallel(self, model: Any, *, compiled: bool = False) -> Any:
        """As ever."""
        self.model = super().parallel(model, compiled=compiled)
        return self.model


@record
def main() -> None:
    """Train; ranks of a gang must end with the same parameters."""
    config = from_command_line(TrainConfig, None, __doc__)
    with Remembering(config) as session:
        train(config, session)
        digest = hashlib.sha256()
        for parameter in session.model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        folder = session.out / "parameters"
        folder.mkdir(exist_ok=True)
        path = folder / f"step_{session.log.step}_rank_{session.launch.rank}"
        path.write_text(digest.hexdigest())


if __name__ == "__main__":
    main()
