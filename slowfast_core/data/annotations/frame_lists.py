"""Reads the frame lists of PySlowFast and PyTorchVideo: original_vido_id [sic] video_id frame_id path labels.

The columns are separated by spaces, and each frame of each video has a line. Labels are class indices separated by
commas, in quotes; `""` for a frame without labels. The source holds a folder of frames per video, or the video file.
`data.frame_rate` converts frame numbers to seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from slowfast_core.data.annotations.class_names import read_names
from slowfast_core.data.annotations.interface import AnnotationFormat, Annotations, Item, ReaderInput, Split, Table
from slowfast_core.data.annotations.text_file import TextFile

COLUMNS = ("original_vido_id", "video_id", "frame_id", "path", "labels")
LABELS = re.compile(r"(?:[0-9]{1,5}(?:,[0-9]{1,5})*)?")


@dataclass
class _Video:
    table: Table
    folder: str
    first: int  # id of the first frame
    frames: int = 0
    labelled: list[tuple[int, int]] = field(default_factory=list)  # (label, frame)


def _read(given: ReaderInput) -> Annotations:
    names = read_names(given.labels) if given.labels else None
    found = [(name, video) for table in given.tables for name, video in _videos(table, names).items()]
    if not any(video.labelled for _, video in found):
        fix = "labels of Something-Something are in its json files: set data.format to something"
        raise given.tables[0].file.error(1, "no frame has a label", fix)
    val = given.held_out(name for name, video in found if video.table.split is None)
    items = [_item(name, video, "val" if name in val else "train", given) for name, video in found]
    if names is None:
        names = tuple(str(index) for index in range(max(max(item.labels, default=0) for item in items) + 1))
    return Annotations(items, names)


FRAME_LIST = AnnotationFormat(name="frame_list", reader=_read, suite="charades", multi_label=True)


def _videos(table: Table, names: tuple[str, ...] | None) -> dict[str, _Video]:
    file = table.file
    found: dict[str, _Video] = {}
    for line, row in file.records(COLUMNS, " "):
        name = file.video_id(line, row["original_vido_id"])
        folder = file.video_id(line, row["path"]).rpartition("/")[0]
        number = file.whole_number(line, "frame_id", row["frame_id"])
        video = found.setdefault(name, _Video(table, folder, number))
        if not folder or folder != video.folder:
            what = f"frame {row['path']!r} of {name!r} is not in {video.folder or 'a folder'}"
            raise file.error(line, what, "keep the frames of each video in a folder of their own")
        if number != video.first + video.frames:
            what = f"frame {number} of {name!r} follows frame {video.first + video.frames - 1}"
            raise file.error(line, what, "list all frames in order")
        for label in _labels(file, line, row["labels"], names):
            video.labelled.append((label, video.frames))
        video.frames += 1
    return found


def _labels(file: TextFile, line: int, text: str, names: tuple[str, ...] | None) -> Iterator[int]:
    if not LABELS.fullmatch(text):
        raise file.error(line, f"labels {text!r}", 'write class indices in quotes, such as "0,12", or ""')
    for label in (int(index) for index in text.split(",") if index):
        if names is not None and label >= len(names):
            raise file.error(line, f"label {label} is out of range", f"data.labels has 0 to {len(names) - 1}")
        yield label


def _item(name: str, video: _Video, default: Split, given: ReaderInput) -> Item:
    split = video.table.split or default
    found = given.videos.find(video.folder, (split,)) or given.videos.find(name, (split,))
    labels = sorted({label for label, _ in video.labelled})
    return Item(name, name, found, split, labels, spans=list(_spans(video, given.frame_rate)))


def _spans(video: _Video, frame_rate: float) -> Iterator[list[float]]:
    """Yield [label, start, end] in seconds for each run of frames with a label, half a frame longer on each side."""
    runs = groupby(enumerate(sorted(video.labelled)), key=lambda entry: (entry[1][0], entry[1][1] - entry[0]))
    for (label, _), run in runs:
        frames = [frame for _, (_, frame) in run]
        yield [label, max(frames[0] - 0.5, 0) / frame_rate, (frames[-1] + 0.5) / frame_rate]
