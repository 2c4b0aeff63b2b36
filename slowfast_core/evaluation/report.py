"""The report of an evaluation: one HTML page that needs nothing but itself, and is the same for the same result."""

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

WHOLE_MATRIX = 60  # classes up to which the confusion matrix is shown whole
WORST_CLASSES = 20
PAIRS = 12
BINS = 10


@dataclass(frozen=True)
class ReportContext:
    """What was evaluated."""

    recipe: str
    data_version: str
    weights_digest: str
    title: str = ""  # empty: one made from the recipe's name
    facts: tuple[tuple[str, str], ...] = ()  # more lines below the title, e.g. ("views", "10 clips x 3 crops")

    @property
    def heading(self) -> str:
        return self.title or f"Evaluation of {self.recipe}"


@dataclass(frozen=True)
class Headline:
    name: str
    value: str
    note: str


@dataclass(frozen=True)
class ClassRow:
    name: str
    share: float | None  # accuracy or AP; None: no example of this class
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ClassTable:
    measure: str
    counts: tuple[str, ...]  # headings of ClassRow.counts
    rows: tuple[ClassRow, ...]  # best first
    mean: float

    @cached_property
    def histogram(self) -> tuple[int, ...]:
        """How many classes lie in each tenth of [0, 1]."""
        shares = [row.share for row in self.rows if row.share is not None]
        return tuple(int(n) for n in np.histogram(shares, bins=BINS, range=(0, 1))[0])


@dataclass(frozen=True)
class Cell:
    count: int
    share: float  # of the row's examples
    right: bool
    hint: str


@dataclass(frozen=True)
class ConfusionView:
    names: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    total_classes: int


@dataclass(frozen=True)
class Pair:
    truth: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Page:
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
    top5 = "the label is among the best 5" if len(result.names) > 5 else "always, with so few classes"
    classes = f"over {_counted(result.per_class)} classes"
    headlines = (
        Headline("top-1", percent(result.top1), f"of {result.videos:,} videos"),
        Headline("top-5", percent(result.top5), top5),
        Headline("mean class accuracy", percent(result.mean_class_accuracy), classes),
    )
    videos, right, named = result.confusion.sum(1), result.confusion.diagonal(), result.confusion.sum(0)
    counts = {"videos": videos, "right": right, "predicted": named}
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
        Headline("videos", f"{result.videos:,}", f"{result.unlabelled:,} of them without any action: these rank last"),
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
    """One row a class, best first; those without examples last."""
    order = sorted(range(len(names)), key=lambda c: (np.isnan(shares[c]), -shares[c], c))
    values = [None if np.isnan(share) else float(share) for share in shares]
    rows = tuple(ClassRow(names[c], values[c], tuple(int(column[c]) for column in counts.values())) for c in order)
    return ClassTable(measure, tuple(counts), rows, float(np.nanmean(shares)))


def confusion_view(result: ClassificationResult) -> ConfusionView:
    """The matrix of all classes, or of the worst when there are too many to be seen."""
    chosen = list(range(len(result.names)))
    if len(chosen) > WHOLE_MATRIX:
        worst = np.argsort(np.nan_to_num(result.per_class, nan=2.0), kind="stable")[:WORST_CLASSES]
        chosen = sorted(worst.tolist())
    totals = np.maximum(result.confusion.sum(axis=1), 1)

    def cell(row: int, column: int) -> Cell:
        count = int(result.confusion[row, column])
        hint = f"{result.names[row]} taken for {result.names[column]}: {count} of {totals[row]}"
        return Cell(count, count / float(totals[row]), row == column, hint)

    cells = tuple(tuple(cell(row, column) for column in chosen) for row in chosen)
    return ConfusionView(tuple(result.names[c] for c in chosen), cells, len(result.names))


def most_confused(result: ClassificationResult) -> tuple[Pair, ...]:
    """The commonest mistakes, by count."""
    wrong = result.confusion * ~np.eye(len(result.names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS].tolist()
    totals, pairs = result.confusion.sum(axis=1), []
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
    """Lists that do not fit each other give a poor mAP without any error, so the page says it."""
    if not result.frames_unknown:
        return ""
    return (
        f"{result.frames_unknown:,} key frames have detections but no ground truth; by the official protocol they all "
        "count as false positives. Check that detections and annotations are of the same videos and seconds."
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
