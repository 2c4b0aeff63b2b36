"""What the annotation formats share: items, files read by the line, videos found by name, splits, unique ids."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from slowfast_core.errors import InputError

Split = Literal["train", "val"]
NAN = math.nan
VIDEO_ENDINGS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "flv", "wmv", "3gp", "ogv")


@dataclass(frozen=True)
class Item:
    """One row of the manifest, before its file is there; the fields are those of manifest.SCHEMA."""

    id: str
    video: str
    object: str | None  # key in the source; None: no file was found
    split: Split
    labels: list[int]
    start: float
    end: float
    second: int | None = None
    key: float = NAN
    boxes: list[list[float]] | None = None
    box_labels: list[list[int]] | None = None
    proposals: list[list[float]] | None = None


@dataclass(frozen=True)
class Annotations:
    items: list[Item]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class TextFile:
    name: str  # as errors tell it
    text: str

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, stripped fields) of each csv row that is not blank."""
        reader = csv.reader(io.StringIO(self.text, newline=""), strict=True)
        try:
            for fields in reader:
                if any(field.strip() for field in fields):
                    yield reader.line_num, [field.strip() for field in fields]
        except csv.Error as error:
            raise self.error(reader.line_num, f"not csv: {error}", "mend the line") from None

    def error(self, line: int, what: str, mend: str) -> InputError:
        return InputError(what, f"{self.name}:{line}", mend)

    def video_id(self, line: int, text: str) -> str:
        if not text:
            raise self.error(line, "empty video id", "name the video")
        if text.startswith("/") or ".." in text.split("/") or "\0" in text:
            raise self.error(line, f"video {text!r} leaves the data root", "use ids or paths below the source")
        return text

    def number(self, line: int, column: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = NAN
        if not math.isfinite(value):
            raise self.error(line, f"{column} {text!r} is not a number", "correct the value")
        return value


@dataclass(frozen=True)
class Table:
    """One annotation csv, and the split that the recipe gives it."""

    file: TextFile
    split: Split | None


class Videos:
    """The video files of a source, found by name whatever their folder and container."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            stem, dot, ending = key.rpartition("/")[2].rpartition(".")
            if dot and ending.lower() in VIDEO_ENDINGS:
                self._by_stem[stem].append(key)

    def find(self, name: str, folders: Sequence[str] = ()) -> str | None:
        """The key of `name`; of several, the one below most of `folders`. Raises InputError when that leaves two."""
        named = self._by_stem.get(name.rpartition("/")[2], [])
        found = [key for key in named if f"/{key}".rpartition(".")[0].endswith(f"/{name}")]
        if len(found) > 1:
            likeness = {key: len({*key.split("/")[:-1]} & {*folders}) for key in found}
            found = [key for key in found if likeness[key] == max(likeness.values())]
        if len(found) > 1:
            raise InputError(f"video {name!r} is there twice", ", ".join(found[:3]), "keep one of the files")
        return found[0] if found else None


def held_out(videos: Iterable[str], share: float) -> frozenset[str]:
    """The videos that become `val`: always the same ones, and never all of them when there are two."""
    ordered = sorted(set(videos), key=lambda video: hashlib.sha256(video.encode()).hexdigest())
    count = math.ceil(round(share * len(ordered), 9))
    return frozenset(ordered[: min(count, max(1, len(ordered) - 1))])


def with_unique_ids(items: Iterable[Item]) -> list[Item]:
    """Ids that are safe as file names; the second of the same name gets `-2`, and so on."""
    taken: set[str] = set()
    unique = []
    for item in items:
        plain = re.sub(r"[^\w.-]", "_", item.id)
        name, count = plain, 1
        while name in taken:
            count += 1
            name = f"{plain}-{count}"
        taken.add(name)
        unique.append(replace(item, id=name))
    return unique


def check_splits(items: Iterable[Item], tables: Sequence[Table]) -> None:
    """Raises InputError when a split has no rows."""
    present = {item.split for item in items}
    names = ", ".join(table.file.name for table in tables)
    for split in ("train", "val"):
        if split not in present:
            raise InputError(f"split {split!r} is empty", names, "add rows for it, or set data.holdout")


def nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]!r}?" if near else "correct the row, or add it to the label file"
