"""Metrics of predictions, with their uncertainty: the only way from predictions to metrics.json and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from slowfast_core.errors import InputError
from slowfast_core.evaluation.ava import DetectionResult, Detections, GroundTruth, evaluate_detections
from slowfast_core.evaluation.classification import ClassificationResult, evaluate_classification, label_ranks
from slowfast_core.evaluation.multi_label import MultiLabelResult, evaluate_multi_label
from slowfast_core.evaluation.predictions import Predictions
from slowfast_core.evaluation.statistics import (
    Calibration,
    Interval,
    Replicates,
    accuracy_replicates,
    calibration,
    interval_of,
    precision_replicates,
    ranked_replicates,
)

DIGITS = 6  # of intervals and ECE: further ones depend on the order in which a processor adds numbers
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Result = ClassificationResult | MultiLabelResult | DetectionResult


@dataclass(frozen=True, eq=False)
class Measured:
    """Result of an evaluation, and how sure it is."""

    predictions: Predictions
    result: Result
    replicates: Replicates
    calibration: Calibration
    correct: Bools | None  # [N] whether the class with the highest score is true; None in detection

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval of each headline metric."""
        most = {"top1": len(self.predictions.ids), "top5": len(self.predictions.ids)}
        return {
            name: interval_of(metric, self.replicates.metrics[name], self.replicates.clusters, most.get(name, np.inf))
            for name, metric in self.result.metrics.items()
        }

    @cached_property
    def class_intervals(self) -> list[Interval]:
        """The 95 % interval of each class; NaN for a class without examples."""
        counts, values = np.full(len(self.replicates.classes), np.inf), per_class(self.result)
        if isinstance(self.result, ClassificationResult):
            counts = self.result.confusion.sum(axis=1).astype(float)
        rows = zip(values, self.replicates.classes, self.replicates.class_clusters, counts, strict=True)
        return [interval_of(float(value), of, int(clusters), most) for value, of, clusters, most in rows]

    @property
    def metrics(self) -> dict[str, float]:
        """Headline metrics, then their intervals and the expected calibration error."""
        ends = dict[str, float]()
        for name, (low, high) in self.intervals.items():
            ends |= {f"{name}_low": round(low, DIGITS), f"{name}_high": round(high, DIGITS)}
        return {**self.result.metrics, **ends, "ece": round(self.calibration.error, DIGITS)}


def metrics_of(predictions: Predictions) -> dict[str, float]:
    """The content of metrics.json."""
    return all_metrics(measure(predictions))


def all_metrics(measured: Measured) -> dict[str, float]:
    return {**measured.metrics, **asdict(measured.result.evidence)}


def per_class(result: Result) -> Floats:
    """Accuracy or AP of each class [C]; NaN for a class without examples."""
    return result.per_class if isinstance(result, ClassificationResult) else result.average_precision


def measure(predictions: Predictions) -> Measured:
    """Compute everything that metrics.json and the report show. Raises InputError without examples."""
    if predictions.origin.protocol == "classification":
        return _classification(predictions)
    if predictions.origin.protocol == "multi_label":
        return _multi_label(predictions)
    return _detection(predictions)


def _classification(predictions: Predictions) -> Measured:
    names = predictions.origin.labels
    if not predictions.ids:
        raise InputError("no videos to evaluate", "the predictions", "check the splits of the annotations")
    labels = np.array([labels[0] for labels in predictions.labels], dtype=np.int64)
    scores = predictions.scores
    result = evaluate_classification(predictions.ids, scores, labels, names)
    ranks = label_ranks(scores, labels)
    return Measured(
        predictions,
        result,
        accuracy_replicates(clusters_of(predictions.videos), labels, ranks, len(names)),
        calibration(scores.max(axis=1), ranks == 0),
        ranks == 0,
    )


def _multi_label(predictions: Predictions) -> Measured:
    names, scores = predictions.origin.labels, predictions.scores
    result = evaluate_multi_label(predictions.ids, scores, predictions.labels, names)
    truth = np.zeros(scores.shape, dtype=bool)
    for row, classes in zip(truth, predictions.labels, strict=True):
        row[list(classes)] = True
    labelled = truth.any(axis=1)  # the others are ranked last and never lower the precision
    videos = clusters_of(predictions.videos)
    truths = np.zeros((len(names), videos.max() + 1), dtype=np.int64)
    np.add.at(truths.T, videos, truth.astype(np.int64))
    replicates = []
    for c in range(len(names)):
        order = np.argsort(-scores[labelled, c], kind="stable")
        hit = truth[labelled, c][order]
        replicates.append(precision_replicates(videos[labelled][order], hit, truths[c], raised=False))
    correct = truth[np.arange(len(truth)), scores.argmax(axis=1)]
    return Measured(
        predictions,
        result,
        ranked_replicates(replicates, truths),
        calibration(scores.ravel(), truth.ravel()),
        correct,
    )


def _detection(predictions: Predictions) -> Measured:
    names = predictions.origin.labels
    test = predictions.origin.evaluate
    truth, found = detections_of(predictions)
    result = evaluate_detections(truth, found, names, iou=test.iou, protocol=test.protocol)
    ranked = result.ranked
    numbers = {video: n for n, video in enumerate(sorted({*ranked.videos, *(video for video, _ in ranked.truths)}))}
    videos = np.array([numbers[video] for video in ranked.videos], dtype=np.int64)
    truths = np.zeros((len(names), len(numbers)), dtype=np.int64)
    for (video, _), classes in ranked.truths.items():
        np.add.at(truths[:, numbers[video]], classes, 1)
    replicates = []
    for c in range(len(names)):
        rows = ranked.classes == c
        replicates.append(precision_replicates(videos[rows], ranked.hit[rows], truths[c], raised=True))
    calibrated = calibration(ranked.scores, ranked.hit)
    return Measured(predictions, result, ranked_replicates(replicates, truths), calibrated, None)


def detections_of(
    predictions: Predictions,
) -> tuple[Mapping[tuple[str, int], GroundTruth], Mapping[tuple[str, int], Detections]]:
    """Ground truth and detections of each key frame; without detections for one in which no box was scored."""
    truth, found = {}, {}
    for row, boxes_K4, scores_KC in predictions.key_frames():
        key = (row["video"], row["second"])
        truth[key] = GroundTruth.of_people(row["true_boxes"], row["true_labels"])
        if len(boxes_K4):
            found[key] = Detections.of_people(boxes_K4, scores_KC)
    return truth, found


def clusters_of(videos: list[str]) -> Ints:
    """The number of each row's source video [N], from 0 in alphabetical order."""
    numbers: Ints = np.unique(np.array(videos, dtype=object), return_inverse=True)[1]
    return numbers
