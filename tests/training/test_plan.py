"""Samples of each worker: any number of workers shares each batch completely."""

from __future__ import annotations

import pytest

from slowfast_core.recipe.load import Clip, Train
from slowfast_core.recipe.schema import Multigrid
from slowfast_core.training.plan import Plan

CLIP = Clip(T=4, tau=8, alpha=4)


def steps_of(train: Train, rank: int, workers: int) -> list[list[list[int]]]:
    """Sample indices for each step and part."""
    plan = Plan(train, CLIP, 640, 0, rank, workers)
    parts = [[draw for _, draw, _, _ in part] for part in plan]
    return [parts[i : i + train.accumulate] for i in range(0, len(parts), train.accumulate)]


@pytest.mark.parametrize("workers", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_any_number_of_workers_takes_each_sample_of_a_batch_once(workers: int, accumulate: int) -> None:
    alone = steps_of(Train(batch=64), 0, 1)
    shares = [steps_of(Train(batch=64, accumulate=accumulate), rank, workers) for rank in range(workers)]
    assert len(alone) == 10
    for step, [whole] in enumerate(alone):
        parts = [part for share in shares for part in share[step]]
        assert [i for part in parts for i in part] == whole
        assert {len(part) for part in parts} <= {64 // (workers * accumulate), 64 // (workers * accumulate) + 1}


def test_the_largest_batch_has_the_smallest_clips() -> None:
    """It occurs in the first long cycle, at the smallest side of the short cycle."""
    assert Plan(Train(batch=64), CLIP, 640, 0).largest_batch == 64
    steps = ((94.0, 0.1), (154.0, 0.01), (196.0, 0.001))
    train = Train(batch=64, epochs=239, schedule="steps", steps=steps, multigrid=Multigrid())
    plan = Plan(train, CLIP, 240_000, 0)
    plan.start(0)
    assert plan.largest_batch == max(len(part) for part in plan)
