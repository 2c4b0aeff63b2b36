"""Reads the official Kinetics csv (400, 600, 700, 700-2020): label, youtube_id, time_start, time_end, split, ...

The video of a row is the pre-cut clip `{id}_{start:06d}_{end:06d}.mp4`, or a segment of the whole video `{id}.mp4`.
Rows of the split `test` in a file with several splits are ignored. The official json files have the same content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from slowfast_core.data.annotations.class_names import nearest, read_names
from slowfast_core.data.annotations.interface import AnnotationFormat, Annotations, Item, ReaderInput, Split, Table
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos

COLUMNS = ("label", "youtube_id", "time_start", "time_end")
SPLITS: dict[str, Split | Literal["test"]] = {
    "train": "train",
    "val": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class _Row:
    file: TextFile
    line: int | str
    label: str
    video: str
    start: float
    end: float
    split: Split | None

    @property
    def name(self) -> str:
        """Official name of the pre-cut clip, including segments that do not start on a whole second."""
        return f"{self.video}_{_seconds(self.start)}_{_seconds(self.end)}"


def _read(given: ReaderInput) -> Annotations:
    found = [row for table in given.tables for row in _rows(table)]
    rows = [row for row in found if row is not None]
    names = read_names(given.labels) if given.labels else tuple(sorted({row.label for row in rows}))
    classes = {name: index for index, name in enumerate(names)}
    val = given.held_out(row.video for row in rows if row.split is None)
    items = [_item(row, classes, "val" if row.video in val else "train", given.videos) for row in rows]
    return Annotations(items, names, len(found) - len(rows))


KINETICS = AnnotationFormat(
    name="kinetics",
    reader=_read,
    suite="kinetics",
    names_from_rows=True,
    synthetic=True,
    published_classes=(400, 600, 700),
)


def _rows(table: Table) -> Iterator[_Row | None]:
    """Yield the rows, None for a row of the test split."""
    file = table.file
    for line, row in _records(file):
        split = _split(table, line, row.get("split", ""))
        if split == "test":
            yield None
            continue
        start = file.number(line, "time_start", row["time_start"])
        end = file.number(line, "time_end", row["time_end"])
        if start < 0 or end <= start:
            raise file.error(line, f"segment from {start:g} to {end:g} seconds", "time_end must follow time_start")
        if not row["label"]:
            raise file.error(line, "empty label", "name the class")
        yield _Row(file, line, row["label"], file.video_id(line, row["youtube_id"]), start, end, split)


def _records(file: TextFile) -> Iterator[tuple[int | str, dict[str, str]]]:
    if file.text.lstrip().startswith("{"):
        yield from _json_records(file)
        return
    _, header = next(file.rows(), (1, []))
    if "youtube_id" in header and "label" not in header:
        raise file.error(1, "no column label", "use a split with labels; test splits without them cannot be used")
    yield from file.records((*COLUMNS, "split") if "split" in header else COLUMNS)


def _json_records(file: TextFile) -> Iterator[tuple[str, dict[str, str]]]:
    for video, entry in file.json().items():
        try:
            start, end = entry["annotations"]["segment"]
            label, split = entry["annotations"].get("label", ""), entry.get("subset", "")
            if not all(isinstance(value, str | int | float) for value in (start, end, label, split)):
                raise TypeError
        except (AttributeError, KeyError, TypeError, ValueError):
            fix = 'the format is {"annotations": {"label": ..., "segment": [start, end]}, "subset": ...}'
            raise file.error(video, "no segment with a start and an end", fix) from None
        row = {"label": label, "youtube_id": video, "time_start": start, "time_end": end, "split": split}
        yield video, {name: str(value) for name, value in row.items()}


def _split(table: Table, line: int | str, text: str) -> Split | Literal["test"] | None:
    if not text:
        return table.split
    split = SPLITS.get(text.lower())
    if split is None or table.split not in (None, split):
        meant = f"the split of this file is {table.split!r}" if table.split else "a split is 'train', 'val' or 'test'"
        raise table.file.error(line, f"split {text!r}", meant)
    return split


def _item(row: _Row, classes: dict[str, int], default: Split, videos: Videos) -> Item:
    if row.label not in classes:
        raise row.file.error(row.line, f"label {row.label!r} is not in data.labels", nearest(row.label, classes))
    split = row.split or default
    folders = (row.label, row.label.replace(" ", "_"), split)
    labels = [classes[row.label]]
    if clip := videos.find(row.name, folders):
        return Item(row.name, row.video, clip, split, labels)
    return Item(row.name, row.video, videos.find(row.video, folders), split, labels, row.start, row.end)


def _seconds(value: float) -> str:
    return f"{value:06.0f}" if value == int(value) else f"{value:010.3f}"
