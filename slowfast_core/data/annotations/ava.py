"""Reads the official AVA csv, which has no header: video_id, second, x1, y1, x2, y2, action_id, person_id.

Each line holds one action of one person; an empty action id marks a person without any listed action. Older files lack
the person id. Class j is action id j + 1.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from slowfast_core.data.annotations.common import (
    Annotations,
    Item,
    Split,
    Table,
    TextFile,
    Videos,
    check_splits,
    held_out,
    with_unique_ids,
)
from slowfast_core.data.annotations.label_map import read_label_map
from slowfast_core.data.annotations.person_boxes import Box, KeyFrame, PersonBoxes, overlap, whole_second
from slowfast_core.errors import InputError

COLUMNS = ("video_id", "second", "x1", "y1", "x2", "y2", "action_id", "person_id")
EXCLUDED = ("video_id", "second")


@dataclass(frozen=True)
class AvaOptions:
    """Optional AVA inputs of a recipe in addition to the annotations."""

    seconds: tuple[int, int] | None = None  # first and last timestamp of valid key frames
    excluded: Sequence[TextFile] = ()
    boxes: Mapping[Split, PersonBoxes] = field(default_factory=dict)
    iou: float = 0.9  # a predicted box with a larger IoU takes the actions of the true box


@dataclass(frozen=True)
class _Times:
    starts: float  # timestamp of the start of a video file
    span: tuple[int, int] | None  # first and last timestamp of key frames

    def is_valid(self, second: int) -> bool:
        first, last = self.span or (0, second)
        return second >= self.starts and first <= second <= last


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


def read_annotations(
    tables: Sequence[Table],
    labels: TextFile | None,
    holdout: float,
    first_second: float,
    videos: Videos,
    options: AvaOptions = AvaOptions(),
) -> Annotations:
    """Read AVA tables; in a table without a split, `holdout` is the share of videos that go to `val`.

    Raises InputError.
    """
    names = read_label_map(labels) if labels else None
    times = _Times(first_second, options.seconds)
    rows = [row for index, table in enumerate(tables) for row in _read(index, table, names, times)]
    if labels and names:
        _check_any_listed(rows, names, labels)
    val = held_out((row.video for row in rows if row.split is None), holdout)
    frames: dict[tuple[int, str, int], list[_Row]] = defaultdict(list)
    for row in rows:
        frames[row.table, row.video, row.second].append(row)
    for (index, _, _), people in frames.items():
        _check_duplicates(people, tables[index].file)
    items = [
        _item(people, "val" if people[0].video in val else "train", first_second, videos) for people in frames.values()
    ]
    check_splits(items, tables)
    excluded = _excluded(options.excluded, {item.video for item in items})
    items = [item for item in items if (item.video, item.second) not in excluded]
    check_splits(items, tables)
    if "train" in options.boxes:
        items = _with_train_boxes(items, options.boxes["train"], options.iou)
    if "val" in options.boxes:
        items = _with_val_boxes(items, options.boxes["val"], excluded, times)
    if names is None:
        names = tuple(f"action_{action + 1}" for action in range(max((row.action or 0 for row in rows), default=0)))
    return Annotations(with_unique_ids(items), names)


def _read(index: int, table: Table, names: tuple[str, ...] | None, times: _Times) -> Iterator[_Row]:
    file = table.file
    columns = 0
    for line, fields in file.rows():
        columns = columns or (7 if len(fields) == 7 else len(COLUMNS))  # as in the first line
        if len(fields) != columns:
            raise file.error(line, f"{len(fields)} fields instead of {columns}", f"a line is {','.join(COLUMNS)}")
        video, second, x1, y1, x2, y2, action, *person = fields
        yield _Row(
            index,
            line,
            table.split,
            file.video_id(line, video),
            _second(file, line, second, times),
            _box(file, line, (x1, y1, x2, y2)),
            _action(file, line, action, names) if action else None,
            *person or [""],
        )


def _second(file: TextFile, line: int, text: str, times: _Times) -> int:
    if (second := whole_second(text)) is None:
        raise file.error(line, f"second {text!r} is not a whole number", "correct the value; the file has no header")
    if second < times.starts:
        raise file.error(line, f"second {text} is before the file starts", "lower data.first_second")
    if not times.is_valid(second):
        raise file.error(line, f"second {text} is not a key frame", f"data.key_seconds is {list(times.span or ())}")
    return second


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
        for line, fields in file.rows():
            if len(fields) != len(EXCLUDED):
                raise file.error(
                    line, f"{len(fields)} fields instead of {len(EXCLUDED)}", f"a line is {','.join(EXCLUDED)}"
                )
            if (second := whole_second(fields[1])) is None:
                fix = "correct the value; the file has no header"
                raise file.error(line, f"second {fields[1]!r} is not a whole number", fix)
            keys.add((file.video_id(line, fields[0]), second))
        if keys and not any(video in videos for video, _ in keys):
            raise InputError("excludes no annotated video", file.name, "name the exclusion file of these annotations")
        excluded |= keys
    return excluded


def _item(rows: Sequence[_Row], default: Split, first_second: float, videos: Videos) -> Item:
    """The item of one key frame, with the actions grouped by person."""
    people: dict[tuple[str, Box], set[int]] = defaultdict(set)
    for row in rows:
        actions = people[row.person, row.box]
        if row.action is not None:
            actions.add(row.action - 1)
    first = rows[0]
    key = first.second - first_second
    split = first.split or default
    return Item(
        id=f"{first.video}_{first.second:04d}",
        video=first.video,
        object=videos.find(first.video, (split,)),
        split=split,
        labels=sorted(set().union(*people.values())),
        start=key,
        end=key,
        second=first.second,
        key=key,
        boxes=[list(box) for _, box in people],
        box_labels=[sorted(actions) for actions in people.values()],
    )


def _with_train_boxes(items: Sequence[Item], predicted: PersonBoxes, iou: float) -> list[Item]:
    """Add to the `train` items the predicted boxes that match a true box (paper, section 5)."""
    _check_match(items, predicted, "train")
    return [_with_matching(item, predicted, iou) if item.split == "train" else item for item in items]


def _with_matching(item: Item, predicted: PersonBoxes, iou: float) -> Item:
    boxes, box_labels = list(item.boxes or ()), list(item.box_labels or ())
    truth = list(zip(boxes, box_labels, strict=True))
    for *box, _ in predicted.found.get((item.video, item.second or 0), ()):
        nearest, actions = max(truth, key=lambda true: overlap(box, true[0]))
        if overlap(box, nearest) > iou and box not in boxes:
            boxes.append(box)
            box_labels.append(actions)
    return replace(item, boxes=boxes, box_labels=box_labels)


def _with_val_boxes(
    items: Sequence[Item],
    predicted: PersonBoxes,
    excluded: Collection[KeyFrame],
    times: _Times,
) -> list[Item]:
    """Set the predicted boxes of the `val` items, and add items for key frames that have only predicted boxes.

    By the official protocol, detections in those key frames are false positives: omitting them would raise the mAP.
    """
    _check_match(items, predicted, "val")
    scored = [
        replace(item, proposals=predicted.found.get((item.video, item.second or 0), []))
        if item.split == "val"
        else item
        for item in items
    ]
    annotated = {(item.video, item.second) for item in items}
    of_video = {item.video: item for item in items if item.split == "val"}
    for video, second in sorted(predicted.found):
        known = (video, second) in annotated or (video, second) in excluded
        if video in of_video and times.is_valid(second) and not known:
            key = second - times.starts
            alike = replace(of_video[video], id=f"{video}_{second:04d}", start=key, end=key, second=second, key=key)
            proposals = predicted.found[video, second]
            scored.append(replace(alike, labels=[], boxes=[], box_labels=[], proposals=proposals))
    return scored


def _check_match(items: Iterable[Item], predicted: PersonBoxes, split: Split) -> None:
    """Raises InputError when no box belongs to an annotated key frame; the only other symptom is an mAP near 0."""
    keys = [(item.video, item.second or 0) for item in items if item.split == split]
    if not any(key in predicted.found for key in keys):
        (video, second), (theirs, at) = keys[0], next(iter(predicted.found))
        what = f"no person box is in a key frame of the {split} split; the first box is in {theirs},{at:04d}"
        raise InputError(what, predicted.name, f"an annotated key frame is {video},{second:04d}")
