"""Intervals cover the truth as often as they claim; tests and calibration agree with independent computations."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from predicted import classified

from slowfast_core.evaluation import ava, statistics
from slowfast_core.evaluation.measure import measure
from slowfast_core.evaluation.statistics import (
    accuracy_replicates,
    calibration,
    interval_of,
    interval_of_difference,
    mcnemar,
    precision_replicates,
    ranked_replicates,
    weights_of,
    wilson,
)

SIMULATIONS = 1000
COVERAGE = (0.93, 0.97)


@pytest.fixture
def few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "REPLICATES", 300)
    monkeypatch.setattr(statistics, "RANKED_REPLICATES", 150)


def clustered(random: np.random.Generator, mean: float, clusters: int) -> tuple[npt.NDArray[np.int64], ...]:
    """The cluster and correctness of rows: 1 to 6 rows per cluster, which are more alike than those of others."""
    sizes = random.integers(1, 7, clusters)
    share = random.beta(4 * mean, 4 * (1 - mean), clusters)
    videos = np.repeat(np.arange(clusters), sizes)
    return videos, (random.random(len(videos)) < share[videos]).astype(np.int64)


@pytest.mark.usefixtures("few_replicates")
@pytest.mark.parametrize("mean", [0.6, 0.9])
def test_the_interval_of_a_share_covers_it_in_95_percent_of_simulations(mean: float) -> None:
    random, covered, naive = np.random.default_rng(5), 0, 0
    for _ in range(SIMULATIONS):
        videos, correct = clustered(random, mean, clusters=120)
        replicates = accuracy_replicates(videos, np.zeros_like(videos), 1 - correct, classes=1)
        low, high = interval_of(correct.mean(), replicates.metrics["top1"], replicates.clusters, len(videos))
        covered += low <= mean <= high
        low, high = wilson(correct.mean(), len(videos))
        naive += low <= mean <= high
    assert COVERAGE[0] <= covered / SIMULATIONS <= COVERAGE[1]
    assert naive / SIMULATIONS < 0.9  # an interval that ignores the source videos claims too much


@pytest.mark.usefixtures("few_replicates")
def test_the_interval_of_a_class_covers_it_in_95_percent_of_simulations() -> None:
    """Twelve classes of 30 videos, evaluated at the same time; the accuracy of the classes differs."""
    random, covered = np.random.default_rng(6), []
    truth = np.linspace(0.5, 0.95, 12)
    labels = np.repeat(np.arange(12), 30)
    for _ in range(SIMULATIONS // 4):
        correct = (random.random(len(labels)) < truth[labels]).astype(np.int64)
        replicates = accuracy_replicates(np.arange(len(labels)), labels, 1 - correct, classes=12)
        for c, clusters in enumerate(replicates.class_clusters):
            accuracy = float(correct[labels == c].mean())
            low, high = interval_of(accuracy, replicates.classes[c], int(clusters), 30)
            covered.append(low <= truth[c] <= high)
    assert COVERAGE[0] <= np.mean(covered) <= COVERAGE[1]


@pytest.mark.usefixtures("few_replicates")
def test_the_interval_of_map_covers_it_in_95_percent_of_simulations() -> None:
    """Scores of positive and negative videos are normal, so that the AP of endless data is known."""

    def drawn(random: np.random.Generator, videos: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        truth = random.random((videos, 3)) < 0.4
        return truth, random.normal(size=truth.shape) + truth

    many, scores = drawn(np.random.default_rng(0), 200_000)
    truth = float(np.mean([average_precision_by_rank(many[:, c], scores[:, c]) for c in range(3)]))
    random, covered = np.random.default_rng(7), 0
    for _ in range(SIMULATIONS):
        positive, scores = drawn(random, 150)
        orders = np.argsort(-scores, axis=0).T
        classes = [
            precision_replicates(order, positive[order, c], positive[:, c], raised=False)
            for c, order in enumerate(orders)
        ]
        metric = float(np.mean([average_precision_by_rank(positive[:, c], scores[:, c]) for c in range(3)]))
        replicates = ranked_replicates(classes, positive.T)
        low, high = interval_of(metric, replicates.metrics["mAP"], replicates.clusters)
        covered += low <= truth <= high
    assert COVERAGE[0] <= covered / SIMULATIONS <= COVERAGE[1]


@pytest.mark.usefixtures("few_replicates")
def test_the_interval_of_a_difference_covers_it_in_95_percent_of_simulations() -> None:
    random, covered = np.random.default_rng(8), 0
    for _ in range(SIMULATIONS):
        videos, first = clustered(random, 0.7, clusters=120)
        changed = random.random(len(videos)) < 0.2
        second = np.where(changed, random.random(len(videos)) < 0.8, first).astype(np.int64)
        labels = np.zeros_like(videos)
        ours, other = (accuracy_replicates(videos, labels, 1 - correct, 1) for correct in (second, first))
        replicates = ours.metrics["top1"] - other.metrics["top1"]
        low, high = interval_of_difference(second.mean() - first.mean(), replicates, ours.clusters)
        covered += low <= 0.2 * (0.8 - 0.7) <= high
    assert COVERAGE[0] <= covered / SIMULATIONS <= COVERAGE[1]


def average_precision_by_rank(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    hit = truth[np.argsort(-scores, kind="stable")]
    return float((hit.cumsum() / np.arange(1, len(hit) + 1))[hit].mean())


def test_replicates_agree_with_a_loop_over_drawn_rows() -> None:
    random = np.random.default_rng(3)
    videos, labels, ranks = random.integers(0, 9, 60), random.integers(0, 4, 60), random.integers(0, 8, 60)
    videos[:9] = np.arange(9)
    replicates = accuracy_replicates(videos, labels, ranks, classes=5)
    (weights,) = weights_of(9, statistics.REPLICATES)
    assert (weights.sum(axis=0) == 9).all()
    for r in range(20):
        rows = [n for n in range(60) for _ in range(int(weights[videos[n], r]))]
        shares = [np.mean([ranks[n] < 1 for n in rows if labels[n] == c]) for c in {labels[n] for n in rows}]
        assert replicates.metrics["top1"][r] == pytest.approx(np.mean(ranks[rows] < 1))
        assert replicates.metrics["top5"][r] == pytest.approx(np.mean(ranks[rows] < 5))
        assert replicates.metrics["mean_class_accuracy"][r] == pytest.approx(np.mean(shares))
    assert replicates.class_clusters.tolist() == [len({*videos[labels == c]}) for c in range(5)]
    assert np.isnan(replicates.classes[4]).all()


@pytest.mark.parametrize("raised", [False, True])
def test_precision_of_the_data_itself_is_the_official_one(raised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each cluster drawn once, and with a cluster left out, a replicate is the AP of those rows."""
    random = np.random.default_rng(4)
    weights = np.ones((6, 7))
    weights[np.arange(6), 1 + np.arange(6)] = 0
    monkeypatch.setattr(statistics, "weights_of", lambda *_: iter([weights]))
    scores, videos, truth = random.random(80), random.integers(0, 6, 80), random.random(80) < 0.3
    order = np.argsort(-scores)
    truths = np.bincount(videos[truth], minlength=6)
    found = precision_replicates(videos[order], truth[order], truths, raised)
    for r in range(7):
        kept = weights[videos, r] > 0
        if raised:
            hit = truth[kept][np.argsort(-scores[kept])]
            expected = ava.average_precision(hit, int(hit.sum()))
        else:
            expected = average_precision_by_rank(truth[kept], scores[kept])
        assert found[r] == pytest.approx(expected)


