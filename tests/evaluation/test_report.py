from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from predicted import classified, origin_of

from slowfast_core.evaluation.classification import ClassificationResult, evaluate_classification
from slowfast_core.evaluation.comparison import compare
from slowfast_core.evaluation.measure import Measured, measure
from slowfast_core.evaluation.operating_points import choose_operating_points
from slowfast_core.evaluation.predictions import DETECTION, Predictions, table_of
from slowfast_core.evaluation.report import (
    class_table,
    confusion_view,
    most_confused,
    write_report,
)

RECIPE = "SlowFast on <demo> & co"


def classification(classes: int, videos: int = 300, advantage: float = 0.4) -> Measured:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, videos)
    scores = random.random((videos, classes))
    scores[np.arange(videos), labels] += advantage
    names = [f"<b>class</b> {c}" for c in range(classes)]
    sources = [f"source{n // 2}" for n in range(videos)]
    return measure(classified(scores / 2, [[c] for c in labels], names, sources))


def classification_result(classes: int) -> ClassificationResult:
    result = classification(classes).result
    assert isinstance(result, ClassificationResult)
    return result


def detection(strays: int = 0) -> Measured:
    """Two true boxes, of which the first is found; `strays` detections are in key frames without ground truth."""
    box = [0.1, 0.1, 0.5, 0.5]
    true = {902: [[0]], 903: [[2]]}
    found = {902 + n: 0.9 - 0.1 * n for n in range(1 + strays)}
    rows = [
        {
            "id": f"v_{second}",
            "video": "v",
            "second": second,
            "boxes": [box] if second in found else [],
            "scores": [[found[second], 0.0, 0.0, 0.0]] if second in found else [],
            "true_boxes": [box] if second in true else [],
            "true_labels": true.get(second, []),
        }
        for second in sorted({*true, *found})
    ]
    names = ["walk", "", "sit <down>", "never seen"]
    return measure(Predictions(origin_of("detection", names), table_of(rows, DETECTION)))


