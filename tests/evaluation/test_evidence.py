"""Evidence of a metric, against published values and against random orders."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slowfast_core.evaluation.ava import Detections, GroundTruth, evaluate_detections
from slowfast_core.evaluation.classification import evaluate_classification
from slowfast_core.evaluation.evidence import of_average_precision, random_precision, wilson_lower
from slowfast_core.evaluation.multi_label import average_precision, evaluate_multi_label


@pytest.mark.parametrize(
    ("right", "of", "lower"),
    [(81, 263, 0.2553), (15, 148, 0.0624), (0, 20, 0.0), (1, 29, 0.0061), (29, 29, 0.8830)],
)
def test_wilson_interval_of_newcombe_1998(right: int, of: int, lower: float) -> None:
    """Table I of Newcombe, Two-sided confidence intervals for the single proportion, method 3; the last by symmetry."""
    assert wilson_lower(right, of) == pytest.approx(lower, abs=6e-5)


@pytest.mark.parametrize(("hits", "ranked"), [(1, 20), (3, 20), (20, 20), (7, 100)])
def test_average_precision_of_a_random_order(hits: int, ranked: int) -> None:
    random, truth = np.random.default_rng(0), np.zeros((ranked, 1), dtype=bool)
    truth[:hits] = True
    filler = np.ones(
        (ranked, 1), dtype=bool
    )  # a second class that every video has, so that no video is without an action
    both = np.hstack([truth, filler])
    drawn = [average_precision(random.random((ranked, 2)), both)[0] for _ in range(1000)]
    (expected,) = random_precision(np.array([hits]), np.array([ranked]))
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / math.sqrt(1000) + 1e-9)


def test_chance_of_a_classifier_is_its_most_frequent_class() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    always_first = np.tile([1.0, 0.0], (40, 1))
    evidence = evaluate_classification([str(n) for n in range(40)], always_first, labels, ["a", "b"]).evidence
    assert (evidence.samples, evidence.chance) == (40, 0.75)
    assert evidence.lower_bound < 0.75  # although 0.75 is far above 1/2
    right = evaluate_classification([str(n) for n in range(40)], np.eye(2)[labels], labels, ["a", "b"]).evidence
    assert right.lower_bound > right.chance


def test_random_scores_of_many_labels_are_rarely_above_chance() -> None:
    """mAP of random scores nearly always exceeds the share of positives; its interval does not exceed `chance`."""
    random, above = np.random.default_rng(1), []
    for _ in range(100):
        labels = [[int(c)] for c in random.integers(0, 8, 24)]
        result = evaluate_multi_label([str(n) for n in range(24)], random.random((24, 8)), labels, list("abcdefgh"))
        above.append(result.evidence.lower_bound > result.evidence.chance)
        assert result.evidence.samples == 24
    assert np.mean(above) < 0.1
    perfect = evaluate_multi_label(
        [str(n) for n in range(24)], np.array([np.eye(8)[c[0]] for c in labels]), labels, list("abcdefgh")
    )
    assert perfect.evidence.lower_bound > perfect.evidence.chance


def test_random_detections_are_rarely_above_chance_and_correct_ones_are() -> None:
    random, above = np.random.default_rng(2), []
    boxes = np.array([[0.1, 0.1, 0.4, 0.9], [0.6, 0.1, 0.9, 0.9]])
    for _ in range(100):
        actions = random.integers(0, 5, (30, 2))
        truth = {("v", n): GroundTruth.of_people(boxes.tolist(), [[a], [b]]) for n, (a, b) in enumerate(actions)}
        found = {("v", n): Detections.of_people(boxes, random.random((2, 5))) for n in range(30)}
        evidence = evaluate_detections(truth, found, list("abcde")).evidence
        above.append(evidence.lower_bound > evidence.chance)
        assert evidence.samples == 30
    assert (
        np.mean(above) < 0.2
    )  # AVA raises each precision to the maximum at that recall; the chance level ignores this
    sure = {("v", n): Detections.of_people(boxes, np.eye(5)[pair]) for n, pair in enumerate(actions)}
    right = evaluate_detections(truth, sure, list("abcde")).evidence
    assert right.lower_bound > 0.9 > right.chance


def test_one_class_has_no_interval_and_classes_without_examples_do_not_count() -> None:
    evidence = of_average_precision(np.array([0.5, np.nan]), np.array([0.1, 0.0]), 30)
    assert (evidence.lower_bound, evidence.chance) == (0.5, 0.1)
