"""Uncertainty of metrics: bootstrap over source videos, McNemar's test, calibration. Pure and deterministic functions.

Clips of one source video resemble each other, so the bootstrap draws source videos ("clusters"), not clips. It needs
only the counts of each video: a replicate is a weighting of the videos, and a metric of all replicates is a product of
matrices.

Shapes: N rows, C classes, K clusters, R replicates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import binomtest

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

Z = 1.96  # standard deviations on each side of a 95 % interval
SEED = 0
REPLICATES = 1000  # of counts: the standard error is then known to 2 %
RANKED_REPLICATES = 200  # of average precision, which costs more: to 5 %
BLOCK = 2**22  # weights in memory at a time
BINS = 15  # of the reliability curve


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Replicates:
    """Metrics of resampled data: replicate r has the same source videos for each model that is evaluated on them."""

    metrics: dict[str, Floats]  # [R] of each headline metric
    classes: Floats  # [C, R], accuracy or AP of each class; NaN: no example in this replicate
    clusters: int
    class_clusters: Ints  # [C] clusters that have an example of the class


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions whose confidence is in one of BINS equal intervals."""

    low: float  # end of the interval
    count: int
    confidence: float  # mean
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Reliability curve, and its mean distance from the diagonal."""

    bins: tuple[ReliabilityBin, ...]  # without empty ones
    error: float  # expected calibration error (Guo et al., 2017)


def weights_of(clusters: int, replicates: int) -> Iterator[Floats]:
    """How often each replicate draws each cluster, in blocks [K, at most R]; the same for the same number of clusters.

    Two models that are evaluated on the same videos therefore have the same replicates, which makes them paired.
    """
    random = np.random.default_rng(SEED)
    block = max(BLOCK // clusters, 1)
    for first in range(0, replicates, block):
        count = min(block, replicates - first)
        drawn = random.integers(0, clusters, (count, clusters)) + clusters * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * clusters).reshape(count, clusters)
        yield weights.T.astype(np.float64, order="C")


def accuracy_replicates(videos: Ints, labels: Ints, ranks: Ints, classes: int) -> Replicates:
    """Replicates of top-1, top-5 and mean class accuracy.

    `videos` [N] is the cluster of each row, from 0; `ranks` [N] is the rank of its label by score, from 0.
    """
    clusters = int(videos.max()) + 1

    def counts(rows: Bools) -> csr_array:
        """Number of these rows by class and cluster [C, K]."""
        return csr_array((rows[rows].astype(np.float64), (labels[rows], videos[rows])), shape=(classes, clusters))

    rows, correct = counts(np.ones(len(labels), dtype=bool)), counts(ranks < 1)
    among_five = np.bincount(videos, weights=ranks < 5, minlength=clusters)
    parts = [(rows @ weights, correct @ weights, among_five @ weights) for weights in weights_of(clusters, REPLICATES)]
    totals, hits, fives = (np.concatenate(blocks, axis=-1) for blocks in zip(*parts, strict=True))
    by_class = np.divide(hits, totals, out=np.full_like(hits, np.nan), where=totals > 0)
    metrics = {
        "top1": hits.sum(axis=0) / totals.sum(axis=0),
        "top5": fives / totals.sum(axis=0),
        "mean_class_accuracy": np.nanmean(by_class, axis=0),
    }
    return Replicates(metrics, by_class, clusters, (rows > 0).sum(axis=1))


def precision_replicates(videos: Ints, hit: Bools, truths: Ints, raised: bool) -> Floats:
    """Replicates [R] of the average precision of a class.

    `videos` [N] and `hit` [N] are the cluster and the correctness of the predictions in order of decreasing score;
    `truths` [K] is the number of true examples in each cluster. With `raised`, each precision is the maximum at its
    recall or higher. NaN: a replicate without true examples.
    """
    clusters, hits = len(truths), int(hit.sum())
    before: Ints = hit.cumsum() - hit  # earlier hits: predictions up to and including hit j have the value j
    counted = np.flatnonzero(before < hits)
    ones = np.ones(len(counted))
    between = csr_array((ones, (before[counted], videos[counted])), shape=(hits, clusters))
    parts = []
    for weights in weights_of(clusters, RANKED_REPLICATES):
        drawn = weights[videos[hit]]  # [hits, R]
        ranked = np.cumsum(between @ weights, axis=0)
        precision = np.divide(np.cumsum(drawn, axis=0), ranked, out=np.zeros_like(drawn), where=drawn > 0)
        if raised:
            precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        total = truths @ weights
        parts.append(np.where(total > 0, (drawn * precision).sum(axis=0) / np.maximum(total, 1), np.nan))
    return np.concatenate(parts)


def ranked_replicates(classes: list[Floats], truths: Ints) -> Replicates:
    """Replicates of mAP from those of each class [R] and the true examples by class and cluster [C, K]."""
    by_class = np.array(classes)
    some = ~np.isnan(by_class)
    total = np.where(some, by_class, 0).sum(axis=0)
    count = some.sum(axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return Replicates({"mAP": mean}, by_class, truths.shape[1], (truths > 0).sum(axis=1))


def standard_error(replicates: Floats, clusters: int) -> float:
    """Standard error of a metric from its replicates; NaN with less than two of them."""
    values = replicates[~np.isnan(replicates)]
    if len(values) < 2 or clusters < 2:
        return math.nan
    return float(values.std(ddof=1)) * math.sqrt(clusters / (clusters - 1))


def interval_of(metric: float, replicates: Floats, clusters: int, most: float = math.inf) -> Interval:
    """Interval of a metric in [0, 1]: Wilson's, for as many independent trials as give the bootstrap's standard error.

    Unlike percentiles of the replicates it stays in [0, 1] and has a width where all of a few examples are correct.
    `most` limits the trials, for a share of that many rows. NaN for a metric that is NaN.
    """
    if math.isnan(metric):
        return Interval(math.nan, math.nan)
    error = standard_error(replicates, clusters)
    trials = metric * (1 - metric) / error**2 if error > 0 else 0.0
    return wilson(metric, min(trials, most) if trials > 0 else clusters)


def wilson(share: float, trials: float) -> Interval:
    """Wilson's 95 % interval (1927) of a share in `trials`, which may be a fraction."""
    centre = share + Z**2 / (2 * trials)
    spread = Z * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    return Interval(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def interval_of_difference(difference: float, replicates: Floats, clusters: int) -> Interval:
    """Interval of the difference of a metric of two models, from the differences of their replicates [R].

    It is never narrower than that of one source video gained and one lost, added to the data (Bonett and Price, 2012),
    so that two equal models have an interval, too.
    """
    least = math.sqrt(2) / (clusters + 2)
    error = standard_error(replicates, clusters)
    margin = Z * max(error if error > 0 else 0.0, least)
    return Interval(max(-1.0, difference - margin), min(1.0, difference + margin))


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p-value of McNemar's test, by which equal models fix and break the same number of examples."""
    return float(binomtest(min(fixed, broken), fixed + broken).pvalue) if fixed + broken else 1.0


def calibration(confidence: Floats, correct: Bools) -> Calibration:
    """Compare the confidence of predictions in [0, 1] with the share of correct ones, in BINS intervals [low, high)."""
    numbers = np.clip(np.asarray(confidence, dtype=np.float64) * BINS, 0, BINS - 1).astype(np.int64)
    counts = np.bincount(numbers, minlength=BINS)
    sums = np.bincount(numbers, weights=confidence, minlength=BINS)
    hits = np.bincount(numbers, weights=correct, minlength=BINS)
    bins = tuple(
        ReliabilityBin(number / BINS, int(n), float(total / n), float(right / n))
        for number, (n, total, right) in enumerate(zip(counts, sums, hits, strict=True))
        if n
    )
    return Calibration(bins, float(np.abs(sums - hits).sum() / max(len(numbers), 1)))
