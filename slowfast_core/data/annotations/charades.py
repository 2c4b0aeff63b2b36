"""Reads the official Charades csv: id, ..., actions, length; actions are `c092 11.90 21.20;c147 0.00 12.60` in seconds.

Each row is one video, with any number of simultaneous actions. The labels of a video are all of its actions; the labels
of a clip are the actions that overlap with it. The label file is `Charades_v1_classes.txt`; without it, the class ids
are the names.
"""

from __future__ import annotations

import re

from slowfast_core.data.annotations.class_names import nearest
from slowfast_core.data.annotations.interface import AnnotationFormat, Annotations, Item, ReaderInput, Split
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.errors import InputError

COLUMNS = ("id", "actions", "length")
CLASSES = tuple(f"c{number:03d}" for number in range(157))
CLASS = re.compile(r"(?P<id>c[0-9]{3})(?:\s+(?P<name>\S.*))?")


def _read(given: ReaderInput) -> Annotations:
    names = _names(given.labels) if given.labels else {id_: id_ for id_ in CLASSES}
    classes = {id_: index for index, id_ in enumerate(names)}
    rows = [(table, line, row) for table in given.tables for line, row in table.file.records(COLUMNS, strict=False)]
    val = given.held_out(row["id"] for table, _, row in rows if table.split is None)
    first_lines: dict[str, int] = {}
    items = []
    for table, line, row in rows:
        video = table.file.video_id(line, row["id"])
        if video in first_lines:
            raise table.file.error(line, f"video {video!r} is already in line {first_lines[video]}", "keep one row")
        first_lines[video] = line
        spans = [_span(table.file, line, text, classes) for text in row["actions"].split(";") if text.strip()]
        items.append(_item(video, spans, table.split or ("val" if video in val else "train"), given.videos))
    return Annotations(items, tuple(names.values()))


CHARADES = AnnotationFormat(name="charades", reader=_read, suite="charades", multi_label=True)


def _span(file: TextFile, line: int, text: str, classes: dict[str, int]) -> list[float]:
    """Parse one action into [class, start, end]; times in seconds."""
    fields = text.split()
    if len(fields) != 3:
        raise file.error(line, f"action {text.strip()!r}", "separate actions `class start end` by semicolons")
    if fields[0] not in classes:
        raise file.error(line, f"class {fields[0]!r} is not one of {len(classes)}", nearest(fields[0], classes))
    start, end = (file.number(line, f"time of {fields[0]}", field) for field in fields[1:])
    if start < 0 or end < start:
        raise file.error(line, f"action {text.strip()!r} ends before it starts", "correct its seconds")
    return [classes[fields[0]], start, end]


def _item(video: str, spans: list[list[float]], split: Split, videos: Videos) -> Item:
    labels = sorted({int(label) for label, _, _ in spans})
    return Item(video, video, videos.find(video, (split,)), split, labels, spans=spans)


def _names(labels: TextFile) -> dict[str, str]:
    """Name of each class id, in the order of the file."""
    names: dict[str, str] = {}
    for line, text in enumerate(labels.text.splitlines(), start=1):
        match = CLASS.fullmatch(text.strip())
        if match is None:
            if not text.strip():
                continue
            raise labels.error(line, f"{text.strip()!r} is not a class", "a line is `c000 Holding some clothes`")
        if match["id"] in names:
            raise labels.error(line, f"duplicate class {match['id']}", "keep one")
        names[match["id"]] = match["name"] or match["id"]
    if not names:
        raise InputError("no labels", labels.name, "a line is `c000 Holding some clothes`")
    return names
