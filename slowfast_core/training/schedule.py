"""Learning rates by iteration: pure functions."""

from __future__ import annotations

import math

from slowfast_core.recipe import Train


def learning_rate(train: Train, epoch: float) -> float:
    """Half-period cosine over all epochs; a linear warm-up overrides its start (paper, section 4)."""
    if epoch < train.warmup_epochs:
        reached = _cosine(train, train.warmup_epochs)
        return train.warmup_from + (reached - train.warmup_from) * epoch / train.warmup_epochs
    return _cosine(train, epoch)


def _cosine(train: Train, epoch: float) -> float:
    return train.learning_rate * 0.5 * (math.cos(math.pi * epoch / train.epochs) + 1)
