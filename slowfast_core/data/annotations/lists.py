"""Reads lists of videos and classes with one video per line, with or without a header.

Lines are `path label` (PySlowFast, PyTorchVideo, MMAction2; separated by a space, tab, comma or semicolon), or
`folder frames label` (raw frames of MMAction2). Labels are class indices from 0, or names. Paths are relative to the
source, or start with its path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slowfast_core.data.annotations.class_names import nearest, read_names
from slowfast_core.data.annotations.interface import AnnotationFormat, Annotations, Item, ReaderInput, Split, Table
from slowfast_core.data.annotations.text_file import SEPARATORS, TextFile
from slowfast_core.data.annotations.videos import VIDEO

PATHS = ("path", "video", "video_path", "file", "filename", "file_name", "video_id", "id", "name")
LABELS = ("label", "class", "category", "action", "label_id", "class_id")
SPACED = re.compile(r"(?P<path>.*\S)\s+(?P<label>\S+)")
RAW_FRAMES = re.compile(r"(?P<path>.*\S)\s+(?P<frames>[0-9]+)")
LONGEST_COUNT = 9  # digits
INDEX = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True)
class _Row:
    file: TextFile
    line: int
    split: Split | None
    path: str
    label: str
    frames: int | None = None


def _read(given: ReaderInput) -> Annotations:
    rows = [row for table in given.tables for row in _rows(table, given.root.rstrip("/") + "/")]
    names = read_names(given.labels) if given.labels else _names(rows)
    classes = {name: index for index, name in enumerate(names)}
    val = given.held_out(row.path for row in rows if row.split is None)
    seen: dict[tuple[str, Split], tuple[int, _Row]] = {}
    items = []
    for row in rows:
        split = row.split or ("val" if row.path in val else "train")
        label = _label(row, classes)
        first, before = seen.setdefault((row.path, split), (label, row))
        if first != label:
            what = f"{row.path!r} has the label {row.label!r}, but {before.label!r} in line {before.line}"
            raise row.file.error(row.line, what, "keep one of the lines")
        match = VIDEO.fullmatch(row.path)
        end = row.frames / given.frame_rate if row.frames else math.nan
        found = given.videos.find(row.path, (split,))
        items.append(Item(match["name"] if match else row.path, row.path, found, split, [label], 0.0, end))
    return Annotations(items, names)


LIST = AnnotationFormat(name="list", reader=_read, suite="kinetics", names_from_rows=True)


def _rows(table: Table, root: str) -> Iterator[_Row]:
    file = table.file
    separator = _separator(file)
    for line, path, label in _spaced(file) if separator == " " else _columns(file, separator):
        raw = RAW_FRAMES.fullmatch(path) if separator == " " else None
        count = raw["frames"] if raw else "1"
        if len(count) > LONGEST_COUNT or int(count) == 0:
            raise file.error(line, f"{count[:40]} frames", "correct the number, or remove the line")
        if not label:
            raise file.error(line, "empty label", "write the name or the index of the class")
        path = (raw["path"] if raw else path).removeprefix(root)
        yield _Row(file, line, table.split, file.video_id(line, path), label, int(count) if raw else None)


def _separator(file: TextFile) -> str:
    """Detect the separator from the first line, of which the path may contain any separator."""
    first = next((line for line in file.text.splitlines() if line.strip()), "")
    if not first:
        raise file.error(1, "the file is empty", "a line is `path label` or `path,label`")
    cells = {s: [cell.strip().strip('"') for cell in first.split(s)] for s in (",", ";", "\t")}
    two = [s for s, of in cells.items() if len(of) == 2]
    for separator in two:
        start = cells[separator][0]
        if VIDEO.fullmatch(start) or start.lower() in PATHS + LABELS:
            return separator
    if not two or INDEX.fullmatch(first.split()[-1]):
        return " "
    return two[0]


def _spaced(file: TextFile) -> Iterator[tuple[int, str, str]]:
    for line, text in enumerate(file.text.splitlines(), start=1):
        if match := SPACED.fullmatch(text.strip()):
            path, label = match["path"], match["label"]
            if line > 1 or path.lower() not in PATHS:
                yield line, path, label
        elif text.strip():
            raise file.error(line, f"{text.strip()!r} has no label", "a line is `path label` or `path,label`")


def _columns(file: TextFile, separator: str) -> Iterator[tuple[int, str, str]]:
    video, label = 0, 1
    for number, (line, fields) in enumerate(file.rows(separator)):
        if len(fields) != 2:
            name = SEPARATORS[separator]
            fix = f"write two fields separated by {name}; quote a path that contains {name}"
            raise file.error(line, f"{len(fields)} fields", fix)
        if number == 0 and {fields[0].lower(), fields[1].lower()} & {*LABELS}:
            video, label = (0, 1) if fields[1].lower() in LABELS else (1, 0)
            continue
        yield line, fields[video], fields[label]


def _names(rows: Sequence[_Row]) -> tuple[str, ...]:
    """Class names without a label file: the sorted names, or the indices if all labels are indices."""
    if not any(INDEX.fullmatch(row.label) for row in rows):
        return tuple(sorted({row.label for row in rows}))
    if wrong := next((row for row in rows if not INDEX.fullmatch(row.label)), None):
        raise wrong.file.error(
            wrong.line, f"label {wrong.label!r} is not a class index", "other lines have indices; use one kind"
        )
    return tuple(str(index) for index in range(max(int(row.label) for row in rows) + 1))


def _label(row: _Row, classes: dict[str, int]) -> int:
    if row.label in classes:
        return classes[row.label]
    if INDEX.fullmatch(row.label) and int(row.label) < len(classes):
        return int(row.label)
    if INDEX.fullmatch(row.label):
        what = f"label {row.label} is out of range"
        raise row.file.error(row.line, what, f"data.labels has the classes 0 to {len(classes) - 1}")
    raise row.file.error(row.line, f"label {row.label!r} is not in data.labels", nearest(row.label, classes))
