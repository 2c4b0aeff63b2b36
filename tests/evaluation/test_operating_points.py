"""Thresholds reach the chosen precision on other videos, and the temperature calibrates scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from predicted import classified, origin_of

from slowfast_core.errors import InputError
from slowfast_core.evaluation.operating_points import (
    choose_operating_points,
    considered,
    read_operating_points,
    scaled,
    temperature_of,
    thresholds_of,
    write_operating_points,
)
from slowfast_core.evaluation.predictions import DETECTION, Predictions, table_of
from slowfast_core.evaluation.statistics import calibration

CLASSES = [f"class {c}" for c in range(20)]
Floats = npt.NDArray[np.floating[Any]]


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def drawn(seed: int, videos: int, temperature: float = 1.0) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Scores whose logits are too large by `temperature`, and labels; without that they would be calibrated."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(videos, 20)) * 2.0
    labels = np.array([random.choice(20, p=row) for row in softmax(logits)])
    return softmax(logits * temperature), labels


def predictions(seed: int, videos: int, temperature: float = 1.0, **fields: Any) -> Predictions:
    scores, labels = drawn(seed, videos, temperature)
    return classified(scores, [[int(c)] for c in labels], CLASSES, **fields)


def test_thresholds_by_hand() -> None:
    scores = np.array([[0.9], [0.8], [0.7], [0.7], [0.6], [0.5]])
    truth = np.array([[True], [False], [True], [True], [True], [False]])
    which = np.ones((6, 1), dtype=bool)
    assert thresholds_of(scores, truth, which, 0.8).tolist() == [0.6]  # 4 of 5
    assert thresholds_of(scores, truth, which, 0.75).tolist() == [0.6]
    assert thresholds_of(scores, truth, which, 0.9).tolist() == [0.9]
    assert thresholds_of(scores, truth, which, 0.6).tolist() == [0.5]
    assert np.isnan(thresholds_of(scores, ~truth, which, 0.9)).all()
    assert np.isnan(thresholds_of(scores, truth, ~which, 0.9)).all()
    equal = np.array([[0.7], [0.7]])  # a threshold accepts both or none
    assert np.isnan(thresholds_of(equal, np.array([[True], [False]]), which[:2], 0.9)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_scores_is_recovered_and_calibrates_them(temperature: float) -> None:
    scores, labels = drawn(1, 4000, temperature)
    truth = np.eye(20, dtype=bool)[labels]
    found = temperature_of(scores, truth, "classification")
    assert found == pytest.approx(temperature, rel=0.06)
    fresh, labels = drawn(2, 4000, temperature)
    calibrated = scaled(fresh, found, "classification")
    assert calibrated.sum(axis=1) == pytest.approx(1)
    assert calibration(calibrated.max(axis=1), calibrated.argmax(axis=1) == labels).error < 0.03


def test_the_temperature_of_several_labels_is_recovered() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(size=(2000, 6)) * 2
    truth = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    scores = 1 / (1 + np.exp(-2.5 * logits))
    assert temperature_of(scores, truth, "multi_label") == pytest.approx(2.5, rel=0.1)
    np.testing.assert_allclose(scaled(scores, 2.5, "multi_label"), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_the_precision_is_reached_on_other_videos_for_nine_in_ten_classes() -> None:
    points = choose_operating_points(predictions(4, 3000, temperature=2.0), 0.8)
    fresh, labels = drawn(5, 3000, temperature=2.0)
    accepted = [points.accepted(points.calibrated(row)) for row in fresh]
    reached = []
    for c, point in enumerate(points.classes):
        hits = [labels[n] == c for n, classes in enumerate(accepted) if c in classes]
        if hits:
            measured = point.model_copy(update={"accepted": len(hits), "precision": float(np.mean(hits))})
            reached.append(measured.interval.high >= 0.8)
    assert len(reached) >= 18
    assert np.mean(reached) >= 0.9
    covered = np.mean([bool(classes) for classes in accepted])
    assert covered == pytest.approx(points.coverage, abs=0.05)  # as cross-validation estimated
    right = [labels[n] in classes for n, classes in enumerate(accepted) if classes]
    assert np.mean(right) == pytest.approx(points.precision, abs=0.03)


def test_noise_is_none_of_these() -> None:
    points = choose_operating_points(predictions(6, 3000), 0.9)
    noise = softmax(np.random.default_rng(7).normal(size=(500, 20)) * 0.3)
    assert np.mean([not points.accepted(points.calibrated(row)) for row in noise]) > 0.99
    certain = np.eye(20)
    assert np.mean([points.accepted(points.calibrated(row)) == [c] for c, row in enumerate(certain)]) >= 0.9


def test_scaling_is_judged_on_videos_that_did_not_choose_it() -> None:
    points = choose_operating_points(predictions(8, 1000, temperature=3.0), 0.9)
    assert points.temperature == pytest.approx(3.0, rel=0.15)
    assert points.ece_scaled < 0.05 < points.ece
    assert points.precision is not None
    assert all(point.precision is None or 0 <= point.precision <= 1 for point in points.classes)


def test_random_scores_promise_little() -> None:
    """Thresholds fitted to noise look good on the videos that chose them, but not in cross-validation."""
    random = np.random.default_rng(9)
    scores, labels = softmax(random.normal(size=(400, 4))), random.integers(0, 4, 400)
    points = choose_operating_points(classified(scores, [[int(c)] for c in labels], list("abcd")), 0.9)
    assert points.precision is None or points.precision < 0.6


def test_several_labels_are_accepted_one_by_one() -> None:
    scores = np.tile([[0.9, 0.8, 0.1], [0.2, 0.9, 0.1]], (20, 1))
    labels = [[0, 1], [1]] * 20
    points = choose_operating_points(classified(scores, labels, list("abc"), protocol="multi_label"), 0.9)
    assert points.accepted(points.calibrated(np.array([0.9, 0.9, 0.1]))) == [0, 1]
    assert points.classes[2].threshold is None
    assert considered(scores, "multi_label").all()


def test_points_are_written_and_read(tmp_path: Path) -> None:
    points = choose_operating_points(predictions(1, 200), 0.9)
    write_operating_points(tmp_path / "points.json", points)
    assert read_operating_points(tmp_path / "points.json") == points
    assert choose_operating_points(predictions(1, 200), 0.9) == points
    with pytest.raises(InputError, match="no operating points"):
        read_operating_points(tmp_path / "absent.json")
    (tmp_path / "points.json").write_text("{}")
    with pytest.raises(InputError, match="not operating points"):
        read_operating_points(tmp_path / "points.json")


def test_detections_have_no_operating_points() -> None:
    with pytest.raises(InputError, match="operating points are of classifiers"):
        choose_operating_points(Predictions(origin_of("detection", ["a"]), table_of([], DETECTION)), 0.9)
