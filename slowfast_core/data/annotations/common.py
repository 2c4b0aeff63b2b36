"""Code shared by the annotation formats: items, parsing of text files, label names, splits, unique ids."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from slowfast_core.data.annotations.videos import Videos
from slowfast_core.documents import read_json
from slowfast_core.errors import InputError

__all__ = ["Annotations", "Item", "Split", "Table", "TextFile", "Videos"]

Split = Literal["train", "val"]
NAN = math.nan
LONGEST_ID = 200  # bytes; file names are limited to 255, and prefixes and an extension are added
LONGEST_COMPARED = 200  # characters; the search for similar names takes quadratic time
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "spaces"}


@dataclass(frozen=True)
class Item:
    """One row of the manifest, before its file is copied; manifest.SCHEMA describes the fields."""

    id: str
    video: str
    object: str | None  # key in the source, None if the file is missing
    split: Split
    labels: list[int]
    start: float
    end: float
    second: int | None = None
    key: float = NAN
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
class TextFile:
    name: str  # in error messages
    text: str

    def rows(self, separator: str = ",", strict: bool = True) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, stripped fields) of each csv row that is not blank; `strict` rejects bad quoting."""
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=separator, strict=strict)
        try:
            for fields in reader:
                if any(field.strip() for field in fields):
                    yield reader.line_num, [field.strip() for field in fields]
        except csv.Error as error:
            raise self.error(reader.line_num, f"not csv: {error}", "fix the line") from None

    def records(
        self, columns: Sequence[str], separator: str = ",", strict: bool = True
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield (line number, fields by column) of each row below the header, which must contain `columns`."""
        rows = self.rows(separator, strict)
        line, header = next(rows, (1, []))
        if not header:
            raise self.error(line, "the file is empty", f"the header is {separator.join(columns)}")
        if missing := [column for column in columns if column not in header]:
            other = next((s for s in SEPARATORS if s != separator and columns[0] in header[0].split(s)), None)
            hint = f", separated by {SEPARATORS[separator]}, not {SEPARATORS[other]}" if other else ""
            raise self.error(line, f"no column {', '.join(missing)}", f"the header is {separator.join(columns)}{hint}")
        if repeated := next((column for column in columns if header.count(column) > 1), None):
            raise self.error(line, f"duplicate column {repeated}", "keep one")
        for line, fields in rows:
            if len(fields) != len(header):
                what = f"{len(fields)} fields under {len(header)} columns"
                raise self.error(line, what, f"quote fields that contain {SEPARATORS[separator]}")
            yield line, dict(zip(header, fields, strict=True))

    def json(self) -> Any:
        if not self.text.strip():
            raise self.error(1, "the file is empty", "a JSON file is expected")
        return read_json(self.text, self.name, "fix the file")

    def error(self, line: int | str, what: str, fix: str) -> InputError:
        """An error at a line number, or at a named entry of a JSON file."""
        return InputError(what, f"{self.name}:{line}", fix)

    def video_id(self, line: int | str, text: str) -> str:
        return checked_video(text, f"{self.name}:{line}")

    def number(self, line: int | str, column: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = NAN
        if not math.isfinite(value):
            raise self.error(line, f"{column} {text!r} is not a number", "correct the value")
        return value


@dataclass(frozen=True)
class Table:
    """An annotation file and the split that the recipe assigns to it, None if the file has several splits."""

    file: TextFile
    split: Split | None


def checked_video(text: str, where: str) -> str:
    """Return the video id or path; raises InputError if it is empty or outside the source."""
    if not text:
        raise InputError("empty video id", where, "name the video")
    if text.startswith("/") or ".." in text.split("/") or "\0" in text:
        raise InputError(f"video {text!r} leaves the data root", where, "use ids or paths below the source")
    return text


def held_out(videos: Iterable[str], share: float) -> frozenset[str]:
    """The videos of the `val` split: a deterministic choice that leaves at least one of several videos for `train`."""
    ordered = sorted(set(videos), key=lambda video: hashlib.sha256(video.encode()).hexdigest())
    count = math.ceil(round(share * len(ordered), 9))
    return frozenset(ordered[: min(count, max(1, len(ordered) - 1))])


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


def check_splits(items: Iterable[Item], tables: Sequence[Table], where: str = "") -> None:
    """Raises InputError when a split has no rows."""
    present = {item.split for item in items}
    names = where or ", ".join(table.file.name for table in tables)
    for split in ("train", "val"):
        if split not in present:
            raise InputError(f"split {split!r} is empty", names, "add rows for it, or set data.holdout")


def nearest(name: str, names: Iterable[str]) -> str:
    """A fix for an unknown name: the most similar known name, if any."""
    short = [other for other in names if len(other) <= LONGEST_COMPARED] if len(name) <= LONGEST_COMPARED else []
    matches = difflib.get_close_matches(name, short, n=1)
    return f"did you mean {matches[0]!r}?" if matches else "correct the row, or add the name to the label file"


def read_names(labels: TextFile) -> tuple[str, ...]:
    """Class names in order, from a text file (one per line), a JSON list, or a JSON object `name: index`."""
    if labels.text.lstrip().startswith(("{", "[")):
        names = _json_names(labels)
    else:
        names = [name for line in labels.text.splitlines() if (name := line.strip())]
    if len({*names}) < len(names):
        repeated, _ = Counter(names).most_common(1)[0]
        raise InputError(f"duplicate label {repeated!r}", labels.name, "write each name once, one per line")
    if not names:
        raise InputError("no labels", labels.name, "write one name per line")
    return tuple(names)


def _is_index(value: Any) -> bool:
    """Whether a JSON value is a valid class index; true and 1.0 are not."""
    return re.fullmatch("[0-9]{1,9}", str(value)) is not None


def _json_names(labels: TextFile) -> list[str]:
    tree = labels.json()
    if isinstance(tree, dict):
        indices = {name: int(index) if _is_index(index) else -1 for name, index in tree.items()}
        wrong = next((name for name, index in indices.items() if not 0 <= index < len(tree)), None)
        if wrong is not None:
            what = f"label {wrong[:100]!r} has the index {reprlib.repr(tree[wrong])}"
            raise InputError(what, labels.name, f"{len(tree)} labels have the indices 0 to {len(tree) - 1}")
        if len({*indices.values()}) < len(indices):
            raise InputError("two labels have the same index", labels.name, "use each index once")
        tree = sorted(tree, key=indices.__getitem__)
    if not all(isinstance(name, str) for name in tree):
        raise InputError("a label is not a name", labels.name, 'write {"name": index, ...} or ["name", ...]')
    return [name.strip().strip('"') for name in tree]
