"""Files of JSON lines: logs and journals that survive a kill, and that another process may read while they grow."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

CHUNK = 1 << 16  # bytes read at a time


class JsonLines:
    """Appends JSON lines to a file, or does nothing if not `enabled`.

    Removes the incomplete last line that an earlier process may have left.
    """

    def __init__(self, path: Path, enabled: bool = True) -> None:
        self.path = path
        self.enabled = enabled
        if enabled and path.exists() and (whole := whole_lines(path)) < path.stat().st_size:
            os.truncate(path, whole)

    def __call__(self, **fields: object) -> None:
        if self.enabled:
            append(self.path, fields)


class Tail:
    """Reads the lines that are appended to a file, which need not exist yet."""

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path = path
        self.position = position

    def peek(self) -> tuple[list[dict[str, Any]], int]:
        """The complete lines after `position`, and the position after them."""
        if not self.path.exists():
            return [], self.position
        with self.path.open("rb") as file:
            file.seek(self.position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        return _parsed(whole), self.position + len(whole)

    def read(self) -> list[dict[str, Any]]:
        """The complete lines since the last call."""
        lines, self.position = self.peek()
        return lines


def append(path: Path, fields: object) -> None:
    """Append one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines; none if the file does not exist."""
    return _parsed(path.read_bytes()) if path.is_file() else []


def _parsed(text: bytes) -> list[dict[str, Any]]:
    """The lines without damaged ones, such as the last line of a process that was killed."""
    found = []
    for line in text.splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def whole_lines(path: Path) -> int:
    """Size in bytes of the complete lines of a file; an incomplete last line may follow."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - CHUNK, 0)
            file.seek(start)
            if newline := file.read(end - start).rfind(b"\n") + 1:
                return start + newline
            end = start
    return 0
