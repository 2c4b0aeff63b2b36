"""Evidence for the promotion gate: lower end of the 95 % interval of a metric, chance level, and number of samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from slowfast_core.evaluation.statistics import Z, wilson
from slowfast_core.tracking.gate import Evidence

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


def of_accuracy(confusion: Ints) -> Evidence:
    """Evidence of top-1 accuracy from a confusion matrix [C, C] (rows: true class), by Wilson's interval (1927).

    The chance level is the share of the most frequent class: always predicting it reaches that accuracy.
    """
    videos = int(confusion.sum())
    most_frequent = float(confusion.sum(axis=1).max()) / videos
    return Evidence(videos, wilson_lower(int(confusion.trace()), videos), most_frequent)


def of_average_precision(precision: Floats, chance: Floats, samples: int) -> Evidence:
    """Evidence of mAP from the AP of each class [C] (NaN: no AP) and the expected AP of a random order [C].

    The interval is of the mean difference over the classes; for a single class it has no width.
    """
    has_ap = ~np.isnan(precision)
    gain = precision[has_ap] - chance[has_ap]
    level = float(chance[has_ap].mean())
    margin = Z * float(gain.std(ddof=1)) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return Evidence(samples, level + float(gain.mean()) - margin, level)


def wilson_lower(successes: int, trials: int) -> float:
    """Lower end of Wilson's 95 % interval."""
    return wilson(successes / trials, trials).low


def random_precision(hits: Ints, ranked: Ints) -> Floats:
    """Expected average precision [C] of `ranked` items in random order with `hits` correct ones (Bestgen, 2015)."""
    return np.array([_random_precision(int(r), int(n)) for r, n in zip(hits, ranked, strict=True)])


def _random_precision(hits: int, ranked: int) -> float:
    if not hits:
        return 0.0
    if hits == ranked:
        return 1.0
    harmonic = float((1 / np.arange(1, ranked + 1)).sum())
    return ((hits - 1) / (ranked - 1) * (ranked - harmonic) + harmonic) / ranked
