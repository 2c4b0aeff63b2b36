"""What the annotation formats share: items, files read by the line, label names, splits, unique ids."""

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
LONGEST_ID = 200  # bytes: a file name has 255, with an ending and what is put before it
LONGEST_COMPARED = 200  # characters: finding similar names takes the square of it
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "spaces"}


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
    spans: list[list[float]] | None = None  # [label, start, end] of each action in a multi-label video


@dataclass(frozen=True)
class Annotations:
    items: list[Item]
    labels: tuple[str, ...]
    ignored: int = 0  # rows of a split that is neither trained nor evaluated on


@dataclass(frozen=True)
class TextFile:
    name: str  # as errors tell it
    text: str

    def rows(self, separator: str = ",", strict: bool = True) -> Iterator[tuple[int, list[str]]]:
        """(line number, stripped fields) of each csv row that is not blank; `strict` about quotes."""
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=separator, strict=strict)
        try:
            for fields in reader:
                if any(field.strip() for field in fields):
                    yield reader.line_num, [field.strip() for field in fields]
        except csv.Error as error:
            raise self.error(reader.line_num, f"not csv: {error}", "mend the line") from None

    def records(
        self, columns: Sequence[str], separator: str = ",", strict: bool = True
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, fields by column) of each row below a header that has `columns`."""
        rows = self.rows(separator, strict)
        line, header = next(rows, (1, []))
        if not header:
            raise self.error(line, "the file is empty", f"the header is {separator.join(columns)}")
        if missing := [column for column in columns if column not in header]:
            other = next((s for s in SEPARATORS if s != separator and columns[0] in header[0].split(s)), None)
            hint = f", with {SEPARATORS[separator]}, not {SEPARATORS[other]}, between them" if other else ""
            raise self.error(line, f"no column {', '.join(missing)}", f"the header is {separator.join(columns)}{hint}")
        if twice := next((column for column in columns if header.count(column) > 1), None):
            raise self.error(line, f"column {twice} is there twice", "keep one")
        for line, fields in rows:
            if len(fields) != len(header):
                what = f"{len(fields)} fields under {len(header)} columns"
                raise self.error(line, what, f"quote fields that hold {SEPARATORS[separator]}")
            yield line, dict(zip(header, fields, strict=True))

    def json(self) -> Any:
        if not self.text.strip():
            raise self.error(1, "the file is empty", "it is JSON")
        return read_json(self.text, self.name, "fix the file")

    def error(self, line: int | str, what: str, mend: str) -> InputError:
        """`line` is its number, or what names an entry of a file without lines."""
        return InputError(what, f"{self.name}:{line}", mend)

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
    """One annotation csv, and the split that the recipe gives it."""

    file: TextFile
    split: Split | None


def checked_video(text: str, where: str) -> str:
    """Raises InputError for an id or a path that names nothing, or something outside of the source."""
    if not text:
        raise InputError("empty video id", where, "name the video")
    if text.startswith("/") or ".." in text.split("/") or "\0" in text:
        raise InputError(f"video {text!r} leaves the data root", where, "use ids or paths below the source")
    return text


def held_out(videos: Iterable[str], share: float) -> frozenset[str]:
    """The videos that become `val`: always the same ones, and never all of them when there are two."""
    ordered = sorted(set(videos), key=lambda video: hashlib.sha256(video.encode()).hexdigest())
    count = math.ceil(round(share * len(ordered), 9))
    return frozenset(ordered[: min(count, max(1, len(ordered) - 1))])


def with_unique_ids(items: Iterable[Item]) -> list[Item]:
    """Ids that are safe as file names; the second of the same name gets `-2`, and so on."""
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    unique = []
    for item in items:
        plain = _short(re.sub(r"[^\w.-]", "_", item.id))
        counts[plain] = max(counts[plain], 1)
        name = plain
        while name in taken:
            counts[plain] += 1
            name = f"{plain}-{counts[plain]}"
        taken.add(name)
        unique.append(replace(item, id=name))
    return unique


def _short(name: str) -> str:
    """A name that is longer than file systems take is cut, and ends in its digest."""
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
    alike = [other for other in names if len(other) <= LONGEST_COMPARED] if len(name) <= LONGEST_COMPARED else []
    near = difflib.get_close_matches(name, alike, n=1)
    return f"did you mean {near[0]!r}?" if near else "correct the row, or add it to the label file"


def read_names(labels: TextFile) -> tuple[str, ...]:
    """Class names in order: a text file with one a line, or JSON, a list or `name: index` as the peers keep it."""
    if labels.text.lstrip().startswith(("{", "[")):
        names = _json_names(labels)
    else:
        names = [name for line in labels.text.splitlines() if (name := line.strip())]
    if len({*names}) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        raise InputError(f"label {twice!r} is there twice", labels.name, "one name a line")
    if not names:
        raise InputError("no labels", labels.name, "one name a line")
    return tuple(names)


def _is_index(value: Any) -> bool:
    """JSON's true and 1.0 are none."""
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
            raise InputError("two labels have the same index", labels.name, "each index is there once")
        tree = sorted(tree, key=indices.__getitem__)
    if not all(isinstance(name, str) for name in tree):
        raise InputError("labels that are no names", labels.name, 'write {"name": index, ...} or ["name", ...]')
    return [name.strip().strip('"') for name in tree]
