"""The multigrid schedule (Wu et al., "A Multigrid Method for Efficiently Training Video Models", CVPR 2020).

The long cycle changes the clip (T frames, side S) from epoch to epoch; the short cycle changes S from one iteration to
the next. A clip that is n times smaller comes in batches n times larger; the long cycle's rate is as many times higher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from slowfast_core.recipe.schema import Multigrid, Train


@dataclass(frozen=True)
class Grid:
    """The clips of an iteration: Fast frames, side, and how many times the recipe's batch."""

    frames: int
    side: int
    batch_factor: int


@dataclass(frozen=True)
class LongCycle:
    """The epochs up to `end`, of which the whole last cycle is one: its shape, and its rate by the recipe's."""

    end: int
    grid: Grid
    rate_factor: float


def long_cycles(train: Train, multigrid: Multigrid, frames: int) -> tuple[LongCycle, ...]:
    """The epochs of `train.steps`, shared out so that each shape of a step gets as many iterations as the others.

    `train.epochs` and `train.steps` are those of the training without multigrid; `epoch_factor` lengthens them. The
    last phase is for fine-tuning with whole clips; its first half has the rate of the step before.
    """
    steps = [0.0, *(epoch for epoch, _ in train.steps)]
    rates = [1.0, *(rate / (train.learning_rate if train.absolute_steps else 1) for _, rate in train.steps)]
    grids = [_long(factors, frames, train.crop) for factors in multigrid.long_cycle]
    means = [_mean_batch(multigrid, grid, frames, train.crop) for grid in grids]
    # By step and shape: (index of the step, shape, epochs). An epoch of larger batches has fewer iterations.
    parts = [
        (step, grid, (end - start) * mean / sum(means))
        for step, (start, end) in enumerate(pairwise(steps))
        for grid, mean in zip(grids, means, strict=True)
    ]
    saved = sum(means) / len(means)  # iterations of the training without, by those of one with as many epochs
    parts.append((len(steps) - 1, grids[-1], (train.epochs - steps[-1]) / saved * means[-1]))
    stretch = train.epochs * multigrid.epoch_factor / sum(epochs for _, _, epochs in parts)
    ends, total = [], 0.0
    for _, _, epochs in parts:
        total += epochs * stretch
        ends.append(round(total))
    factors = [rates[step] * grid.batch_factor for step, grid, _ in parts]
    cycles = [LongCycle(end, grid, factor) for end, (_, grid, _), factor in zip(ends, parts, factors, strict=True)]
    last = cycles.pop()
    half = (cycles[-1].end + last.end) // 2
    return (*cycles, LongCycle(half, last.grid, cycles[-1].rate_factor), last)


def short_cycle(multigrid: Multigrid, cycle: Grid, side: int) -> tuple[Grid, ...]:
    """The shapes of consecutive iterations; the last is the long cycle's own. `side` is that of whole clips."""
    sides = [round(side * factor) for factor in multigrid.short_cycle]
    factors = [round((cycle.side / (side * factor)) ** 2) for factor in multigrid.short_cycle]
    shapes = [Grid(cycle.frames, s, cycle.batch_factor * f) for s, f in zip(sides, factors, strict=True)]
    return (*shapes, cycle)


def cycle_at(cycles: Sequence[LongCycle], epoch: float) -> LongCycle:
    """The last cycle goes on for ever."""
    return next((cycle for cycle in cycles if epoch < cycle.end), cycles[-1])


def _long(factors: tuple[float, float], frames: int, side: int) -> Grid:
    t, s = round(frames * factors[0]), round(side * factors[1])
    return Grid(t, s, round(frames * side**2 / (t * s**2)))


def _mean_batch(multigrid: Multigrid, grid: Grid, frames: int, side: int) -> float:
    """Of the batch factors that the short cycle goes through."""
    sides = [*(side * factor for factor in multigrid.short_cycle), grid.side]
    return sum(round(frames * side**2 / (grid.frames * s**2)) for s in sides) / len(sides)
