"""Operating points of a classifier: a temperature that calibrates its scores, and a threshold for each class.

A class is accepted where its calibrated score reaches its threshold, the lowest with which the accepted predictions
have at least the chosen precision; a video of which no class is accepted is "none of these". Temperature and thresholds
are chosen on the evaluated videos. What they reach on other videos is therefore estimated by cross-validation: in each
of FOLDS parts, with the temperature and thresholds of the other parts. A source video has all its clips in one part.

Shapes: N videos, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.optimize import minimize_scalar

from slowfast_core.errors import InputError
from slowfast_core.evaluation.measure import clusters_of
from slowfast_core.evaluation.predictions import Predictions
from slowfast_core.evaluation.statistics import Interval, calibration, wilson
from slowfast_core.files import write_whole

OPERATING_POINTS = "operating_points.json"
FOLDS = 5
SEED = 0
TINY = 1e-9  # least probability of a class; softmax may give 0
TEMPERATURES = (0.05, 20.0)
FIX = "make them with `slowfast report PREDICTIONS --precision 0.9`"
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Kind = Literal["classification", "multi_label"]


class ClassPoint(BaseModel):
    """The threshold of a class, and what such thresholds reach in cross-validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    threshold: float | None  # None: no threshold has the precision, so that the class is never accepted
    accepted: int
    precision: float | None  # of the accepted predictions; None: there are none
    recall: float | None  # share of the class's videos that are accepted as this class; None: there are none

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the precision, taking videos as independent."""
        return Interval(math.nan, math.nan) if self.precision is None else wilson(self.precision, self.accepted)


class OperatingPoints(BaseModel):
    """The content of operating_points.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    data_version: str
    weights_digest: str
    protocol: Kind
    chosen_precision: float
    temperature: float
    ece: float  # before and after scaling, the latter by cross-validation
    ece_scaled: float
    precision: float | None  # of all accepted predictions, by cross-validation
    coverage: float  # share of videos of which a class is accepted, by cross-validation
    classes: tuple[ClassPoint, ...]

    def fits(self, labels: Sequence[str]) -> bool:
        return [each.name for each in self.classes] == list(labels)

    def calibrated(self, scores: Floats) -> Floats:
        """Scores [..., C] at the temperature."""
        return scaled(scores, self.temperature, self.protocol)

    def accepted(self, calibrated: Floats) -> list[int]:
        """The classes that are accepted for calibrated scores [C]; none of them: the video is of none of these."""
        best = range(len(calibrated)) if self.protocol == "multi_label" else [int(calibrated.argmax())]
        least = [self.classes[c].threshold for c in best]
        return [c for c, at in zip(best, least, strict=True) if at is not None and calibrated[c] >= at]


def choose_operating_points(predictions: Predictions, precision: float) -> OperatingPoints:
    """Choose them for a precision in (0, 1]. Raises InputError for predictions of a detection model."""
    origin = predictions.origin
    if origin.protocol == "detection":
        raise InputError("operating points are of classifiers", origin.recipe, "name predictions of videos")
    scores, truth = predictions.scores.astype(np.float64), _truth(predictions)
    temperature = temperature_of(scores, truth, origin.protocol)
    at = scaled(scores, temperature, origin.protocol)
    least = thresholds_of(at, truth, considered(at, origin.protocol), precision)
    held_out, accepted = _cross_validated(scores, truth, clusters_of(predictions.videos), origin.protocol, precision)
    hits, counts, truths = (accepted & truth).sum(axis=0), accepted.sum(axis=0), truth.sum(axis=0)
    return OperatingPoints(
        recipe=origin.recipe,
        data_version=origin.data_version,
        weights_digest=origin.weights_digest,
        protocol=origin.protocol,
        chosen_precision=precision,
        temperature=round(temperature, 4),
        ece=_error(scores, truth, origin.protocol),
        ece_scaled=_error(held_out, truth, origin.protocol),
        precision=_share(hits.sum(), counts.sum()),
        coverage=float(accepted.any(axis=1).mean()),
        classes=tuple(
            ClassPoint(
                name=name,
                threshold=None if np.isnan(least[c]) else float(least[c]),
                accepted=int(counts[c]),
                precision=_share(hits[c], counts[c]),
                recall=_share(hits[c], truths[c]),
            )
            for c, name in enumerate(origin.labels)
        ),
    )


