"""The official AVA csv: video_id, second, x1, y1, x2, y2, action_id, person_id, without a header.

One line a person and action; an empty action id marks a person who does nothing listed. Files older than the person id
end before it. Class j is action id j + 1.
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
class Beside:
    """What a recipe may name beside the annotations."""

    seconds: tuple[int, int] | None = None  # the first and the last timestamp that may be annotated
    excluded: Sequence[TextFile] = ()
    boxes: Mapping[Split, PersonBoxes] = field(default_factory=dict)
    iou: float = 0.9  # a predicted box does what the true one does that it overlaps by more


@dataclass(frozen=True)
class _Times:
    starts: float  # the timestamp at which a video file starts
    span: tuple[int, int] | None  # of key frames

    def may_be(self, second: int) -> bool:
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
    beside: Beside = Beside(),
) -> Annotations:
    """A table without a split goes by `holdout`, a share of the videos. Raises InputError."""
    names = read_label_map(labels) if labels else None
    times = _Times(first_second, beside.seconds)
    rows = [row for index, table in enumerate(tables) for row in _read(index, table, names, times)]
    if labels and names:
        _check_listed(rows, names, labels)
    val = held_out((row.video for row in rows if row.split is None), holdout)
    frames: dict[tuple[int, str, int], list[_Row]] = defaultdict(list)
    for row in rows:
        frames[row.table, row.video, row.second].append(row)
    for (index, _, _), people in frames.items():
        _check_twice(people, tables[index].file)
    items = [
        _item(people, "val" if people[0].video in val else "train", first_second, videos) for people in frames.values()
    ]
    check_splits(items, tables)
    excluded = _excluded(beside.excluded, {item.video for item in items})
    items = [item for item in items if (item.video, item.second) not in excluded]
    check_splits(items, tables)
    if "train" in beside.boxes:
        items = _trained_on(items, beside.boxes["train"], beside.iou)
    if "val" in beside.boxes:
        items = _to_score(items, beside.boxes["val"], excluded, times)
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
    if not times.may_be(second):
        raise file.error(line, f"second {text} is no key frame", f"data.key_seconds is {list(times.span or ())}")
    return second


def _box(file: TextFile, line: int, texts: Sequence[str]) -> Box:
    x1, y1, x2, y2 = (file.number(line, column, text) for column, text in zip(COLUMNS[2:6], texts, strict=True))
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise file.error(line, f"box {','.join(texts)}", "0 <= x1 < x2 <= 1, and the same for y: shares of the frame")
    return x1, y1, x2, y2


def _action(file: TextFile, line: int, text: str, names: tuple[str, ...] | None) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < 1:
        raise file.error(line, f"action id {text!r} is not a whole number from 1 to 9999", "correct the value")
    # Official csv files hold ids between those that the official list evaluates; beyond the last it is another list.
    if names is not None and int(text) > len(names):
        raise file.error(line, f"action id {text} is not in the label map", f"its last id is {len(names)}")
    return int(text)


def _check_twice(rows: Sequence[_Row], file: TextFile) -> None:
    """Raises InputError when a line of a key frame is there twice. Without person ids two people may share one."""
    before: dict[tuple[str, Box, int | None], int] = {}
    for row in rows:
        first = before.setdefault((row.person, row.box, row.action), row.line)
        if row.person and first != row.line:
            raise file.error(row.line, f"the same as line {first}", "remove one of them")


def _check_listed(rows: Iterable[_Row], names: tuple[str, ...], labels: TextFile) -> None:
    """Raises InputError when nothing that is annotated would be evaluated."""
    actions = {row.action for row in rows if row.action is not None}
    if actions and not any(names[action - 1] for action in actions):
        listed = next(number for number, name in enumerate(names, start=1) if name)
        shown = f"they are {', '.join(map(str, sorted(actions)[:3]))}..., its first is {listed}"
        raise InputError("no action id of the annotations is in the label map", labels.name, shown)


def _excluded(files: Iterable[TextFile], videos: Collection[str]) -> set[KeyFrame]:
    """The key frames of the official `video_id,second` files."""
    excluded: set[KeyFrame] = set()
    for file in files:
        keys: set[KeyFrame] = set()
        for line, fields in file.rows():
            if len(fields) != len(EXCLUDED):
                raise file.error(
                    line, f"{len(fields)} fields instead of {len(EXCLUDED)}", f"a line is {','.join(EXCLUDED)}"
                )
            if (second := whole_second(fields[1])) is None:
                mend = "correct the value; the file has no header"
                raise file.error(line, f"second {fields[1]!r} is not a whole number", mend)
            keys.add((file.video_id(line, fields[0]), second))
        if keys and not any(video in videos for video, _ in keys):
            raise InputError("excludes no annotated video", file.name, "name the exclusions of these annotations")
        excluded |= keys
    return excluded


def _item(rows: Sequence[_Row], default: Split, first_second: float, videos: Videos) -> Item:
    """One key frame, its lines grouped by person."""
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


def _trained_on(items: Sequence[Item], predicted: PersonBoxes, iou: float) -> list[Item]:
    """The `train` items with the predicted boxes that are nearly true ones beside those (paper, section 5)."""
    _check_match(items, predicted, "train")
    return [_with_near(item, predicted, iou) if item.split == "train" else item for item in items]


def _with_near(item: Item, predicted: PersonBoxes, iou: float) -> Item:
    boxes, box_labels = list(item.boxes or ()), list(item.box_labels or ())
    truth = list(zip(boxes, box_labels, strict=True))
    for *box, _ in predicted.found.get((item.video, item.second or 0), ()):
        nearest, actions = max(truth, key=lambda true: overlap(box, true[0]))
        if overlap(box, nearest) > iou and box not in boxes:
            boxes.append(box)
            box_labels.append(actions)
    return replace(item, boxes=boxes, box_labels=box_labels)


def _to_score(
    items: Sequence[Item],
    predicted: PersonBoxes,
    excluded: Collection[KeyFrame],
    times: _Times,
) -> list[Item]:
    """The items with the predicted boxes of `val`, and the key frames in which there is nobody but those.

    By the official protocol what is found there is wrong, so leaving them out would flatter.
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
        if video in of_video and times.may_be(second) and not known:
            key = second - times.starts
            alike = replace(of_video[video], id=f"{video}_{second:04d}", start=key, end=key, second=second, key=key)
            proposals = predicted.found[video, second]
            scored.append(replace(alike, labels=[], boxes=[], box_labels=[], proposals=proposals))
    return scored


def _check_match(items: Iterable[Item], predicted: PersonBoxes, split: Split) -> None:
    """Raises InputError when the boxes are of other key frames, which would give an mAP near 0 and no other sign."""
    keys = [(item.video, item.second or 0) for item in items if item.split == split]
    if not any(key in predicted.found for key in keys):
        (video, second), (theirs, at) = keys[0], next(iter(predicted.found))
        what = f"no key frame of these person boxes, such as {theirs},{at:04d}, is among those of the {split} split"
        raise InputError(what, predicted.name, f"an annotated one is {video},{second:04d}")