class Checker(HTMLParser):
    """Collects what a browser would fetch or run, and checks that tags are nested correctly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [f"{name}={value}" for name, value in attributes if name in {"src", "href", "xlink:href"}]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def check(path: Path) -> Checker:
    text = path.read_text(encoding="utf-8")
    page = Checker(text)
    assert not page.open
    assert not page.fetched
    assert not {"script", "link", "img", "b"} & set(page.tags)
    assert not [word for word in ("http:", "https:", "@import", "url(", "nan %", "None") if word in text]
    return page


def test_classification_report(tmp_path: Path) -> None:
    measured = classification(8)
    write_report(tmp_path / "report.html", measured)
    page = check(tmp_path / "report.html")
    for word in (f"Evaluation of {RECIPE}", RECIPE, "d41d8.dir", "sha256:abc", "<b>class</b> 3"):
        assert word in page.words
    assert "10 clips x 3 crops of 256 pixels, mean" in page.words
    result = measured.result
    assert f"{100 * result.metrics['top1']:.1f} %" in page.words
    assert result.worst[0].id in page.words
    assert result.best[0].id in page.words


def test_report_shows_intervals_and_calibration(tmp_path: Path) -> None:
    measured = classification(8)
    write_report(tmp_path / "report.html", measured)
    page = check(tmp_path / "report.html")
    low, high = measured.intervals["top1"]
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f}" in page.words
    for low, high in measured.class_intervals:
        assert f"{100 * low:.1f} to {100 * high:.1f}" in page.words
    text = (tmp_path / "report.html").read_text()
    assert f"Expected calibration error: {100 * measured.calibration.error:.1f} %" in text
    for each in measured.calibration.bins:
        assert f"{each.count} predictions: score {100 * each.confidence:.1f} %" in text


def test_comparison_lists_fixed_and_broken_videos_and_classes(tmp_path: Path) -> None:
    measured, other = classification(8), classification(8, advantage=0.1)
    comparison = compare(measured, other, tmp_path)
    write_report(tmp_path / "report.html", measured, comparison)
    page = check(tmp_path / "report.html")
    assert comparison.flips is not None
    assert f"Videos fixed: {len(comparison.flips.fixed)}" in page.words
    assert comparison.flips.fixed[0].id in page.words
    top1 = comparison.headlines[0]
    assert f"{100 * top1.difference:+.1f}" in page.words
    assert "Comparison" in page.words
    write_report(tmp_path / "report.html", measured)
    assert "Comparison" not in check(tmp_path / "report.html").words


def test_operating_points_have_a_section(tmp_path: Path) -> None:
    measured = classification(8)
    points = choose_operating_points(measured.predictions, 0.9)
    never = points.classes[0].model_copy(update={"threshold": None, "accepted": 0, "precision": None})
    points = points.model_copy(update={"classes": (never, *points.classes[1:])})
    write_report(tmp_path / "report.html", measured, points=points)
    page = check(tmp_path / "report.html")
    assert "Operating points for a precision of 90.0 %" in page.words
    for threshold in [point.threshold for point in points.classes]:
        assert ("never accepted" if threshold is None else f"{threshold:.3f}") in page.words


def test_comparison_of_detections_has_no_videos_to_list(tmp_path: Path) -> None:
    comparison = compare(detection(), detection(strays=0), tmp_path)
    write_report(tmp_path / "report.html", detection(), comparison)
    page = check(tmp_path / "report.html")
    assert "Comparison" in page.words
    assert "No class is better." in page.words
    assert not [word for word in page.words if word.startswith("Videos fixed")]


@pytest.mark.parametrize(("classes", "side"), [(2, 2), (60, 60), (61, 20)])
def test_confusion_shows_all_classes_or_the_worst(classes: int, side: int, tmp_path: Path) -> None:
    measured = classification(classes)
    result = classification_result(classes)
    view = confusion_view(result)
    assert len(view.names) == len(view.cells) == len(view.cells[0]) == side
    shown = [result.per_class[result.names.index(name)] for name in view.names]
    assert np.nanmax(shown) <= np.sort(result.per_class)[side - 1]
    write_report(tmp_path / "report.html", measured)
    check(tmp_path / "report.html")


def test_most_confused_pairs() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 1, 2])
    result = evaluate_classification(list("abcdef"), np.eye(3)[predicted], labels, ["x", "y", "z"])
    pairs = most_confused(result)
    assert [(p.truth, p.predicted, p.count, round(p.share, 3)) for p in pairs] == [
        ("x", "y", 2, 0.667),
        ("y", "x", 1, 0.5),
    ]


def test_class_table_is_best_first_and_without_examples_last() -> None:
    table = class_table(
        "AP", ["a", "b", "c", "d"], np.array([0.5, np.nan, 1.0, 0.5]), {"boxes": np.array([4, 0, 1, 2])}
    )
    assert [(row.name, row.share, row.counts) for row in table.rows] == [
        ("c", 1.0, (1,)),
        ("a", 0.5, (4,)),
        ("d", 0.5, (2,)),
        ("b", None, (0,)),
    ]
    assert table.histogram == (0, 0, 0, 0, 0, 2, 0, 0, 0, 1)
    assert table.mean == pytest.approx(2 / 3)


def test_detection_report(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", detection())
    page = check(tmp_path / "report.html")
    for word in ("50.0 %", "mAP at IoU 0.5", "over 2 of 3 listed classes", "sit <down>", "no example", "v,0902"):
        assert word in page.words
    assert "1, from the ground truth" in page.words
    assert not [word for word in page.words if "by the official protocol" in word]


def test_detections_in_frames_without_ground_truth_are_reported(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", detection(strays=4))
    words = check(tmp_path / "report.html").words
    assert [word for word in words if word.startswith("3 key frames have detections but no ground truth")]


def test_reports_are_the_same_for_the_same_result(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_report(tmp_path / f"c-{name}", classification(8))
        write_report(tmp_path / f"d-{name}", detection())
    assert (tmp_path / "c-one.html").read_bytes() == (tmp_path / "c-two.html").read_bytes()
    assert (tmp_path / "d-one.html").read_bytes() == (tmp_path / "d-two.html").read_bytes()
