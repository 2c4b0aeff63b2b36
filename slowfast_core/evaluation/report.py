"""The report of an evaluation: a self-contained HTML page, byte-identical for the same result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slowfast_core.evaluation.ava import DetectionResult
from slowfast_core.evaluation.classification import ClassificationResult, Example, Floats, Ints
from slowfast_core.evaluation.multi_label import MultiLabelResult
from slowfast_core.files import write_whole

WHOLE_MATRIX = 60  # largest number of classes with a full confusion matrix
WORST_CLASSES = 20  # classes in the matrix if there are more
PAIRS = 12
BINS = 10


@dataclass(frozen=True)
class ReportContext:
    """Recipe, data and weights of the evaluation, for the head of the report."""

    recipe: str
    data_version: str
    weights_digest: str
    title: str = ""  # empty: derived from the recipe's name
    facts: tuple[tuple[str, str], ...] = ()  # further lines below the title, e.g. ("views", "10 clips x 3 crops")

    @property
    def heading(self) -> str:
        return self.title or f"Evaluation of {self.recipe}"


@dataclass(frozen=True)
class Headline:
    """A main figure of the report."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class ClassRow:
    """The result of a class."""

    name: str
    share: float | None  # accuracy or AP; None: no example of this class
    counts: tuple[int, ...]


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
class Page:
    """Everything that the template report.html shows."""

    context: ReportContext
    kind: str
    headlines: tuple[Headline, ...]
    table: ClassTable
    worst: tuple[Example, ...]
    best: tuple[Example, ...]
    example_of: str  # heading of Example.id
    notice: str = ""
    confusion: ConfusionView | None = None
    pairs: tuple[Pair, ...] = ()


def write_classification_report(path: Path, context: ReportContext, result: ClassificationResult) -> None:
    top5 = "the label is among the top 5" if len(result.names) > 5 else "always 100 % with at most 5 classes"
    classes = f"over {_counted(result.per_class)} classes"
    headlines = (
        Headline("top-1", percent(result.top1), f"of {result.videos:,} videos"),
        Headline("top-5", percent(result.top5), top5),
        Headline("mean class accuracy", percent(result.mean_class_accuracy), classes),
    )
    counts = {
        "videos": result.confusion.sum(axis=1),
        "correct": result.confusion.diagonal(),
        "predicted": result.confusion.sum(axis=0),
    }
    page = Page(
        context=context,
        kind="classification",
        headlines=headlines,
        table=class_table("accuracy", result.names, result.per_class, counts),
        worst=result.worst,
        best=result.best,
        example_of="video",
        confusion=confusion_view(result),
        pairs=most_confused(result),
    )
    _write(path, page)


def write_multi_label_report(path: Path, context: ReportContext, result: MultiLabelResult) -> None:
    headlines = (
        Headline("mAP", percent(result.mean_average_precision), f"over {_counted(result.average_precision)} classes"),
        Headline("videos", f"{result.videos:,}", f"{result.unlabelled:,} of them have no action and are ranked last"),
    )
    page = Page(
        context=context,
        kind="multi-label classification",
        headlines=headlines,
        table=class_table("AP", result.names, result.average_precision, {"videos": result.positives}),
        worst=result.worst,
        best=result.best,
        example_of="video",
    )
    _write(path, page)


def write_detection_report(path: Path, context: ReportContext, result: DetectionResult) -> None:
    truths, hits = int(result.truths.sum()), int(result.hits.sum())
    headlines = (
        Headline(f"mAP at IoU {result.iou:g}", percent(result.mean_average_precision), _over_listed(result)),
        Headline("recall", percent(hits / truths), f"{hits:,} of {truths:,} labelled actions found"),
        Headline("key frames", f"{result.frames:,}", f"{result.frames_missed:,} of them without a detection"),
    )
    listed = [c for c, name in enumerate(result.names) if name]
    names = [result.names[c] for c in listed]
    counts = {"boxes": result.truths[listed], "found": result.hits[listed], "detections": result.found[listed]}
    page = Page(
        context=context,
        kind="action detection",
        headlines=headlines,
        table=class_table("AP", names, result.average_precision[listed], counts),
        worst=result.worst,
        best=result.best,
        example_of="key frame",
        notice=_notice(result),
    )
    _write(path, page)


def class_table(measure: str, names: Sequence[str], shares: Floats, counts: Mapping[str, Ints]) -> ClassTable:
    """One row per class, best first; classes without examples last."""
    order = sorted(range(len(names)), key=lambda c: (np.isnan(shares[c]), -shares[c], c))
    values = [None if np.isnan(share) else float(share) for share in shares]
    rows = tuple(ClassRow(names[c], values[c], tuple(int(column[c]) for column in counts.values())) for c in order)
    return ClassTable(measure, tuple(counts), rows, float(np.nanmean(shares)))


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


def _write(path: Path, page: Page) -> None:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    write_whole(path, environment.get_template("report.html").render(page=page))
