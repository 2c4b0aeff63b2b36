"""Parses the text of annotation and label files; errors name the file and the line."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slowfast_core.documents import read_json
from slowfast_core.errors import InputError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "spaces"}
WHOLE_NUMBER = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class TextFile:
    """The content of a text file. All methods raise InputError."""

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

    def rows_without_header(self, columns: Sequence[str], optional: int = 0) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, fields) of each row of a csv without header.

        All rows have the number of fields of the first row, which may lack the last `optional` of `columns`.
        """
        expected = 0
        for line, fields in self.rows():
            if not expected:
                is_short = len(columns) - optional <= len(fields) < len(columns)
                expected = len(fields) if is_short else len(columns)
            if len(fields) != expected:
                raise self.error(line, f"{len(fields)} fields instead of {expected}", f"a line is {','.join(columns)}")
            yield line, fields

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
            value = math.nan
        if not math.isfinite(value):
            raise self.error(line, f"{column} {text!r} is not a number", "correct the value")
        return value

    def whole_number(self, line: int | str, column: str, text: str, fix: str = "correct the value") -> int:
        """A number of up to nine digits; Python converts texts of thousands of digits slowly or not at all."""
        if not is_whole_number(text):
            raise self.error(line, f"{column} {text!r} is not a whole number", fix)
        return int(text)


def is_whole_number(text: str) -> bool:
    return WHOLE_NUMBER.fullmatch(text) is not None


def checked_video(text: str, where: str) -> str:
    """Return the video id or path; raises InputError if it is empty or outside the source."""
    if not text:
        raise InputError("empty video id", where, "name the video")
    if text.startswith("/") or ".." in text.split("/") or "\0" in text:
        raise InputError(f"video {text!r} leaves the data root", where, "use ids or paths below the source")
    return text