def temperature_of(scores: Floats, truth: Bools, kind: Kind) -> float:
    """The temperature with the least cross-entropy (Guo et al., 2017); scores and truth are [N, C]."""

    def loss(log_temperature: float) -> float:
        at = scaled(scores, math.exp(log_temperature), kind)
        if kind == "classification":
            return float(-np.log(np.maximum(at[truth], TINY)).mean())
        return float(-np.log(np.maximum(np.where(truth, at, 1 - at), TINY)).mean())

    ends = tuple(math.log(end) for end in TEMPERATURES)
    return math.exp(float(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-4}).x))


def scaled(scores: Floats, temperature: float, kind: Kind) -> Floats:
    """Probabilities [..., C] with their logits divided by the temperature: softmax, or sigmoid with several labels."""
    kept = np.clip(np.asarray(scores, dtype=np.float64), TINY, 1 - TINY if kind == "multi_label" else 1)
    if kind == "multi_label":
        odds = (kept / (1 - kept)) ** (1 / temperature)
        return np.asarray(odds / (1 + odds))
    logs = np.log(kept)
    powers = np.exp((logs - logs.max(axis=-1, keepdims=True)) / temperature)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def considered(scores: Floats, kind: Kind) -> Bools:
    """The predictions [N, C] that may be accepted: the best class of a video, or every class with several labels."""
    if kind == "multi_label":
        return np.ones(scores.shape, dtype=bool)
    return np.asarray(scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1]))


def thresholds_of(scores: Floats, truth: Bools, which: Bools, precision: float) -> Floats:
    """The lowest threshold [C] with which the considered predictions have the precision; NaN: there is none."""
    found = np.full(scores.shape[1], np.nan)
    for c in range(scores.shape[1]):
        rows = np.flatnonzero(which[:, c])
        rows = rows[np.argsort(-scores[rows, c], kind="stable")]
        values = scores[rows, c]
        reached = truth[rows, c].cumsum() >= precision * np.arange(1, len(rows) + 1)
        last_of_equal = np.append(values[1:] < values[:-1], True)[: len(rows)]
        if len(ends := np.flatnonzero(reached & last_of_equal)):
            found[c] = values[ends[-1]]
    return found


def write_operating_points(path: Path, points: OperatingPoints) -> None:
    write_whole(path, points.model_dump_json(indent=1))


def read_operating_points(path: Path) -> OperatingPoints:
    """Read the file. Raises InputError."""
    try:
        return OperatingPoints.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"no operating points: {error.strerror}", path, FIX) from None
    except ValidationError:
        raise InputError("not operating points", path, FIX) from None


def _cross_validated(scores: Floats, truth: Bools, videos: Ints, kind: Kind, precision: float) -> tuple[Floats, Bools]:
    """Scaled scores and accepted predictions [N, C], each by the temperature and thresholds of the other parts."""
    folds = np.random.default_rng(SEED).permutation(int(videos.max()) + 1)[videos] % FOLDS
    held_out, accepted = np.zeros_like(scores), np.zeros_like(truth)
    for fold in range(FOLDS):
        test, rest = folds == fold, folds != fold
        if not test.any() or not rest.any():
            continue
        temperature = temperature_of(scores[rest], truth[rest], kind)
        chosen = scaled(scores[rest], temperature, kind)
        least = thresholds_of(chosen, truth[rest], considered(chosen, kind), precision)
        held_out[test] = scaled(scores[test], temperature, kind)
        accepted[test] = considered(held_out[test], kind) & (held_out[test] >= least)  # false for NaN
    return held_out, accepted


def _truth(predictions: Predictions) -> Bools:
    truth = np.zeros(predictions.scores.shape, dtype=bool)
    for row, classes in zip(truth, predictions.labels, strict=True):
        row[list(classes)] = True
    return truth


def _error(scores: Floats, truth: Bools, kind: Kind) -> float:
    which = considered(scores, kind)
    return round(calibration(scores[which], truth[which]).error, 6)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
