"""Which steps vote: all ranks must come to the same answer."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("step_s", "steps_apart"),
    [((math.inf, 0.001), 1), ((0.0, 0.001), 10), ((0.03, 0.07), 3), ((0.2, 0.001), 1), ((9, 9), 1)],
)
def test_the_slowest_rank_says_how_often_to_vote(
    step_s: tuple[float, float], steps_apart: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from trainer import preempt

    handed_in: list[Any] = []

    class Done:
        def wait(self) -> None:
            highest = torch.stack(handed_in).amax(0)
            for one in handed_in:
                one.copy_(highest)

    def all_reduce(flags: Any, *_: object, **__: object) -> Done:
        handed_in.append(flags)
        return Done()

    monkeypatch.setattr(preempt.dist, "all_reduce", all_reduce)
    ranks = [preempt.Votes(None) for _ in step_s]
    voted = []
    for step in range(31):
        handed_in.clear()
        for rank, votes in enumerate(ranks):
            votes.step_s = step_s[rank]
            votes.begin(stop=rank == 1 and step > 14, save=False)
        if handed_in:
            assert len(handed_in) == 2, "all vote, or none"
            voted.append(step)
        said = {votes.end() for votes in ranks}
        assert said == {(bool(handed_in) and step > 14, False)}
    assert voted == list(range(0, 31, steps_apart))
