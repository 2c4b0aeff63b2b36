"""The report of an evaluation: a self-contained HTML page, byte-identical for the same predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slowfast_core.evaluation.ava import DetectionResult
from slowfast_core.evaluation.classification import ClassificationResult, Example, Floats, Ints
from slowfast_core.evaluation.comparison import Comparison, Difference, compare
from slowfast_core.evaluation.measure import Measured, all_metrics, measure
from slowfast_core.evaluation.multi_label import MultiLabelResult
from slowfast_core.evaluation.operating_points import (
    FOLDS,
    OPERATING_POINTS,
    OperatingPoints,
    choose_operating_points,
    write_operating_points,
)
from slowfast_core.evaluation.predictions import PREDICTIONS, Origin, Predictions, read_predictions
from slowfast_core.evaluation.statistics import BINS as RELIABILITY_BINS
from slowfast_core.evaluation.statistics import Calibration, Interval
from slowfast_core.files import write_whole

REPORT, METRICS = "report.html", "metrics.json"
WHOLE_MATRIX = 60  # largest number of classes with a full confusion matrix
WORST_CLASSES = 20  # classes in the matrix if there are more
PAIRS = 12
BINS = 10
CHANGES = 10  # classes with the largest gains, and as many with the largest losses
FLIPS = 20  # listed videos that were fixed, and as many that were broken


@dataclass(frozen=True)
class Headline:
    """A main figure of the report."""

    name: str
    value: str
    note: str
    interval: str = ""


@dataclass(frozen=True)
class ClassRow:
    """The result of a class."""

    name: str
    share: float | None  # accuracy or AP; None: no example of this class
    counts: tuple[int, ...]
    interval: Interval | None = None


@dataclass(frozen=True)
class ClassTable:
    """The results of all classes."""

    measure: str
    counts: tuple[str, ...]  # headings of ClassRow.counts
    rows: tuple[ClassRow, ...]  # best first
    mean: float

    @cached_property
    def histogram(self) -> tuple[int, ...]:
        """Number of classes in each tenth of [0, 1]."""
        shares = [row.share for row in self.rows if row.share is not None]
        return tuple(int(n) for n in np.histogram(shares, bins=BINS, range=(0, 1))[0])


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix."""

    count: int
    share: float  # of the examples in the row
    right: bool
    hint: str


@dataclass(frozen=True)
class ConfusionView:
    """The part of the confusion matrix that the report shows."""

    names: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    total_classes: int


@dataclass(frozen=True)
class Pair:
    """A true class and the class it was confused with."""

    truth: str
    predicted: str
    count: int
    share: float  # of the examples of the true class


@dataclass(frozen=True)
class ComparisonView:
    """The part of a comparison that the report shows."""

    comparison: Comparison
    gains: tuple[Difference, ...]  # classes, largest change first
    losses: tuple[Difference, ...]


@dataclass(frozen=True)
class Page:
    """Everything that the template report.html shows."""

    origin: Origin
    facts: tuple[tuple[str, str], ...]  # further lines of the head
    kind: str
    headlines: tuple[Headline, ...]
    table: ClassTable
    worst: tuple[Example, ...]
    best: tuple[Example, ...]
    example_of: str  # heading of Example.id
    calibration: Calibration
    calibrated: str  # what the calibration is of
    comparison: ComparisonView | None
    notice: str = ""
    confusion: ConfusionView | None = None
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Report:
    """The files of a report and what they show."""

    outputs: dict[str, Path]
    measured: Measured
    comparison: Comparison | None
    points: OperatingPoints | None


def write_results(folder: Path, predictions: Predictions) -> Measured:
    """Compute and write metrics.json and report.html."""
    measured = measure(predictions)
    write_whole(folder / METRICS, json.dumps(all_metrics(measured), indent=1))
    write_report(folder / REPORT, measured)
    return measured


