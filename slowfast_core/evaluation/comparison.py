"""Paired comparison of two models by their predictions for the same data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slowfast_core.errors import InputError
from slowfast_core.evaluation.measure import DIGITS, Measured, per_class
from slowfast_core.evaluation.predictions import Origin, Predictions
from slowfast_core.evaluation.statistics import Interval, interval_of_difference, mcnemar


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same data."""

    name: str
    ours: float
    other: float
    interval: Interval  # of ours - other

    @property
    def difference(self) -> float:
        return self.ours - self.other

    def as_json(self) -> dict[str, str | float]:
        ends = {"low": self.interval.low, "high": self.interval.high}
        return {"name": self.name, "this": self.ours, "other": self.other, "difference": self.difference, **ends}


@dataclass(frozen=True)
class Flip:
    """A video and its best prediction by each model, of which one is correct."""

    id: str
    truth: str
    ours: str
    other: str


@dataclass(frozen=True)
class Flips:
    """Videos whose best prediction is correct by one model and wrong by the other."""

    fixed: tuple[Flip, ...]  # wrong by the other model, correct by ours
    broken: tuple[Flip, ...]
    p_value: float  # McNemar's exact test; it takes the videos as independent


@dataclass(frozen=True)
class Comparison:
    """Differences between a model and another one."""

    other: Origin
    headlines: tuple[Difference, ...]
    classes: tuple[Difference, ...]  # that have examples
    flips: Flips | None  # None in detection

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "other": self.other.model_dump(include={"recipe", "data_version", "weights_digest"}),
            "metrics": [each.as_json() for each in self.headlines],
            "classes": [each.as_json() for each in self.classes],
            **({} if self.flips is None else asdict(self.flips)),
        }


def compare(ours: Measured, other: Measured, where: Path) -> Comparison:
    """Compare our model with the other one, whose predictions are in `where`.

    Raises InputError if they are not predictions for the same rows of the same data.
    """
    _check(ours.predictions, other.predictions, where)
    clusters = ours.replicates.clusters
    headlines = []
    for name, metric in ours.result.metrics.items():
        difference = metric - other.result.metrics[name]
        replicates = ours.replicates.metrics[name] - other.replicates.metrics[name]
        interval = interval_of_difference(difference, replicates, clusters)
        headlines.append(Difference(name, metric, other.result.metrics[name], _rounded(interval)))
    return Comparison(other.predictions.origin, tuple(headlines), _classes(ours, other), _flips(ours, other))


def _classes(ours: Measured, other: Measured) -> tuple[Difference, ...]:
    values, others = per_class(ours.result), per_class(other.result)
    replicates = ours.replicates.classes - other.replicates.classes
    differences = []
    for c, name in enumerate(ours.result.names):
        if not np.isnan(values[c]):
            clusters = int(ours.replicates.class_clusters[c])
            interval = interval_of_difference(float(values[c] - others[c]), replicates[c], clusters)
            differences.append(Difference(name, float(values[c]), float(others[c]), _rounded(interval)))
    return tuple(differences)


def _flips(ours: Measured, other: Measured) -> Flips | None:
    if ours.correct is None or other.correct is None:
        return None
    names, ids, labels = ours.predictions.origin.labels, ours.predictions.ids, ours.predictions.labels
    best, other_best = (each.predictions.scores.argmax(axis=1) for each in (ours, other))

    def flip(n: int) -> Flip:
        truth = ", ".join(names[c] for c in labels[n]) if labels[n] else "none"
        return Flip(ids[n], truth, names[best[n]], names[other_best[n]])

    fixed = tuple(flip(n) for n in np.flatnonzero(ours.correct & ~other.correct).tolist())
    broken = tuple(flip(n) for n in np.flatnonzero(other.correct & ~ours.correct).tolist())
    return Flips(fixed, broken, mcnemar(len(fixed), len(broken)))


def _rounded(interval: Interval) -> Interval:
    return Interval(round(interval.low, DIGITS), round(interval.high, DIGITS))


def _check(ours: Predictions, other: Predictions, where: Path) -> None:
    for name, what in (("data_version", "data version"), ("protocol", "protocol"), ("labels", "class names")):
        mine, theirs = getattr(ours.origin, name), getattr(other.origin, name)
        if mine != theirs:
            values = f": {theirs}, not {mine}" if isinstance(mine, str) else ""
            fix = "evaluate both models on the same data"
            raise InputError(f"these predictions have another {what}{values}", where, fix)
    if ours.ids != other.ids:
        raise InputError("these predictions are of other videos", where, "evaluate both models on the same data")
