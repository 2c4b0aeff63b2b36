"""AVA frame mAP against values computed by hand, and against the protocol reimplemented with plain loops."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from slowfast_core.data.annotations.boxes import KeyFrame
from slowfast_core.errors import InputError
from slowfast_core.evaluation.ava import (
    DetectionResult,
    Detections,
    GroundTruth,
    average_precision,
    evaluate_detections,
    write_detections,
)

A, B, C = (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9), (0.0, 0.5, 0.4, 0.9)
ONE, TWO = ("video", 902), ("video", 903)
Box = tuple[float, ...]


def truth(*rows: tuple[Box, int]) -> GroundTruth:
    return GroundTruth(np.array([b for b, _ in rows]).reshape(-1, 4), np.array([c for _, c in rows], dtype=int))


def found(*rows: tuple[Box, int, float]) -> Detections:
    boxes = np.array([b for b, _, _ in rows]).reshape(-1, 4)
    return Detections(boxes, np.array([c for _, c, _ in rows], dtype=int), np.array([float(s) for *_, s in rows]))


def plain_iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def plain_ap(truths: Mapping[KeyFrame, GroundTruth], all_found: Mapping[KeyFrame, Detections], c: int) -> float:
    """One class, one detection at a time; the precision at a recall level is the maximum at that level or higher."""
    wanted = {key: [tuple(b) for b, k in zip(t.boxes, t.classes, strict=True) if k == c] for key, t in truths.items()}
    total = sum(map(len, wanted.values()))
    if not total:
        return math.nan
    ranked = sorted(
        (-s, key, place, tuple(b))
        for key, d in all_found.items()
        for place, (b, k, s) in enumerate(zip(d.boxes, d.classes, d.scores, strict=True))
        if k == c
    )
    taken, judged = set(), []
    for negative, key, _, box in ranked:
        overlaps = [plain_iou(box, other) for other in wanted.get(key, [])]
        best = overlaps.index(max(overlaps)) if overlaps else -1
        hit = bool(overlaps) and overlaps[best] >= 0.5 and (key, best) not in taken
        taken |= {(key, best)} if hit else set()
        judged.append((negative, hit))
    right, points = 0, []
    for n, (_, hit) in enumerate(sorted(judged), start=1):  # of equal scores, the wrong ones first
        right += hit
        points.append((right, right / n))
    return sum(max((p for r, p in points if r >= level), default=0.0) for level in range(1, total + 1)) / total


def random_case(seed: int, frames: int = 12) -> tuple[dict[KeyFrame, GroundTruth], dict[KeyFrame, Detections]]:
    """Overlapping and shifted boxes, tied scores; some key frames have no ground truth or no detections."""
    random = np.random.default_rng(seed)
    truths: dict[KeyFrame, GroundTruth] = {}
    all_found: dict[KeyFrame, Detections] = {}
    for frame in range(frames):
        corner = random.random((3, 2)) * 0.4
        boxes = np.concatenate([corner, corner + 0.2 + random.random((3, 2)) * 0.3], axis=1)
        near = boxes[random.integers(0, 3, 8)] + random.normal(0, 0.04, (8, 4))
        key = (f"v{frame % 3}", 902 + frame)
        if frame % 5:
            truths[key] = GroundTruth(boxes, random.integers(0, 3, 3))
        if frame % 4:
            all_found[key] = Detections(near, random.integers(0, 4, 8), random.integers(0, 20, 8) / 20)
    return truths, all_found


def test_ap_by_hand() -> None:
    truths = {ONE: truth((A, 0), (B, 0)), TWO: truth((A, 0))}
    # by score: hit, false, hit, false; recall 1/3 at precision 1, recall 2/3 at precision 2/3, the third box is missed
    detections = {ONE: found((A, 0, 0.9), (C, 0, 0.8), (C, 0, 0.6)), TWO: found((A, 0, 0.7))}
    result = evaluate_detections(truths, detections, ["walk"])
    assert result.mean_average_precision == pytest.approx((1 + 2 / 3) / 3)
    assert (result.truths[0], result.found[0], result.hits[0]) == (3, 4, 2)
    assert result.metrics == {"mAP": result.mean_average_precision}


@pytest.mark.parametrize(
    ("hits", "truths", "ap"),
    [
        ([], 2, 0.0),
        ([1, 1], 2, 1.0),
        ([0, 0, 1], 1, 1 / 3),
        ([0, 1, 1], 2, 2 / 3),  # precision 1/2 at the first hit is raised to 2/3, that of the second
        ([1, 0, 0, 1, 1, 0], 4, (1 + 3 / 5 + 3 / 5) / 4),
    ],
)
def test_interpolation_by_hand(hits: list[int], truths: int, ap: float) -> None:
    assert average_precision(np.array(hits, dtype=bool), truths) == pytest.approx(ap)


def test_a_class_without_ground_truth_is_left_out_of_the_mean() -> None:
    result = evaluate_detections({ONE: truth((A, 0))}, {ONE: found((A, 0, 0.5), (A, 1, 0.9))}, ["walk", "sit"])
    assert math.isnan(result.average_precision[1])
    assert result.mean_average_precision == 1.0


def test_an_unlisted_class_is_ignored() -> None:
    truths = {ONE: truth((A, 0), (B, 1)), TWO: truth((A, 1))}
    detections = {ONE: found((A, 0, 0.5), (B, 1, 0.9)), TWO: found((A, 1, 0.9))}
    result = evaluate_detections(truths, detections, ["walk", ""])
    assert (result.mean_average_precision, result.frames, result.found.tolist()) == (1.0, 1, [1, 0])


def test_a_second_detection_of_a_box_is_a_false_positive() -> None:
    result = evaluate_detections({ONE: truth((A, 0))}, {ONE: found((A, 0, 0.4), (A, 0, 0.9))}, ["walk"])
    assert (result.mean_average_precision, result.hits[0], result.found[0]) == (1.0, 1, 2)
    late = evaluate_detections(
        {ONE: truth((A, 0), (B, 0))}, {ONE: found((A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.1))}, ["walk"]
    )
    assert late.mean_average_precision == pytest.approx((1 + 2 / 3) / 2)


def test_the_second_best_box_is_not_tried() -> None:
    wide = (0.0, 0.0, 0.4, 0.5)  # IoU 0.8 with A; both detections lie nearest to A
    result = evaluate_detections({ONE: truth((A, 0), (wide, 0))}, {ONE: found((A, 0, 0.9), (A, 0, 0.8))}, ["walk"])
    assert result.hits[0] == 1


@pytest.mark.parametrize(("right_edge", "hit"), [(0.5, True), (0.499, False)])
def test_an_iou_of_one_half_is_a_hit(right_edge: float, hit: bool) -> None:
    result = evaluate_detections(
        {ONE: truth(((0.0, 0.0, 1.0, 1.0), 0))}, {ONE: found(((0.0, 0.0, right_edge, 1.0), 0, 0.9))}, ["walk"]
    )
    assert bool(result.hits[0]) is hit


def test_a_detection_in_a_frame_without_ground_truth_is_a_false_positive_only_in_pyslowfast() -> None:
    truths, detections = {ONE: truth((A, 0))}, {TWO: found((A, 0, 0.9)), ONE: found((A, 0, 0.8))}
    assert evaluate_detections(truths, detections, ["walk"]).mean_average_precision == 1.0
    result = evaluate_detections(truths, detections, ["walk"], protocol="pyslowfast")
    assert result.mean_average_precision == 0.5
    assert (result.frames_unknown, result.frames_missed) == (1, 0)


def test_excluded_frames_do_not_count() -> None:
    truths, detections = {ONE: truth((A, 0)), TWO: truth((B, 0))}, {ONE: found((A, 0, 0.8)), TWO: found((A, 0, 0.9))}
    assert evaluate_detections(truths, detections, ["walk"]).mean_average_precision == 0.25
    assert evaluate_detections(truths, detections, ["walk"], excluded=[TWO]).mean_average_precision == 1.0


def test_the_fifty_best_of_a_frame_are_kept() -> None:
    detections = {ONE: found((A, 0, 0.1), *[(C, 0, 0.5)] * 50)}
    assert evaluate_detections({ONE: truth((A, 0))}, detections, ["walk"]).mean_average_precision == 0.0
    everything = evaluate_detections({ONE: truth((A, 0))}, detections, ["walk"], protocol="pyslowfast")
    assert everything.mean_average_precision == pytest.approx(1 / 51)


# (key frame, box, class, score), without score for ground truth. Class 2 is not in the label map.
Row = tuple[KeyFrame, Box, int] | tuple[KeyFrame, Box, int, float]
THREE, FOUR = ("video", 904), ("other", 902)
TRUTH: list[Row] = [(ONE, A, 0), (ONE, B, 0), (ONE, B, 1), (TWO, A, 0), (TWO, C, 1), (THREE, A, 2)]
FOUND: list[Row] = [(ONE, A, 0, 0.9), (ONE, C, 0, 0.85), (ONE, B, 0, 0.7), (TWO, A, 0, 0.6), (TWO, C, 1, 0.5)]
# Measured with the code of ActivityNet (82304fa) and of PySlowFast (287ec00) on csv files of these rows: mAP of both.
# Both sort the hit before the wrong detection of the same score in "ties" and find 0.5833; wrong ones come first here.
TIES = ((1 + 2 / 3) / 3 + 1 / 2) / 2
CASES: dict[str, tuple[list[Row], list[KeyFrame], float, float]] = {
    "ties": ([(ONE, A, 0, 0.5), (ONE, C, 0, 0.4), (TWO, A, 0, 0.4), (ONE, B, 1, 0.4)], [], TIES, TIES),
    "cap": ([*FOUND, *[(ONE, C, 1, 0.75)] * 49, (ONE, B, 1, 0.3)], [], 0.2828798186, 0.4362745098),
    "duplicates": ([*FOUND, (ONE, A, 0, 0.8), (TWO, A, 0, 0.55), (TWO, C, 1, 0.45)], [], 0.6166666667, 0.6166666667),
    "no truth": ([*FOUND, (FOUR, A, 0, 0.95), (FOUR, A, 1, 0.95)], [], 0.6666666667, 0.425),
    "excluded": ([*FOUND, (TWO, C, 0, 0.99)], [TWO], 0.4166666667, 0.4166666667),
    "unlisted": ([*FOUND, (THREE, A, 0, 0.95), (THREE, A, 2, 0.99), (TWO, A, 2, 0.99)], [], 0.55, 0.55),
    "empty": ([(FOUR, A, 0, 0.9)], [], 0, 0),
    "inverted": (
        [*FOUND, (ONE, A[2:] + A[:2], 0, 0.99), *[(TWO, B[2:] + B[:2], 1, 0.9)] * 50],
        [],
        0.2777777778,
        0.6666666667,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_protocols_give_the_figures_of_their_code(case: str) -> None:
    rows, excluded, official, pyslowfast = CASES[case]
    truths = {key: truth(*[(box, c) for k, box, c in TRUTH if k == key]) for key in (ONE, TWO, THREE)}
    detections = {key: found(*[row[1:] for row in rows if row[0] == key]) for key in {row[0] for row in rows}}
    for protocol, expected in (("activitynet", official), ("pyslowfast", pyslowfast)):
        result = evaluate_detections(truths, detections, ["walk", "sit", ""], excluded, protocol=protocol)
        assert result.mean_average_precision == pytest.approx(expected, abs=1e-9)


def test_nothing_is_gained_by_equal_scores() -> None:
    """The wrong ones of equal scores come first, in the ranking and among the 50 best of a key frame."""
    equal = {ONE: found((A, 0, 0.5), (C, 0, 0.5), (B, 0, 0.5))}
    result = evaluate_detections({ONE: truth((A, 0), (B, 0))}, equal, ["walk"])
    assert result.mean_average_precision == pytest.approx(2 / 3)
    many = {ONE: found((A, 0, 0.5), *[(C, 0, 0.5)] * 50)}
    assert evaluate_detections({ONE: truth((A, 0))}, many, ["walk"]).mean_average_precision == 0.0


def test_an_inverted_box_is_dropped() -> None:
    result = evaluate_detections({ONE: truth((A, 0))}, {ONE: found((A[2:] + A[:2], 0, 0.9), (A, 0, 0.8))}, ["walk"])
    assert (result.mean_average_precision, result.found[0]) == (1.0, 1)


@pytest.mark.parametrize("detections", [{}, {ONE: found()}])
def test_no_detections_give_zero(detections: dict[KeyFrame, Detections]) -> None:
    result = evaluate_detections({ONE: truth((A, 0))}, detections, ["walk"])
    assert (result.mean_average_precision, result.frames_missed, result.best, result.worst) == (0.0, 1, (), ())


def test_no_ground_truth_and_unknown_classes_are_refused() -> None:
    with pytest.raises(InputError, match="no box of a listed class"):
        evaluate_detections({ONE: truth((A, 1))}, {}, ["walk", ""])
    with pytest.raises(ValueError, match="label map"):
        evaluate_detections({ONE: truth((A, 0))}, {ONE: found((A, 1, 0.9))}, ["walk"])
    with pytest.raises(ValueError, match="not finite"):
        found((A, 0, math.nan))
    with pytest.raises(ValueError, match="not"):
        GroundTruth(np.zeros((2, 4)), np.zeros(3, dtype=int))


@pytest.mark.parametrize("seed", range(25))
def test_agrees_with_plain_loops(seed: int) -> None:
    truths, detections = random_case(seed)
    result = evaluate_detections(truths, detections, ["a", "b", "c", "d"], protocol="pyslowfast")
    expected = [plain_ap(truths, detections, c) for c in range(4)]
    known = {key: each for key, each in detections.items() if key in truths}
    official = evaluate_detections(truths, detections, ["a", "b", "c", "d"])
    expected_official = [plain_ap(truths, known, c) for c in range(4)]
    np.testing.assert_allclose(official.average_precision, expected_official, rtol=1e-12)
    np.testing.assert_allclose(result.average_precision, expected, rtol=1e-12)
    assert result.mean_average_precision == pytest.approx(np.nanmean(expected))


def same(one: DetectionResult, other: DetectionResult) -> bool:
    return np.array_equal(one.average_precision, other.average_precision, equal_nan=True)


@pytest.mark.parametrize("seed", range(5))
def test_properties_on_random_input(seed: int) -> None:
    truths, detections = random_case(seed)
    names = ["a", "b", "c", "d"]
    result = evaluate_detections(truths, detections, names)
    # neither the order of key frames nor a monotonic change of the scores matters
    assert same(result, evaluate_detections(dict(reversed(truths.items())), dict(reversed(detections.items())), names))
    squared = {key: Detections(d.boxes, d.classes, d.scores**2 / 3) for key, d in detections.items()}
    assert same(result, evaluate_detections(truths, squared, names))
    # a perfect detector reaches 1
    perfect = {key: Detections(t.boxes, t.classes, np.ones(len(t.classes))) for key, t in truths.items()}
    assert evaluate_detections(truths, perfect, names).mean_average_precision == 1.0
    # detections without ground truth never raise an AP
    elsewhere = {("elsewhere", 902): next(iter(detections.values()))}
    worse = evaluate_detections(truths, detections | elsewhere, names)
    there = result.truths > 0
    assert (worse.average_precision[there] <= result.average_precision[there] + 1e-12).all()


def test_the_csv_gives_the_same_map_when_read_back(tmp_path: Path) -> None:
    truths, detections = random_case(3)
    path = tmp_path / "detections.csv"
    write_detections(path, detections)
    rows = list(csv.reader(path.open()))
    assert {len(row) for row in rows} == {8}
    assert rows == sorted(rows, key=lambda row: row[:2])
    read: dict[KeyFrame, list[tuple[Box, int, float]]] = {}
    for video, second, *box, action, score in rows:
        read.setdefault((video, int(second)), []).append((tuple(map(float, box)), int(action) - 1, float(score)))
    again = evaluate_detections(truths, {key: found(*each) for key, each in read.items()}, ["a", "b", "c", "d"])
    assert same(again, evaluate_detections(truths, detections, ["a", "b", "c", "d"]))


def test_the_csv_has_the_official_format(tmp_path: Path) -> None:
    write_detections(tmp_path / "d.csv", {("b", 1000): found((A, 0, 0.5)), ("a", 7): found((B, 79, 1 / 3))})
    lines = ["a,0007,0.50000,0.50000,0.90000,0.90000,80,0.333333333", "b,1000,0.00000,0.00000,0.40000,0.40000,1,0.5"]
    assert (tmp_path / "d.csv").read_text().splitlines() == lines


def test_people_have_a_row_for_each_class() -> None:
    people = GroundTruth.of_people([A, B], [[3, 1], [2]])
    assert (people.classes.tolist(), people.boxes[:, 0].tolist()) == ([3, 1, 2], [0.0, 0.0, 0.5])
    assert GroundTruth.of_people([], []).boxes.shape == (0, 4)
    scores = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=np.float32)
    detections = Detections.of_people(np.array([A, B]), scores)
    assert detections.classes.tolist() == [0, 1, 2, 0, 1, 2]
    assert detections.boxes[:, 0].tolist() == [0.0] * 3 + [0.5] * 3
    assert detections.scores.tolist() == scores.reshape(-1).tolist()


def test_examples_name_the_classes_of_the_box() -> None:
    truths = {ONE: truth((A, 0), (A, 1), (B, 1))}
    detections = {ONE: found((A, 0, 0.6), (B, 0, 0.9), (C, 1, 0.8), (A, 1, 0.7))}
    result = evaluate_detections(truths, detections, ["walk", "wave"])
    assert [(e.id, e.truth, e.predicted, e.score) for e in result.worst] == [
        ("video,0902", "wave", "walk", 0.9),
        ("video,0902", "no matching box", "wave", 0.8),
    ]
    assert [(e.truth, e.predicted, e.score) for e in result.best] == [
        ("walk, wave", "wave", 0.7),
        ("walk, wave", "walk", 0.6),
    ]