def test_precision_replicates_without_hits_or_truths() -> None:
    videos, none = np.array([0, 1, 1]), np.zeros(3, dtype=bool)
    assert (precision_replicates(videos, none, np.array([1, 1]), True) == 0).all()
    assert np.isnan(precision_replicates(videos, none, np.array([0, 0]), True)).all()


def test_intervals_of_few_or_uniform_examples_have_a_width() -> None:
    perfect = np.ones(100)
    low, high = interval_of(1.0, perfect, clusters=8)
    assert (low, high) == wilson(1.0, 8)
    assert low < 0.7
    assert interval_of(0.5, np.array([0.5]), clusters=1) == wilson(0.5, 1)
    assert all(map(math.isnan, interval_of(math.nan, perfect, clusters=8)))
    low, high = interval_of_difference(0.0, np.zeros(100), clusters=8)
    assert -0.5 < low < 0 < high < 0.5


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (5, 5), (10, 3), (3, 10), (40, 22), (1, 0), (300, 240)])
def test_mcnemar_is_the_sum_of_the_binomial_tail(fixed: int, broken: int) -> None:
    n, k = fixed + broken, min(fixed, broken)
    tail = sum(Fraction(math.comb(n, i), 2**n) for i in range(k + 1))
    assert mcnemar(fixed, broken) == pytest.approx(float(min(2 * tail, Fraction(1))))


