"""Reads Something-Something V1 and V2.

V2: json lists of `id` and `template`, `labels.json`, and .webm videos. V1: `id;label` lines, a label file with one name
per line, and folders of frames `{id}/00001.jpg`.
"""

from __future__ import annotations

from collections.abc import Iterator

from slowfast_core.data.annotations.class_names import nearest, read_names
from slowfast_core.data.annotations.interface import AnnotationFormat, Annotations, Item, ReaderInput
from slowfast_core.data.annotations.text_file import TextFile, checked_video
from slowfast_core.errors import InputError

Row = tuple[str, str, str]  # where in the file, video, label


def _read(given: ReaderInput) -> Annotations:
    if given.labels is None:
        where = given.tables[0].file.name
        raise InputError("no label file", where, "set data.labels to the label file of the data set")
    names = read_names(given.labels)
    classes = {name: index for index, name in enumerate(names)}
    rows = [(table, row) for table in given.tables for row in (_v2 if _is_json(table.file) else _v1)(table.file)]
    val = given.held_out(video for table, (_, video, _) in rows if table.split is None)
    found: dict[str, str] = {}
    items = []
    for table, (where, video, label) in rows:
        if video in found:
            raise InputError(f"duplicate video {video!r}", where, f"keep one; the other is {found[video]}")
        found[video] = where
        if label not in classes:
            raise InputError(f"label {label!r} is not in data.labels", where, nearest(label, classes))
        split = table.split or ("val" if video in val else "train")
        items.append(Item(video, video, given.videos.find(video, (split,)), split, [classes[label]]))
    return Annotations(items, names)


SOMETHING = AnnotationFormat(name="something", reader=_read, suite="kinetics")


def _is_json(file: TextFile) -> bool:
    return file.name.endswith(".json") or file.text.lstrip().startswith(("[", "{"))


def _v2(file: TextFile) -> Iterator[Row]:
    tree = file.json()
    if not isinstance(tree, list):
        raise InputError("not a list of videos", file.name, 'the format is [{"id": ..., "template": ...}, ...]')
    for number, entry in enumerate(tree, start=1):
        where = f"{file.name}: video {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str | int):
            raise InputError("no id", where, 'a video is {"id": ..., "template": ...}')
        if not isinstance(entry.get("template"), str):
            fix = "use a split with labels; test splits without them cannot be used"
            raise InputError(f"video {entry['id']!r} has no template", where, fix)
        yield where, checked_video(str(entry["id"]), where), entry["template"].replace("[", "").replace("]", "")


def _v1(file: TextFile) -> Iterator[Row]:
    rows = list(file.rows(";"))
    if not rows:
        raise file.error(1, "the file is empty", "a line is `id;label`")
    for line, fields in rows:
        if len(fields) == 1:
            commas = "," in fields[0]
            semicolon = "a line is `id;label`, with a semicolon"
            fix = semicolon if commas else "use a split with labels; test splits without them cannot be used"
            raise file.error(line, f"{fields[0]!r} has no label", fix)
        if len(fields) > 2:
            raise file.error(line, f"{len(fields)} fields", "a line is `id;label`; quote labels with semicolons")
        yield f"{file.name}:{line}", file.video_id(line, fields[0]), fields[1]
