"""Accuracy of video classification: pure functions of computed scores.

Shapes: V views, N videos, C classes, k ranks. Classes are numbered from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slowfast_core.errors import InputError
from slowfast_core.evaluation.evidence import of_accuracy
from slowfast_core.tracking.gate import Evidence

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """Accuracies in [0, 1], confusion matrix and examples; `per_class[c]` is NaN when class c has no videos."""

    names: tuple[str, ...]
    top1: float
    top5: float
    mean_class_accuracy: float
    per_class: Floats  # [C]
    confusion: Ints  # [C, C], true class down, predicted class across
    worst: tuple[Example, ...]  # wrong predictions with the highest scores
    best: tuple[Example, ...]  # correct predictions with the highest scores

    @property
    def videos(self) -> int:
        return int(self.confusion.sum())

    @property
    def metrics(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5, "mean_class_accuracy": self.mean_class_accuracy}

    @property
    def evidence(self) -> Evidence:
        return of_accuracy(self.confusion)


def evaluate_classification(
    ids: Sequence[str], scores: Floats, labels: Ints, names: Sequence[str], examples: int = 10
) -> ClassificationResult:
    """Compute all figures of the report from `scores` [N, C] and `labels` [N]. Raises InputError without videos."""
    if not len(ids):
        raise InputError("no videos to evaluate", "the evaluated split", "check the splits of the annotations")
    scores, labels = _checked(scores, labels)
    if scores.shape != (len(ids), len(names)):
        raise ValueError(f"scores {scores.shape} do not fit {len(ids)} videos of {len(names)} classes")
    predicted = scores.argmax(axis=1)
    confusion = confusion_matrix(predicted, labels, len(names))
    worst, best = _examples(ids, scores, labels, names, examples)
    return ClassificationResult(
        names=tuple(names),
        top1=top_k_accuracy(scores, labels, 1),
        top5=top_k_accuracy(scores, labels, 5),
        mean_class_accuracy=mean_class_accuracy(confusion),
        per_class=class_accuracy(confusion),
        confusion=confusion,
        worst=worst,
        best=best,
    )


def top_k_accuracy(scores: Floats, labels: Ints, k: int) -> float:
    """Share of videos that have their label among the k highest scores (1.0 with at most k classes).

    Among equal scores the lower class comes first, as in `argmax`, so constant scores gain nothing.
    """
    return float((label_ranks(scores, labels) < k).mean())


def label_ranks(scores: Floats, labels: Ints) -> Ints:
    """Number of classes [N] that are ranked before the label of each video."""
    scores, labels = _checked(scores, labels)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    ranks: Ints = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    return ranks


def confusion_matrix(predicted: Ints, labels: Ints, classes: int) -> Ints:
    """Counts [C, C]: true class down, predicted class across."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_accuracy(confusion: Ints) -> Floats:
    """Share of correct predictions among the videos of each class [C]; NaN for a class without videos."""
    videos = confusion.sum(axis=1)
    return np.where(videos > 0, confusion.diagonal() / np.maximum(videos, 1), np.nan)


def mean_class_accuracy(confusion: Ints) -> float:
    """Mean over the classes that have videos."""
    return float(np.nanmean(class_accuracy(confusion)))


def _checked(scores: Floats, labels: Ints) -> tuple[Floats, Ints]:
    """Check shapes and values. NaN scores are refused, because they compare as false and would rank as hits."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} are not [N, C] and [N]")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} are not all in {scores.shape[1]} classes")
    return scores, labels


def _examples(
    ids: Sequence[str], scores: Floats, labels: Ints, names: Sequence[str], count: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    predicted = scores.argmax(axis=1)
    confidence = scores.max(axis=1)
    order = np.argsort(-confidence, kind="stable")

    def first(which: npt.NDArray[np.bool_]) -> tuple[Example, ...]:
        chosen = order[which[order]][:count]
        return tuple(Example(ids[n], names[labels[n]], names[predicted[n]], float(confidence[n])) for n in chosen)

    return first(predicted != labels), first(predicted == labels)


@dataclass(frozen=True)
class Example:
    """A prediction that the report shows."""

    id: str
    truth: str
    predicted: str
    score: float  # of the predicted class