def test_mcnemar_of_a_published_example() -> None:
    """Agresti, Categorical Data Analysis, approval ratings: 150 and 86 changed their opinion; p is about 3.7e-5."""
    assert mcnemar(150, 86) == pytest.approx(3.7e-5, rel=0.05)


def test_calibration_agrees_with_a_loop() -> None:
    random = np.random.default_rng(9)
    confidence = np.append(random.random(500), [0.0, 1.0])
    correct = random.random(502) < confidence**2
    found = calibration(confidence, correct)
    expected, counted = 0.0, 0
    for n in range(15):
        rows = [i for i in range(502) if n / 15 <= confidence[i] < (n + 1) / 15 or (n == 14 and confidence[i] == 1)]
        gap = abs(np.mean([confidence[i] for i in rows]) - np.mean([correct[i] for i in rows]))
        expected += len(rows) / 502 * gap
        counted += len(rows)
    assert counted == sum(each.count for each in found.bins) == 502
    assert found.error == pytest.approx(expected)


@pytest.mark.parametrize(
    ("videos", "classes", "error"), [(500, 6, 0.4217264), (5000, 400, 0.0331516), (50, 3, 0.4713389)]
)
def test_calibration_agrees_with_torchmetrics(videos: int, classes: int, error: float) -> None:
    """The errors are those of torchmetrics 1.9, MulticlassCalibrationError(classes, n_bins=15, norm="l1")."""
    random = np.random.default_rng(videos)
    scores = random.dirichlet(np.full(classes, 0.3), videos).astype(np.float32)
    correct = scores.argmax(axis=1) == random.integers(0, classes, videos)
    assert calibration(scores.max(axis=1), correct).error == pytest.approx(error, abs=1e-6)


def test_calibrated_scores_have_a_small_error() -> None:
    random = np.random.default_rng(10)
    confidence = random.random(100_000)
    assert calibration(confidence, random.random(100_000) < confidence).error < 0.01
    assert calibration(np.full(1000, 0.9), random.random(1000) < 0.5).error == pytest.approx(0.4, abs=0.05)


def test_the_statistics_of_kinetics_take_about_a_second() -> None:
    random = np.random.default_rng(11)
    labels = random.integers(0, 400, 20_000)
    videos = random.integers(0, 15_000, 20_000)
    ranks = random.integers(0, 3, 20_000)
    numbers = np.unique(videos, return_inverse=True)[1]
    started = time.process_time()
    replicates = accuracy_replicates(numbers, labels, ranks, 400)
    assert interval_of(1 / 3, replicates.metrics["top1"], replicates.clusters).low > 0.32
    assert time.process_time() - started < 3  # 0.6 s on an idle core


def test_measured_metrics_have_their_intervals_and_are_deterministic() -> None:
    random = np.random.default_rng(12)
    scores = random.dirichlet(np.ones(6), 90)
    predictions = classified(scores, [[c] for c in random.integers(0, 6, 90)], list("abcdef"))
    metrics = measure(predictions).metrics
    names = ("top1", "top5", "mean_class_accuracy")
    assert list(metrics) == [*names, *(f"{name}_{end}" for name in names for end in ("low", "high")), "ece"]
    for name in names:
        assert 0 <= metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"] <= 1
    assert measure(predictions).metrics == metrics
