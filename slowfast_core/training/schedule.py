"""Learning rates by iteration: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slowfast_core.recipe.load import Train
from slowfast_core.training.multigrid import LongCycle, cycle_at


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