def report_on(
    predictions: Path, against: Path | None = None, precision: float | None = None, folder: Path | None = None
) -> Report:
    """Write metrics.json and report.html again, in `folder` or next to the predictions.

    `predictions` and `against`, to compare with, are files or folders of an evaluation. With `precision`, also choose
    and write operating points. Raises InputError.
    """
    path = _predictions_in(predictions)
    measured = measure(read_predictions(path))
    comparison = None
    if against is not None:
        other = _predictions_in(against)
        comparison = compare(measured, measure(read_predictions(other)), other)
    points = None if precision is None else choose_operating_points(measured.predictions, precision)
    folder = folder or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / METRICS, json.dumps(all_metrics(measured), indent=1))
    write_report(folder / REPORT, measured, comparison, points)
    outputs = {"report": folder / REPORT, "metrics": folder / METRICS}
    if points:
        outputs["operating_points"] = folder / OPERATING_POINTS
        write_operating_points(outputs["operating_points"], points)
    return Report(outputs, measured, comparison, points)


def _predictions_in(path: Path) -> Path:
    return path / PREDICTIONS if path.is_dir() else path


def write_report(
    path: Path,
    measured: Measured,
    comparison: Comparison | None = None,
    points: OperatingPoints | None = None,
) -> None:
    view = comparison_view(comparison) if comparison else None
    if isinstance(measured.result, ClassificationResult):
        page = _classification_page(measured, measured.result, view)
    elif isinstance(measured.result, MultiLabelResult):
        page = _multi_label_page(measured, measured.result, view)
    else:
        page = _detection_page(measured, measured.result, view)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "in_points": in_points, "range_of": range_of}
    environment.globals |= {"reliability_bins": RELIABILITY_BINS, "flips_shown": FLIPS, "folds": FOLDS}
    write_whole(path, environment.get_template("report.html").render(page=page, points=points))


def _classification_page(measured: Measured, result: ClassificationResult, view: ComparisonView | None) -> Page:
    top5 = "the label is among the top 5" if len(result.names) > 5 else "always 100 % with at most 5 classes"
    classes = f"over {_counted(result.per_class)} classes"
    counts = {
        "videos": result.confusion.sum(axis=1),
        "correct": result.confusion.diagonal(),
        "predicted": result.confusion.sum(axis=0),
    }
    return Page(
        origin=measured.predictions.origin,
        facts=_facts(measured),
        kind="classification",
        headlines=(
            _headline("top-1", "top1", measured, f"of {result.videos:,} videos"),
            _headline("top-5", "top5", measured, top5),
            _headline("mean class accuracy", "mean_class_accuracy", measured, classes),
        ),
        table=class_table("accuracy", result.names, result.per_class, counts, measured.class_intervals),
        worst=result.worst,
        best=result.best,
        example_of="video",
        calibration=measured.calibration,
        calibrated="score of the predicted class",
        comparison=view,
        confusion=confusion_view(result),
        pairs=most_confused(result),
    )


def _multi_label_page(measured: Measured, result: MultiLabelResult, view: ComparisonView | None) -> Page:
    counts = {"videos": result.positives}
    without = f"{result.unlabelled:,} of them have no action and are ranked last"
    return Page(
        origin=measured.predictions.origin,
        facts=_facts(measured),
        kind="multi-label classification",
        headlines=(
            _headline("mAP", "mAP", measured, f"over {_counted(result.average_precision)} classes"),
            Headline("videos", f"{result.videos:,}", without),
        ),
        table=class_table("AP", result.names, result.average_precision, counts, measured.class_intervals),
        worst=result.worst,
        best=result.best,
        example_of="video",
        calibration=measured.calibration,
        calibrated="score of each class of each video",
        comparison=view,
    )


def _detection_page(measured: Measured, result: DetectionResult, view: ComparisonView | None) -> Page:
    truths, hits = int(result.truths.sum()), int(result.hits.sum())
    listed = [c for c, name in enumerate(result.names) if name]
    names = [result.names[c] for c in listed]
    counts = {"boxes": result.truths[listed], "found": result.hits[listed], "detections": result.found[listed]}
    intervals = [measured.class_intervals[c] for c in listed]
    return Page(
        origin=measured.predictions.origin,
        facts=_facts(measured),
        kind="action detection",
        headlines=(
            _headline(f"mAP at IoU {result.iou:g}", "mAP", measured, _over_listed(result)),
            Headline("recall", percent(hits / truths), f"{hits:,} of {truths:,} labelled actions found"),
            Headline("key frames", f"{result.frames:,}", f"{result.frames_missed:,} of them without a detection"),
        ),
        table=class_table("AP", names, result.average_precision[listed], counts, intervals),
        worst=result.worst,
        best=result.best,
        example_of="key frame",
        calibration=measured.calibration,
        calibrated="score of each detection",
        comparison=view,
        notice=_notice(result),
    )


