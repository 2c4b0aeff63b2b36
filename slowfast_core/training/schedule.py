"""Schedules of a training: learning rate, and the batch and clip shapes of multigrid training; pure functions.

Multigrid training (Wu et al., CVPR 2020) varies the shape of the clips, with larger batches of smaller clips. A long
cycle changes the shape over epochs, a short cycle from iteration to iteration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from slowfast_core.recipe.load import Train
from slowfast_core.recipe.schema import Multigrid


@dataclass(frozen=True)
class Grid:
    """Shape of an iteration: Fast frames, side of the crop in pixels, and batch as a multiple of the recipe's batch."""

    frames: int
    side: int
    batch_factor: int


@dataclass(frozen=True)
class LongCycle:
    """The epochs up to `end` with one shape of clips, and their learning rate relative to the recipe's."""

    end: int
    grid: Grid
    rate_factor: float


def learning_rate(train: Train, epoch: float, cycles: Sequence[LongCycle] = ()) -> float:
    """Learning rate at `epoch`, which may be fractional (paper, section 4: half-period cosine, linear warm-up).

    `cycles` are the long cycles of multigrid training; they already contain the steps of the schedule.

    The warm-up "override" rises linearly from `warmup_from` to the rate of the schedule at the end of the warm-up;
    "compose" multiplies the schedule by a factor that rises linearly from `warmup_from / learning_rate` to 1.
    """
    if epoch >= train.warmup_epochs:
        return _scheduled(train, epoch, cycles)
    done = epoch / train.warmup_epochs
    if train.warmup_per == "epoch":
        done = min(math.floor(epoch) / max(train.warmup_epochs - 1, 1), 1.0)
    first = train.warmup_from * (_scale(train) if train.warmup_scaling else 1)
    if train.warmup == "compose":
        factor = train.warmup_from / train.learning_rate
        return _scheduled(train, epoch, cycles) * (factor + (1 - factor) * done)
    return first + (_scheduled(train, train.warmup_epochs, cycles) - first) * done


def scaling_line(train: Train, workers: int) -> str:
    """One line with the batch, the scaled learning rate, and the clips that batch norm takes its statistics over."""
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
    """Warnings when the batch, or the clips per batch norm, differ from what the recipe was designed for."""
    part = _part(train, workers)
    messages = []
    if train.reference_batch not in (None, train.batch):
        messages.append(
            f"warning: the learning rate is for a batch of {train.reference_batch} and was scaled to {train.batch}"
        )
    if train.batch_norm == "groups" and part < train.norm_clips:
        messages.append(f"warning: batch norm uses {part} clips at a time, the recipe asks for {train.norm_clips}")
    return messages


def _part(train: Train, workers: int) -> int:
    """Clips that a worker processes at a time."""
    return train.batch // (workers * train.accumulate)


def _scale(train: Train) -> float:
    """Factor of the learning rate by the linear scaling rule (Goyal et al., 2017)."""
    return train.batch / train.reference_batch if train.reference_batch else 1.0


def _scheduled(train: Train, epoch: float, cycles: Sequence[LongCycle]) -> float:
    peak = train.learning_rate * _scale(train)
    if cycles:
        return peak * cycle_at(cycles, epoch).rate_factor
    if train.schedule_per == "epoch":
        epoch = math.floor(epoch)
    if train.schedule == "cosine":
        start = train.warmup_epochs if train.cosine_after_warmup else 0
        end = train.cosine_end * _scale(train)
        angle = math.pi * max(epoch - start, 0) / (train.epochs - start)
        return end + (peak - end) * 0.5 * (math.cos(angle) + 1)
    passed = [rate for step, rate in train.steps if step <= epoch]
    if not passed:
        return peak
    return passed[-1] * (_scale(train) if train.absolute_steps else peak)


def long_cycles(train: Train, multigrid: Multigrid, frames: int) -> tuple[LongCycle, ...]:
    """Split the epochs of each learning-rate step among the shapes, so that each shape gets equally many iterations.

    `train.epochs` and `train.steps` describe the training without multigrid; `epoch_factor` lengthens them. The last
    phase is fine-tuning with full clips; its first half keeps the learning rate of the previous step.
    """
    steps = [0.0, *(epoch for epoch, _ in train.steps)]
    rates = [1.0, *(rate / (train.learning_rate if train.absolute_steps else 1) for _, rate in train.steps)]
    grids = [_long(factors, frames, train.crop) for factors in multigrid.long_cycle]
    means = [_mean_batch(multigrid, grid, frames, train.crop) for grid in grids]
    # (index of the step, shape, epochs) for each step and shape. An epoch of larger batches has fewer iterations.
    parts = [
        (step, grid, (end - start) * mean / sum(means))
        for step, (start, end) in enumerate(pairwise(steps))
        for grid, mean in zip(grids, means, strict=True)
    ]
    speedup = sum(means) / len(means)  # iterations per epoch without multigrid, relative to those with it
    parts.append((len(steps) - 1, grids[-1], (train.epochs - steps[-1]) / speedup * means[-1]))
    stretch = train.epochs * multigrid.epoch_factor / sum(epochs for _, _, epochs in parts)
    ends = []
    total = 0.0
    for _, _, epochs in parts:
        total += epochs * stretch
        ends.append(round(total))
    factors = [rates[step] * grid.batch_factor for step, grid, _ in parts]
    cycles = [LongCycle(end, grid, factor) for end, (_, grid, _), factor in zip(ends, parts, factors, strict=True)]
    last = cycles.pop()
    half = (cycles[-1].end + last.end) // 2
    return (*cycles, LongCycle(half, last.grid, cycles[-1].rate_factor), last)


def short_cycle(multigrid: Multigrid, cycle: Grid, side: int) -> tuple[Grid, ...]:
    """Shapes of consecutive iterations; the last is `cycle`, the shape of the long cycle. `side`: of full clips."""
    sides = [round(side * factor) for factor in multigrid.short_cycle]
    factors = [round((cycle.side / (side * factor)) ** 2) for factor in multigrid.short_cycle]
    shapes = [Grid(cycle.frames, s, cycle.batch_factor * f) for s, f in zip(sides, factors, strict=True)]
    return (*shapes, cycle)


def cycle_at(cycles: Sequence[LongCycle], epoch: float) -> LongCycle:
    """The long cycle of `epoch`; the last cycle has no end."""
    return next((cycle for cycle in cycles if epoch < cycle.end), cycles[-1])


def _long(factors: tuple[float, float], frames: int, side: int) -> Grid:
    """Shape of a long cycle, with `factors` of the full frames and side and a batch of about the same total size."""
    t = round(frames * factors[0])
    s = round(side * factors[1])
    return Grid(t, s, round(frames * side**2 / (t * s**2)))


def _mean_batch(multigrid: Multigrid, grid: Grid, frames: int, side: int) -> float:
    """Mean batch factor over the shapes of the short cycle."""
    sides = [*(side * factor for factor in multigrid.short_cycle), grid.side]
    return sum(round(frames * side**2 / (grid.frames * s**2)) for s in sides) / len(sides)
