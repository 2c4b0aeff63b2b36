"""The official AVA csv: video_id, second, x1, y1, x2, y2, action_id, person_id, without a header.

One line a person and action; an empty action id marks a person who does nothing listed. Class j is action id j + 1.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slowfast_core.data.sources.common import (
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
from slowfast_core.errors import InputError

COLUMNS = ("video_id", "second", "x1", "y1", "x2", "y2", "action_id", "person_id")
BLOCK = re.compile(r"(?:item|label)\s*:?\s*\{((?:\"(?:\\.|[^\"\\])*\"|'[^']*'|[^}\"'])*)\}")
NAME = re.compile(r"\bname\s*:\s*(?:\"((?:\\.|[^\"\\])*)\"|'([^']*)')")
ID = re.compile(r"\b(?:label_)?id\s*:\s*(\d+)")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Row:
    table: int
    split: Split | None
    video: str
    second: int
    box: Box
    action: int | None
    person: str


def read_annotations(
    tables: Sequence[Table], labels: TextFile | None, holdout: float, first_second: float, videos: Videos
) -> Annotations:
    """A table without a split goes by `holdout`, a share of the videos. Raises InputError."""
    names = _names(labels) if labels else None
    rows = [row for index, table in enumerate(tables) for row in _read(index, table, names, first_second)]
    val = held_out((row.video for row in rows if row.split is None), holdout)
    frames: dict[tuple[int, str, int], list[_Row]] = defaultdict(list)
    for row in rows:
        frames[row.table, row.video, row.second].append(row)
    items = [
        _item(people, "val" if people[0].video in val else "train", first_second, videos) for people in frames.values()
    ]
    check_splits(items, tables)
    if names is None:
        names = tuple(f"action_{action + 1}" for action in range(max((row.action or 0 for row in rows), default=0)))
    return Annotations(with_unique_ids(items), names)


def _read(index: int, table: Table, names: tuple[str, ...] | None, first_second: float) -> Iterator[_Row]:
    file = table.file
    for line, fields in file.rows():
        if len(fields) != len(COLUMNS):
            raise file.error(line, f"{len(fields)} fields instead of {len(COLUMNS)}", f"a line is {','.join(COLUMNS)}")
        video, second, *box, action, person = fields
        if not re.fullmatch(r"[0-9]{1,9}", second):
            raise file.error(line, f"second {second!r} is not a whole number", "correct the value")
        if int(second) < first_second:
            raise file.error(line, f"second {second} is before the file starts", "lower data.first_second")
        yield _Row(
            index,
            table.split,
            file.video_id(line, video),
            int(second),
            _box(file, line, box),
            _action(file, line, action, names) if action else None,
            person,
        )


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


def _names(labels: TextFile) -> tuple[str, ...]:
    """Read the label map; names of ids that it leaves out are empty."""
    text = re.sub(r"(?m)^\s*#.*$", "", labels.text)
    named: dict[int, str] = {}
    for block in BLOCK.findall(text):
        name, number = NAME.search(block), ID.search(block)
        if not name or not number or int(number[1]) < 1:
            raise InputError(f"label without a name or an id: {' '.join(block.split())}", labels.name, "give it both")
        if int(number[1]) in named:
            raise InputError(f"id {number[1]} is there twice", labels.name, "ids are unique")
        named[int(number[1])] = name[1] or name[2] or ""
    if not named or BLOCK.sub("", text).strip():
        raise InputError("not a label map", labels.name, 'it is item { name: "..." id: 1 } for each action')
    return tuple(named.get(number, "") for number in range(1, max(named) + 1))