def class_table(
    measure: str,
    names: Sequence[str],
    shares: Floats,
    counts: Mapping[str, Ints],
    intervals: Sequence[Interval] | None = None,
) -> ClassTable:
    """One row per class, best first; classes without examples last."""
    order = sorted(range(len(names)), key=lambda c: (np.isnan(shares[c]), -shares[c], c))
    rows = []
    for c in order:
        share = None if np.isnan(shares[c]) else float(shares[c])
        interval = intervals[c] if intervals and share is not None else None
        rows.append(ClassRow(names[c], share, tuple(int(column[c]) for column in counts.values()), interval))
    return ClassTable(measure, tuple(counts), tuple(rows), float(np.nanmean(shares)))


def comparison_view(comparison: Comparison) -> ComparisonView:
    """The comparison, with the classes of the largest gains and losses."""
    order = sorted(comparison.classes, key=lambda each: -each.difference)
    gains = [each for each in order if each.difference > 0]
    losses = [each for each in reversed(order) if each.difference < 0]
    return ComparisonView(comparison, tuple(gains[:CHANGES]), tuple(losses[:CHANGES]))


def confusion_view(result: ClassificationResult) -> ConfusionView:
    """The confusion matrix of all classes, or of those with the lowest accuracy if there are too many to show."""
    chosen = list(range(len(result.names)))
    if len(chosen) > WHOLE_MATRIX:
        worst = np.argsort(np.nan_to_num(result.per_class, nan=2.0), kind="stable")[:WORST_CLASSES]
        chosen = sorted(worst.tolist())
    totals = np.maximum(result.confusion.sum(axis=1), 1)

    def cell(row: int, column: int) -> Cell:
        count = int(result.confusion[row, column])
        hint = f"{result.names[row]} predicted as {result.names[column]}: {count} of {totals[row]}"
        return Cell(count, count / float(totals[row]), row == column, hint)

    cells = tuple(tuple(cell(row, column) for column in chosen) for row in chosen)
    return ConfusionView(tuple(result.names[c] for c in chosen), cells, len(result.names))


def most_confused(result: ClassificationResult) -> tuple[Pair, ...]:
    """The most frequent confusions, by count."""
    wrong = result.confusion * ~np.eye(len(result.names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS].tolist()
    totals = result.confusion.sum(axis=1)
    pairs = []
    for row, column in (divmod(place, len(result.names)) for place in order):
        if count := int(wrong[row, column]):
            pairs.append(Pair(result.names[row], result.names[column], count, count / float(totals[row])))
    return tuple(pairs)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def in_points(difference: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * difference:+.1f}"


def range_of(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _headline(title: str, metric: str, measured: Measured, note: str) -> Headline:
    value = percent(measured.result.metrics[metric])
    return Headline(title, value, note, f"95 % interval {range_of(measured.intervals[metric])}")


def _facts(measured: Measured) -> tuple[tuple[str, str], ...]:
    """The views, or the boxes that were scored."""
    predictions = measured.predictions
    test = predictions.origin.evaluate
    if predictions.origin.protocol != "detection":
        return (("views", f"{test.clips} clips x {test.crops} crops of {test.size} pixels, {test.aggregation}"),)
    boxes = sum(len(boxes) for boxes in predictions.table["boxes"])
    origin = "predicted by a person detector" if test.boxes == "predicted" else "from the ground truth"
    return (("boxes", f"{boxes:,}, {origin}"), ("protocol", predictions.origin.evaluate.protocol))


def _counted(shares: Floats) -> int:
    return int(np.count_nonzero(~np.isnan(shares)))


def _over_listed(result: DetectionResult) -> str:
    listed = sum(bool(name) for name in result.names)
    return f"over {_counted(result.average_precision)} of {listed} listed classes"


def _notice(result: DetectionResult) -> str:
    """A warning about key frames without ground truth: lists that do not match lower the mAP without any error."""
    if not result.frames_unknown:
        return ""
    return (
        f"{result.frames_unknown:,} key frames have detections but no ground truth; by the official protocol all these "
        "detections are false positives. Check that detections and annotations cover the same videos and seconds."
    )
