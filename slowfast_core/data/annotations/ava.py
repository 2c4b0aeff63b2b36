"""Reads the official AVA csv, which has no header: video_id, second, x1, y1, x2, y2, action_id, person_id.

Each line holds one action of one person; an empty action id marks a person without any listed action. Older files lack
the person id. Class j is action id j + 1.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from slowfast_core.data.annotations.boxes import Box, KeyFrame, PersonBoxes, box_iou
from slowfast_core.data.annotations.interface import AnnotationFormat, Annotations, Item, ReaderInput, Split
from slowfast_core.data.annotations.label_map import read_label_map
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.errors import InputError

COLUMNS = ("video_id", "second", "x1", "y1", "x2", "y2", "action_id", "person_id")
NO_HEADER = "correct the value; the file has no header"


@dataclass(frozen=True, slots=True)
class _Row:
    table: int
    line: int
    split: Split | None
    video: str
    second: int
    box: Box
    action: int | None
    person: str


def _read(given: ReaderInput) -> Annotations:
    names = read_label_map(given.labels) if given.labels else None
    rows = [row for index in range(len(given.tables)) for row in _rows(index, names, given)]
    if given.labels and names:
        _check_any_listed(rows, names, given.labels)
    items = _items(rows, given)
    given.check_splits(items)
    excluded = _excluded(given.excluded, {item.video for item in items})
    items = [item for item in items if (item.video, item.second) not in excluded]
    given.check_splits(items)
    if "train" in given.person_boxes:
        items = _with_train_boxes(items, given.person_boxes["train"], excluded, given)
    if "val" in given.person_boxes:
        items = _with_val_boxes(items, given.person_boxes["val"], excluded, given)
    if names is None:
        names = tuple(f"action_{action + 1}" for action in range(max((row.action or 0 for row in rows), default=0)))
    return Annotations(items, names)


AVA = AnnotationFormat(name="ava", reader=_read, suite="ava", has_boxes=True, synthetic=True)


def _rows(index: int, names: tuple[str, ...] | None, given: ReaderInput) -> Iterator[_Row]:
    table = given.tables[index]
    file = table.file
    for line, fields in file.rows_without_header(COLUMNS, optional=1):
        video, second, x1, y1, x2, y2, action, *person = fields
        yield _Row(
            index,
            line,
            table.split,
            file.video_id(line, video),
            _second(file, line, second, given),
            _box(file, line, (x1, y1, x2, y2)),
            _action(file, line, action, names) if action else None,
            *person or [""],
        )


def _second(file: TextFile, line: int, text: str, given: ReaderInput) -> int:
    second = file.whole_number(line, "second", text, NO_HEADER)
    if second < given.first_second:
        raise file.error(line, f"second {text} is before the file starts", "lower data.first_second")
    if not _is_valid(second, given):
        allowed = list(given.key_seconds or ())
        raise file.error(line, f"second {text} is not a key frame", f"data.key_seconds is {allowed}")
    return second


def _is_valid(second: int, given: ReaderInput) -> bool:
    """Whether there may be a key frame at this timestamp."""
    first, last = given.key_seconds or (0, second)
    return second >= given.first_second and first <= second <= last


def _box(file: TextFile, line: int, texts: Sequence[str]) -> Box:
    x1, y1, x2, y2 = (file.number(line, column, text) for column, text in zip(COLUMNS[2:6], texts, strict=True))
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise file.error(line, f"box {','.join(texts)}", "use fractions of the frame: 0 <= x1 < x2 <= 1, same for y")
    return x1, y1, x2, y2


def _action(file: TextFile, line: int, text: str, names: tuple[str, ...] | None) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < 1:
        raise file.error(line, f"action id {text!r} is not a whole number from 1 to 9999", "correct the value")
    # Official csv files contain ids that the official label map omits; an id above its last belongs to another map.
    if names is not None and int(text) > len(names):
        raise file.error(line, f"action id {text} is not in the label map", f"its last id is {len(names)}")
    return int(text)


def _check_duplicates(rows: Sequence[_Row], file: TextFile) -> None:
    """Raises InputError for a duplicate line in a key frame. Without person ids, two people may have the same line."""
    first_lines: dict[tuple[str, Box, int | None], int] = {}
    for row in rows:
        first = first_lines.setdefault((row.person, row.box, row.action), row.line)
        if row.person and first != row.line:
            raise file.error(row.line, f"duplicate of line {first}", "remove one of them")


def _check_any_listed(rows: Iterable[_Row], names: tuple[str, ...], labels: TextFile) -> None:
    """Raises InputError when the label map contains none of the annotated actions."""
    actions = {row.action for row in rows if row.action is not None}
    if actions and not any(names[action - 1] for action in actions):
        listed = next(number for number, name in enumerate(names, start=1) if name)
        shown = f"annotated: {', '.join(map(str, sorted(actions)[:3]))}..., first id of the label map: {listed}"
        raise InputError("no action id of the annotations is in the label map", labels.name, shown)


def _excluded(files: Iterable[TextFile], videos: Collection[str]) -> set[KeyFrame]:
    """Key frames in the official `video_id,second` exclusion files."""
    excluded: set[KeyFrame] = set()
    for file in files:
        keys: set[KeyFrame] = set()
        for line, (video, text) in file.rows_without_header(COLUMNS[:2]):
            second = file.whole_number(line, "second", text, NO_HEADER)
            keys.add((file.video_id(line, video), second))
        if keys and not any(video in videos for video, _ in keys):
            raise InputError("excludes no annotated video", file.name, "name the exclusion file of these annotations")
        excluded |= keys
    return excluded


def _items(rows: Sequence[_Row], given: ReaderInput) -> list[Item]:
    """One item for each key frame of each table."""
    val = given.held_out(row.video for row in rows if row.split is None)
    frames: dict[tuple[int, str, int], list[_Row]] = defaultdict(list)
    for row in rows:
        frames[row.table, row.video, row.second].append(row)
    for (index, _, _), people in frames.items():
        _check_duplicates(people, given.tables[index].file)
    return [_item(people, "val" if people[0].video in val else "train", given) for people in frames.values()]


def _item(rows: Sequence[_Row], default: Split, given: ReaderInput) -> Item:
    """The item of one key frame, with the actions grouped by person."""
    people: dict[tuple[str, Box], set[int]] = defaultdict(set)
    for row in rows:
        actions = people[row.person, row.box]
        if row.action is not None:
            actions.add(row.action - 1)
    first = rows[0]
    key = first.second - given.first_second
    split = first.split or default
    return Item(
        id=f"{first.video}_{first.second:04d}",
        video=first.video,
        object=given.videos.find(first.video, (split,)),
        split=split,
        labels=sorted(set().union(*people.values())),
        start=key,
        end=key,
        second=first.second,
        key=key,
        boxes=[list(box) for _, box in people],
        box_labels=[sorted(actions) for actions in people.values()],
    )


def _with_train_boxes(
    items: Sequence[Item], predicted: PersonBoxes, excluded: Collection[KeyFrame], given: ReaderInput
) -> list[Item]:
    """Add to the `train` items the predicted boxes that match a true box (paper, section 5).

    With `person_box_negatives`, the other predicted boxes are added without actions, also in key frames of their own.
    """
    _check_match(items, predicted, "train")
    extended = [_with_matching(item, predicted, given) if item.split == "train" else item for item in items]
    if given.person_box_negatives:
        for item, people in _only_predicted(items, predicted, "train", excluded, given):
            boxes = [box for *box, _ in people]
            extended.append(replace(item, boxes=boxes, box_labels=[[] for _ in boxes]))
    return extended


def _with_matching(item: Item, predicted: PersonBoxes, given: ReaderInput) -> Item:
    import numpy as np

    boxes, box_labels = list(item.boxes or ()), list(item.box_labels or ())
    found = [box for *box, _ in predicted.found.get((item.video, item.second or 0), ())]
    if not found:
        return item
    iou_DG = box_iou(np.array(found), np.array(boxes))
    for box, true, overlap in zip(found, iou_DG.argmax(axis=1).tolist(), iou_DG.max(axis=1).tolist(), strict=True):
        matches = overlap > given.person_box_iou
        if (matches or given.person_box_negatives) and box not in boxes:
            boxes.append(box)
            box_labels.append(box_labels[true] if matches else [])
    return replace(item, boxes=boxes, box_labels=box_labels)


def _with_val_boxes(
    items: Sequence[Item], predicted: PersonBoxes, excluded: Collection[KeyFrame], given: ReaderInput
) -> list[Item]:
    """Set the predicted boxes of the `val` items, and add items for key frames that have only predicted boxes.

    Detections in those key frames are false positives in PySlowFast's protocol; the official one ignores them
    (evaluate.protocol).
    """
    _check_match(items, predicted, "val")
    scored = [
        replace(item, proposals=predicted.found.get((item.video, item.second or 0), []))
        if item.split == "val"
        else item
        for item in items
    ]
    for item, people in _only_predicted(items, predicted, "val", excluded, given):
        scored.append(replace(item, boxes=[], box_labels=[], proposals=people))
    return scored


def _only_predicted(
    items: Sequence[Item], predicted: PersonBoxes, split: Split, excluded: Collection[KeyFrame], given: ReaderInput
) -> Iterator[tuple[Item, list[list[float]]]]:
    """Yield an item without boxes, and the predicted boxes, for each key frame of the split without annotations."""
    annotated = {(item.video, item.second) for item in items}
    of_video = {item.video: item for item in items if item.split == split}
    for video, second in sorted(predicted.found):
        known = (video, second) in annotated or (video, second) in excluded
        if video in of_video and _is_valid(second, given) and not known:
            key = second - given.first_second
            alike = replace(of_video[video], id=f"{video}_{second:04d}", start=key, end=key, second=second, key=key)
            yield replace(alike, labels=[]), predicted.found[video, second]


def _check_match(items: Iterable[Item], predicted: PersonBoxes, split: Split) -> None:
    """Raises InputError when no box belongs to an annotated key frame; the only other symptom is an mAP near 0."""
    keys = [(item.video, item.second or 0) for item in items if item.split == split]
    if not any(key in predicted.found for key in keys):
        (video, second), (theirs, at) = keys[0], next(iter(predicted.found))
        what = f"no person box is in a key frame of the {split} split; the first box is in {theirs},{at:04d}"
        raise InputError(what, predicted.name, f"an annotated key frame is {video},{second:04d}")
