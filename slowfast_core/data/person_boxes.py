"""Reads person boxes that a detector predicted in key frames, in the two formats of the public codebases.

PySlowFast and PyTorchVideo: csv without header, video_id,second,x1,y1,x2,y2,action_id,score. The action id is mostly
empty and is ignored: actions come from the true boxes. MMAction2: a pickle of {"video,0902": array [N, 5]} with the
columns x1 y1 x2 y2 score. Coordinates are fractions of the frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slowfast_core.data.annotations.boxes import Box, KeyFrame, PersonBoxes
from slowfast_core.data.annotations.text_file import TextFile, is_whole_number
from slowfast_core.errors import InputError

COLUMNS = ("video_id", "second", "x1", "y1", "x2", "y2", "action_id", "score")
PICKLES = (".pkl", ".pickle")
SLACK = 0.01  # tolerated excess of a predicted box over the border; pixel coordinates exceed it
LAYOUT = 'the format is {"video_id,second": array of x1 y1 x2 y2 score}'


def read_person_boxes(path: Path, name: str, min_score: float) -> PersonBoxes:
    """Read the boxes of at least `min_score`; `name` is the file's name in error messages. Raises InputError."""
    rows = _from_pickle(path, name) if name.endswith(PICKLES) else _from_csv(path, name)
    found: dict[KeyFrame, dict[Box, float]] = {}  # a csv has a line for each action of a box
    for where, key, box, score in rows:
        if not 0 <= score <= 1:
            what = f"score {score:g} is not in [0, 1]"
            raise InputError(what, where, "use the boxes of a detector; ground truth has a person id in this column")
        if score >= min_score:
            found.setdefault(key, {}).setdefault(_inside(box, where), score)
    if not found:
        raise InputError(f"no box has a score of {min_score:g} or more", name, "use another file, or lower min_score")
    return PersonBoxes(name, {key: [[*box, score] for box, score in boxes.items()] for key, boxes in found.items()})


def _inside(box: Box, where: str) -> Box:
    """Clip the box at the border of the frame. Raises InputError."""
    if min(box) < -SLACK or max(box) > 1 + SLACK:
        raise InputError(f"box {_shown(box)} is not in [0, 1]", where, "use fractions of the frame, not pixels")
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in box)
    if x1 >= x2 or y1 >= y2:
        raise InputError(f"box {_shown(box)} is empty", where, "corners are x1 < x2 and y1 < y2")
    return x1, y1, x2, y2


def _shown(box: Box) -> str:
    return ",".join(f"{value:g}" for value in box)


def _from_csv(path: Path, name: str) -> Iterator[tuple[str, KeyFrame, Box, float]]:
    """Yield (location for errors, key frame, box, score) of each line."""
    try:
        file = TextFile(name, path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError("not a UTF-8 text file", name, f"name a pickle {' or '.join(PICKLES)}") from None
    for line, (video, second, *box, action, score) in file.rows_without_header(COLUMNS):
        number = file.whole_number(line, "second", second, "the file has no header")
        if action:
            file.whole_number(line, "action id", action, "leave it empty")
        x1, y1, x2, y2 = (file.number(line, column, text) for column, text in zip(COLUMNS[2:6], box, strict=True))
        key = file.video_id(line, video), number
        yield f"{name}:{line}", key, (x1, y1, x2, y2), file.number(line, "score", score)


def _from_pickle(path: Path, name: str) -> Iterator[tuple[str, KeyFrame, Box, float]]:
    """Yield (location for errors, key frame, box, score) of each row of each array."""
    from slowfast_core.convert.pickles import read_plain

    content = read_plain(path, name, "take the boxes from a source that publishes plain arrays")
    if not isinstance(content, Mapping):
        raise InputError(f"contains a {type(content).__name__}", name, LAYOUT)
    for key, boxes_N5 in content.items():
        video, comma, second = key.rpartition(",") if isinstance(key, str) else ("", "", "")
        if not (video and comma and is_whole_number(second)):
            raise InputError(f"key {str(key)[:40]!r} is not a key frame", name, LAYOUT)
        frame = video, int(second)
        yield from ((f"{name}: {key}", frame, box, score) for box, score in _people(boxes_N5, name, key))


def _people(boxes_N5: Any, name: str, key: str) -> list[tuple[Box, float]]:
    import numpy as np

    if not isinstance(boxes_N5, np.ndarray) or boxes_N5.dtype.kind not in "fiu":
        raise InputError(f"{key!r} is not an array of numbers", name, LAYOUT)
    if boxes_N5.ndim != 2 or boxes_N5.shape[1] != 5:
        raise InputError(f"{key!r} has the shape {list(boxes_N5.shape)} instead of [N, 5]", name, LAYOUT)
    if not np.isfinite(boxes_N5).all():
        raise InputError(f"{key!r} has a value that is not finite", name, "create the file again")
    return [((x1, y1, x2, y2), score) for x1, y1, x2, y2, score in boxes_N5.astype(float).tolist()]
