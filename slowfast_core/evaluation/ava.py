"""Frame mAP of AVA, as computed by ActivityNet's `get_ava_performance.py`, and the official csv of detections.

The protocol, in the order in which the official code applies it; PySlowFast's omits what is marked with a star:
 1. rows of classes that are not in the label map are removed from ground truth and detections;
 2. * the 50 detections with the highest scores are kept in each key frame;
 3. excluded key frames are removed from both, as are detections with an empty or inverted box, and * detections in key
    frames without any row of ground truth; rows of classes that are not in the label map count here;
 4. in each key frame, in order of decreasing score, a detection is matched to the box of its class with the largest
    overlap. It is a hit when their IoU is at least 0.5 and no earlier detection matched that box, otherwise a false
    positive: the box with the second largest overlap is not tried;
 5. AP of a class is the area under its precision-recall curve over all key frames, where each precision is raised to
    the maximum at that recall or higher. Classes without ground truth have no AP (NaN) and do not count in the mean.
The official order of equal scores depends on its sort. Here false positives precede hits of the same score, also where
the 50 best are chosen, so that nothing is gained by equal scores.

Shapes: G boxes of ground truth, D detections, B people, C classes. Boxes are x1 y1 x2 y2, one row for each class.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from slowfast_core.data.annotations.boxes import KeyFrame, box_iou
from slowfast_core.errors import InputError
from slowfast_core.evaluation.classification import Example
from slowfast_core.evaluation.evidence import of_average_precision, random_precision
from slowfast_core.files import whole_file
from slowfast_core.tracking.gate import Evidence

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Protocol = Literal["activitynet", "pyslowfast"]
PER_FRAME = 50  # detections that the official code counts in a key frame


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The labelled boxes of one key frame, one for each class of each person."""

    boxes: Floats  # [G, 4]
    classes: Ints  # [G]

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.classes), 4) or self.classes.ndim != 1:
            raise ValueError(f"boxes {self.boxes.shape} and classes {self.classes.shape} are not [G, 4] and [G]")

    @classmethod
    def of_people(cls, boxes: Sequence[Sequence[float]], box_labels: Sequence[Sequence[int]]) -> GroundTruth:
        """From a row of the manifest: one box for each person, with all classes of that person."""
        each = [len(labels) for labels in box_labels]
        rows = np.array([list(box) for box in boxes], dtype=np.float64).reshape(-1, 4)
        return cls(rows.repeat(each, axis=0), np.array([c for labels in box_labels for c in labels], dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one key frame."""

    boxes: Floats  # [D, 4]
    classes: Ints  # [D]
    scores: Floats  # [D]

    def __post_init__(self) -> None:
        count = len(self.scores)
        if (self.boxes.shape, self.classes.shape, self.scores.shape) != ((count, 4), (count,), (count,)):
            shapes = f"{self.boxes.shape}, {self.classes.shape}, {self.scores.shape}"
            raise ValueError(f"boxes, classes, scores {shapes} are not [D, 4], [D], [D]")
        if not np.isfinite(self.scores).all():
            raise ValueError("scores are not finite")

    @classmethod
    def of_people(cls, boxes: Floats, scores: Floats) -> Detections:
        """From the output of the detection head: boxes [B, 4] and the scores of all classes [B, C]."""
        people, classes = scores.shape
        return cls(boxes.repeat(classes, axis=0), np.tile(np.arange(classes), people), scores.reshape(-1))

    def __getitem__(self, chosen: Ints | Bools) -> Detections:
        return Detections(self.boxes[chosen], self.classes[chosen], self.scores[chosen])


@dataclass(frozen=True, eq=False)
class RankedDetections:
    """All detections that count, in order of decreasing score, and the classes of all true boxes that count."""

    videos: npt.NDArray[np.object_]  # [D] source video of each detection
    classes: Ints  # [D]
    scores: Floats  # [D]
    hit: Bools  # [D]
    truths: Mapping[KeyFrame, Ints]


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """Result of the AVA protocol; `average_precision[c]` is NaN when class c is not listed or has no ground truth."""

    names: tuple[str, ...]  # empty: the class is not listed
    iou: float
    average_precision: Floats  # [C]
    truths: Ints  # [C] boxes of ground truth
    found: Ints  # [C] detections
    hits: Ints  # [C] correct detections
    frames: int  # key frames with ground truth
    frames_missed: int  # with ground truth, but without any detection
    frames_unknown: int  # with detections, but without listed ground truth; if many, the two lists do not match
    worst: tuple[Example, ...]  # false positives with the highest scores
    best: tuple[Example, ...]  # hits with the highest scores
    ranked: RankedDetections

    @property
    def mean_average_precision(self) -> float:
        return float(np.nanmean(self.average_precision))

    @property
    def metrics(self) -> dict[str, float]:
        return {"mAP": self.mean_average_precision}

    @property
    def evidence(self) -> Evidence:
        """Chance level: the same detections in random order, with as many hits and as many missed boxes."""
        recall = self.hits / np.maximum(self.truths, 1)
        chance = recall * random_precision(self.hits, self.found)
        return of_average_precision(self.average_precision, chance, self.frames)


def evaluate_detections(
    truth: Mapping[KeyFrame, GroundTruth],
    detections: Mapping[KeyFrame, Detections],
    names: Sequence[str],
    excluded: Collection[KeyFrame] = (),
    iou: float = 0.5,
    protocol: Protocol = "activitynet",
    examples: int = 10,
) -> DetectionResult:
    """Evaluate by `protocol`. Raises InputError when no listed class has ground truth."""
    listed = np.array([bool(name) for name in names])
    annotated = {key for key, each in truth.items() if len(each.classes)}
    truth = {key: _listed(truth[key], listed) for key in sorted(truth.keys() - set(excluded))}
    truth = {key: each for key, each in truth.items() if len(each.classes)}
    if not truth:
        raise InputError("no box of a listed class", "ground truth", "check the label map and the exclusions")
    unknown = [key for key in detections.keys() - set(excluded) - truth.keys() if len(detections[key].scores)]
    scored = detections.keys() - set(excluded)
    scored = scored & annotated if protocol == "activitynet" else scored
    no_truth = GroundTruth(np.empty((0, 4)), np.empty(0, dtype=np.int64))
    most = PER_FRAME if protocol == "activitynet" else None
    judged = {key: _judged(detections[key], truth.get(key, no_truth), listed, iou, most) for key in sorted(scored)}
    kept = {key: each for key, (each, _) in judged.items() if len(each.scores)}

    hit = np.concatenate([np.empty(0, dtype=bool), *(hits for _, hits in judged.values())])
    scores = np.concatenate([np.empty(0), *(each.scores for each in kept.values())])
    classes = np.concatenate([np.empty(0, dtype=np.int64), *(each.classes for each in kept.values())])
    order = np.lexsort((hit, -scores))
    truths = np.bincount(np.concatenate([each.classes for each in truth.values()]), minlength=len(names))
    precision = [average_precision(hit[order][classes[order] == c], n) for c, n in enumerate(truths)]
    keys = list(kept)
    lengths = np.array([len(each.scores) for each in kept.values()], dtype=np.int64)
    ends = lengths.cumsum()
    videos = np.array([video for video, _ in kept], dtype=object).repeat(lengths)
    truth_classes = {key: each.classes for key, each in truth.items()}

    def example(n: int) -> Example:
        frame = int(np.searchsorted(ends, n, side="right"))
        key = keys[frame]
        row = n - int(ends[frame])  # negative: counted from the end of the key frame
        return _example(key, kept[key][np.array([row])], truth.get(key, no_truth), names, iou)

    def first(which: Bools) -> tuple[Example, ...]:
        return tuple(example(n) for n in order[which[order]][:examples].tolist())

    return DetectionResult(
        names=tuple(names),
        iou=iou,
        average_precision=np.array(precision),
        truths=truths,
        found=np.bincount(classes, minlength=len(names)),
        hits=np.bincount(classes[hit], minlength=len(names)),
        frames=len(truth),
        frames_missed=len(truth.keys() - kept.keys()),
        frames_unknown=len(unknown),
        worst=first(~hit),
        best=first(hit),
        ranked=RankedDetections(videos[order], classes[order], scores[order], hit[order], truth_classes),
    )


def hits_of(found: Detections, truth: GroundTruth, iou: float) -> Bools:
    """Whether each detection [D] of one key frame is a hit; detections are sorted by decreasing score."""
    hit = np.zeros(len(found.scores), dtype=bool)
    if not len(truth.classes):
        return hit
    same_class = found.classes[:, None] == truth.classes
    overlap = np.where(same_class, box_iou(found.boxes, truth.boxes), 0.0)  # [D, G]
    nearest = overlap.argmax(axis=1)
    close = np.flatnonzero(overlap.max(axis=1) >= iou)
    _, first_of_each = np.unique(nearest[close], return_index=True)
    hit[close[first_of_each]] = True
    return hit


def average_precision(hit: Bools, truths: int) -> float:
    """Area under the precision-recall curve of one class, from its detections [D] by decreasing score."""
    if truths == 0:
        return float("nan")
    precision = hit.cumsum() / np.arange(1, len(hit) + 1)
    raised = np.maximum.accumulate(precision[::-1])[::-1]
    return float(raised[hit].sum() / truths)  # recall grows by 1 / truths at each hit and only there


def write_detections(path: Path, detections: Mapping[KeyFrame, Detections]) -> None:
    """Write the official csv without header: video_id,second,x1,y1,x2,y2,action_id,score; action ids start at 1."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        for (video, second), each in sorted(detections.items(), key=lambda item: item[0]):
            for box, c, score in zip(each.boxes.tolist(), each.classes.tolist(), each.scores.tolist(), strict=True):
                # Nine digits distinguish any two float32 scores.
                rows.writerow([video, f"{second:04d}", *(f"{x:.5f}" for x in box), c + 1, f"{score:.9g}"])


def _listed(truth: GroundTruth, listed: Bools) -> GroundTruth:
    chosen = listed[_in_range(truth.classes, len(listed))]
    return GroundTruth(truth.boxes[chosen], truth.classes[chosen])


def _judged(
    found: Detections, truth: GroundTruth, listed: Bools, iou: float, most: int | None
) -> tuple[Detections, Bools]:
    """Detections of a key frame that remain after steps 1 to 3, by decreasing score, and whether each is a hit."""
    found = found[listed[_in_range(found.classes, len(listed))]]
    found = found[np.argsort(-found.scores, kind="stable")]
    upright = np.all(found.boxes[:, :2] < found.boxes[:, 2:], axis=1)
    hit = np.zeros(len(found.scores), dtype=bool)
    hit[upright] = hits_of(found[upright], truth, iou)
    order = np.lexsort((hit, -found.scores))[:most]  # false positives first among equal scores
    order = order[upright[order]]
    return found[order], hit[order]


def _in_range(classes: Ints, count: int) -> Ints:
    if len(classes) and not 0 <= classes.min() <= classes.max() < count:
        raise ValueError(f"classes from {classes.min()} to {classes.max()} are not all in the {count} of the label map")
    return classes


def _example(key: KeyFrame, chosen: Detections, truth: GroundTruth, names: Sequence[str], iou: float) -> Example:
    """One detection, with the classes of the ground-truth boxes that it overlaps by at least `iou`."""
    covered = truth.classes[box_iou(chosen.boxes, truth.boxes)[0] >= iou]
    actions = ", ".join(names[c] for c in np.unique(covered)) or "no matching box"
    return Example(f"{key[0]},{key[1]:04d}", actions, names[chosen.classes[0]], float(chosen.scores[0]))
