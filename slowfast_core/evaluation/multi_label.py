"""Mean average precision of multi-label classification by the official Charades protocol: pure functions of scores.

Shapes: N videos, C classes. The AP of a class is the mean of the precision at the rank of each of its videos, without
interpolation; equal scores keep the order of the videos. As in the official script, videos without any action are
ranked last, so that they never lower the precision, and mAP is the mean over the classes that have videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slowfast_core.errors import InputError
from slowfast_core.evaluation.classification import Example
from slowfast_core.evaluation.evidence import of_average_precision, random_precision
from slowfast_core.tracking.gate import Evidence

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MultiLabelResult:
    """mAP, AP per class and examples; `average_precision[c]`, in [0, 1], is NaN when no video has class c."""

    names: tuple[str, ...]
    mean_average_precision: float
    average_precision: Floats  # [C]
    positives: Ints  # [C], number of videos of each class
    videos: int
    unlabelled: int  # videos without any action
    worst: tuple[Example, ...]  # videos without the class of the highest score
    best: tuple[Example, ...]  # videos with the class of the highest score

    @property
    def metrics(self) -> dict[str, float]:
        return {"mAP": self.mean_average_precision}

    @property
    def evidence(self) -> Evidence:
        """Evidence over the videos with actions: the others are ranked last, whatever their scores."""
        ranked = np.full_like(self.positives, self.videos - self.unlabelled)
        return of_average_precision(self.average_precision, random_precision(self.positives, ranked), self.videos)


def evaluate_multi_label(
    ids: Sequence[str], scores: Floats, labels: Sequence[Sequence[int]], names: Sequence[str], examples: int = 10
) -> MultiLabelResult:
    """Compute all figures of the report from `scores` [N, C] and the classes of each of the N videos."""
    truth = np.zeros((len(ids), len(names)), dtype=bool)
    if scores.shape != truth.shape or len(labels) != len(ids):
        raise ValueError(f"scores {scores.shape} and {len(labels)} labels do not fit {truth.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite")
    for row, classes in zip(truth, labels, strict=True):
        row[list(classes)] = True
    if not truth.any():
        raise InputError("no video has an action to evaluate", "the evaluated split", "check the annotations")
    precision = average_precision(scores, truth)
    worst, best = _examples(ids, scores, truth, names, examples)
    return MultiLabelResult(
        names=tuple(names),
        mean_average_precision=float(np.nanmean(precision)),
        average_precision=precision,
        positives=truth.sum(axis=0),
        videos=len(ids),
        unlabelled=int((~truth.any(axis=1)).sum()),
        worst=worst,
        best=best,
    )


def average_precision(scores: Floats, truth: Bools) -> Floats:
    """AP of each class [C] from `scores` and `truth`, both [N, C]."""
    ranked = np.where(truth.any(axis=1, keepdims=True), scores, -np.inf)
    order = np.argsort(-ranked, axis=0, kind="stable")
    hits = np.take_along_axis(truth, order, axis=0)
    precision = hits.cumsum(axis=0) / np.arange(1, len(hits) + 1)[:, None]
    positives = hits.sum(axis=0)
    return np.where(positives > 0, (precision * hits).sum(axis=0) / np.maximum(positives, 1), np.nan)


def _examples(
    ids: Sequence[str], scores: Floats, truth: Bools, names: Sequence[str], count: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    predicted = scores.argmax(axis=1)
    confidence = scores.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    correct = truth[np.arange(len(ids)), predicted]

    def first(which: Bools) -> tuple[Example, ...]:
        rows = order[which[order]][:count]
        return tuple(
            Example(ids[n], _true_names(truth[n], names), names[predicted[n]], float(confidence[n])) for n in rows
        )

    return first(~correct), first(correct)


def _true_names(truth: Bools, names: Sequence[str]) -> str:
    return ", ".join(name for name, is_true in zip(names, truth, strict=True) if is_true) or "none"
