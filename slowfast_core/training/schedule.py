"""Learning rates by iteration: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from slowfast_core.recipe.load import Train
from slowfast_core.recipe.schema import Multigrid


def learning_rate(train: Train, epoch: float, cycles: Sequence[LongCycle] = ()) -> float:
    """The rate at `epoch`, a fraction of one included (paper, section 4: half-period cosine, linear warm-up).

    `cycles` are those of multigrid; they have the steps of the schedule in them.

    A warm-up that overrides is a line from `warmup_from` to what the schedule has where it ends; one that composes
    multiplies the schedule by a line from `warmup_from / learning_rate` to 1.
    """
    if epoch >= train.warmup_epochs:
        return _scheduled(train, epoch, cycles)
    done = epoch / train.warmup_epochs
    first = train.warmup_from * _scale(train)
    if train.warmup == "compose":
        factor = train.warmup_from / train.learning_rate
        return _scheduled(train, epoch, cycles) * (factor + (1 - factor) * done)
    return first + (_scheduled(train, train.warmup_epochs, cycles) - first) * done


def scaling_line(train: Train, workers: int) -> str:
    """What becomes of the recipe's learning rate, and what its batch norm sees, in a line."""
    part = _part(train, workers)
    norm = min(train.norm_clips or part, part) if train.batch_norm == "groups" else part
    shares = {"groups": f"in groups of {norm}", "sync": f"over {part * workers}", "frozen": "frozen"}[train.batch_norm]
    rate = f"learning rate {train.learning_rate * _scale(train):g}"
    if train.reference_batch not in (None, train.batch):
        rate += f" ({train.learning_rate:g} x {train.batch} / {train.reference_batch})"
    return (
        f"batch {train.batch} ({workers} x {part}{f' x {train.accumulate}' if train.accumulate > 1 else ''}), "
        f"{rate}, batch norm {shares}{' clips' if train.batch_norm != 'frozen' else ''}"
    )


def warnings(train: Train, workers: int) -> list[str]:
    """Where batch and batch norm are not those that the recipe was made with."""
    part, said = _part(train, workers), []
    if train.reference_batch not in (None, train.batch):
        said.append(
            f"warning: the learning rate is for a batch of {train.reference_batch} and was scaled to {train.batch}"
        )
    if train.batch_norm == "groups" and part < train.norm_clips:
        said.append(f"warning: batch norm sees {part} clips at a time, the recipe means {train.norm_clips}")
    return said


def _part(train: Train, workers: int) -> int:
    """Clips that a worker takes at a time."""
    return train.batch // (workers * train.accumulate)


def _scale(train: Train) -> float:
    """The linear scaling rule (Goyal et al., 2017)."""
    return train.batch / train.reference_batch if train.reference_batch else 1.0


def _scheduled(train: Train, epoch: float, cycles: Sequence[LongCycle]) -> float:
    peak = train.learning_rate * _scale(train)
    if cycles:
        return peak * cycle_at(cycles, epoch).rate_factor
    if train.schedule == "cosine":
        return peak * 0.5 * (math.cos(math.pi * epoch / train.epochs) + 1)
    passed = [rate for step, rate in train.steps if step <= epoch]
    if not passed:
        return peak
    return passed[-1] * (_scale(train) if train.absolute_steps else peak)


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
