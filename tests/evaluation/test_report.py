from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from slowfast_core.evaluation.ava import DetectionResult, Detections, GroundTruth, evaluate_detections
from slowfast_core.evaluation.classification import ClassificationResult, evaluate_classification
from slowfast_core.evaluation.report import (
    ReportContext,
    class_table,
    confusion_view,
    most_confused,
    write_classification_report,
    write_detection_report,
)

CONTEXT = ReportContext(
    "SlowFast on <demo> & co", "demo", "d41d8.dir", "sha256:abc", (("views", "10 clips x 3 crops"),)
)


def classification(classes: int, videos: int = 300) -> ClassificationResult:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, videos)
    scores = random.random((videos, classes))
    scores[np.arange(videos), labels] += 0.4
    names = [f"<b>class</b> {c}" for c in range(classes)]
    return evaluate_classification([f"video{n}" for n in range(videos)], scores, labels, names)


def detection(strays: int = 0) -> DetectionResult:
    boxes = np.array([[0.1, 0.1, 0.5, 0.5]])
    truths = {("v", 902): GroundTruth(boxes, np.array([0])), ("v", 903): GroundTruth(boxes, np.array([2]))}
    found = {("v", 902 + n): Detections(boxes, np.array([0]), np.array([0.9 - 0.1 * n])) for n in range(1 + strays)}
    return evaluate_detections(truths, found, ["walk", "", "sit <down>", "never seen"])


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
    result = classification(8)
    write_classification_report(tmp_path / "report.html", CONTEXT, result)
    page = check(tmp_path / "report.html")
    for word in (CONTEXT.title, "demo", "d41d8.dir", "sha256:abc", "10 clips x 3 crops", "<b>class</b> 3"):
        assert word in page.words
    assert f"{100 * result.top1:.1f} %" in page.words
    assert result.worst[0].id in page.words
    assert result.best[0].id in page.words


@pytest.mark.parametrize(("classes", "side"), [(2, 2), (60, 60), (61, 20)])
def test_confusion_shows_all_classes_or_the_worst(classes: int, side: int, tmp_path: Path) -> None:
    result = classification(classes)
    view = confusion_view(result)
    assert len(view.names) == len(view.cells) == len(view.cells[0]) == side
    shown = [result.per_class[result.names.index(name)] for name in view.names]
    assert np.nanmax(shown) <= np.sort(result.per_class)[side - 1]
    write_classification_report(tmp_path / "report.html", CONTEXT, result)
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
    write_detection_report(tmp_path / "report.html", CONTEXT, detection())
    page = check(tmp_path / "report.html")
    for word in ("50.0 %", "mAP at IoU 0.5", "over 2 of 3 listed classes", "sit <down>", "no example", "v,0902"):
        assert word in page.words
    assert not [word for word in page.words if "by the official protocol" in word]


def test_a_report_without_a_title_is_named_after_its_recipe(tmp_path: Path) -> None:
    write_detection_report(tmp_path / "report.html", ReportContext("ava/demo", "d41d8.dir", "sha256:abc"), detection())
    assert "Evaluation of ava/demo" in check(tmp_path / "report.html").words


def test_detections_in_frames_without_ground_truth_are_reported(tmp_path: Path) -> None:
    write_detection_report(tmp_path / "report.html", CONTEXT, detection(strays=4))
    words = check(tmp_path / "report.html").words
    assert [word for word in words if word.startswith("3 key frames have detections but no ground truth")]


def test_reports_are_the_same_for_the_same_result(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_classification_report(tmp_path / f"c-{name}", CONTEXT, classification(8))
        write_detection_report(tmp_path / f"d-{name}", CONTEXT, detection())
    assert (tmp_path / "c-one.html").read_bytes() == (tmp_path / "c-two.html").read_bytes()
    assert (tmp_path / "d-one.html").read_bytes() == (tmp_path / "d-two.html").read_bytes()
