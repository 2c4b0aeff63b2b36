"""The interface of annotation formats: what a format declares, what its reader receives and what it returns."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from slowfast_core.data.annotations.boxes import PersonBoxes
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.errors import InputError

Split = Literal["train", "val"]
LONGEST_ID = 200  # bytes; file names are limited to 255, and prefixes and an extension are added


@dataclass(frozen=True)
class Item:
    """One row of the manifest, before its file is copied; manifest.SCHEMA describes the fields."""

    id: str
    video: str
    object: str | None  # key in the source, None if the file is missing
    split: Split
    labels: list[int]
    start: float = 0.0
    end: float = math.nan
    second: int | None = None
    key: float = math.nan
    boxes: list[list[float]] | None = None
    box_labels: list[list[int]] | None = None
    proposals: list[list[float]] | None = None
    spans: list[list[float]] | None = None  # [label, start, end] of each action in a multi-label video


@dataclass(frozen=True)
class Annotations:
    items: list[Item]
    labels: tuple[str, ...]
    ignored: int = 0  # rows of splits other than train and val


@dataclass(frozen=True)
class Table:
    """An annotation file and the split that the recipe assigns to it, None if the file has several splits."""

    file: TextFile
    split: Split | None


@dataclass(frozen=True)
class ReaderInput:
    """The files of a data set and the settings of the recipe; each reader uses what its format has."""

    tables: Sequence[Table]
    labels: TextFile | None
    videos: Videos
    root: str = ""  # address of the source
    holdout: float = 0.0  # share of the videos without a split that become `val`
    frame_rate: float = 30.0
    first_second: float = 0.0  # timestamp in the annotations at which the video files start
    key_seconds: tuple[int, int] | None = None  # first and last timestamp of key frames
    excluded: Sequence[TextFile] = ()  # lists of key frames that are not used
    person_boxes: Mapping[Split, PersonBoxes] = field(default_factory=dict)
    person_box_iou: float = 0.9  # a predicted box with a larger IoU gets the actions of the true box
    person_box_negatives: bool = False  # other predicted boxes are used for training, without actions

    def held_out(self, videos: Iterable[str]) -> frozenset[str]:
        """The `val` share of videos without a split: deterministic, at least one of several remains for `train`."""
        ordered = sorted(set(videos), key=lambda video: hashlib.sha256(video.encode()).hexdigest())
        count = math.ceil(round(self.holdout * len(ordered), 9))
        return frozenset(ordered[: min(count, max(1, len(ordered) - 1))])

    def check_splits(self, items: Iterable[Item]) -> None:
        """Raises InputError when a split has no rows."""
        present = {item.split for item in items}
        where = ", ".join(table.file.name for table in self.tables) or self.root
        for split in ("train", "val"):
            if split not in present:
                raise InputError(f"split {split!r} is empty", where, "add rows for it, or set data.holdout")


@dataclass(frozen=True)
class AnnotationFormat:
    """A format of annotations. Recipes and stages use these properties and never compare names."""

    name: str  # data.format in a recipe
    reader: Callable[[ReaderInput], Annotations]
    suite: str  # expectations of the rows: data/quality/suites/<suite>.json
    has_files: bool = True  # False: the folders of the source are the annotations
    has_boxes: bool = False  # boxes of people in key frames, for model.head detect
    multi_label: bool = False  # several labels per video, for model.multi_label
    names_from_rows: bool = False  # without a label file, each name in a row is a class
    synthetic: bool = False  # data.source synthetic can generate it
    published_classes: tuple[int, ...] = ()  # numbers of classes that identify its published data sets

    def read(self, given: ReaderInput) -> Annotations:
        """Read the annotations, with unique ids and both splits. Raises InputError."""
        found = self.reader(given)
        given.check_splits(found.items)
        return replace(found, items=with_unique_ids(found.items))


def with_unique_ids(items: Iterable[Item]) -> list[Item]:
    """Make ids unique and safe as file names: the second item of the same id gets the suffix `-2`, and so on."""
    used: set[str] = set()
    counts: Counter[str] = Counter()
    unique = []
    for item in items:
        plain = _short(re.sub(r"[^\w.-]", "_", item.id))
        counts[plain] = max(counts[plain], 1)
        name = plain
        while name in used:
            counts[plain] += 1
            name = f"{plain}-{counts[plain]}"
        used.add(name)
        unique.append(replace(item, id=name))
    return unique


def _short(name: str) -> str:
    """Shorten a name that is too long for file systems, and append its digest."""
    data = name.encode()
    if len(data) <= LONGEST_ID:
        return name
    return f"{data[: LONGEST_ID - 20].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:16]}"
