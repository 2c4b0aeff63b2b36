"""Files to which a worker appends lines, and which stay readable when a process dies in the middle of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

CHUNK = 1 << 16  # bytes


class JsonLines:
    """A file to which some workers append. What a process before left of its last line is cut off."""

    def __init__(self, path: Path, enabled: bool) -> None:
        self.path, self.enabled = path, enabled
        if enabled and path.exists() and (whole := whole_lines(path)) < path.stat().st_size:
            os.truncate(path, whole)

    def __call__(self, **fields: object) -> None:
        if self.enabled:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")


def whole_lines(path: Path) -> int:
    """How many bytes they are; the rest is the beginning of a line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - CHUNK, 0)
            file.seek(start)
            if newline := file.read(end - start).rfind(b"\n") + 1:
                return start + newline
            end = start
    return 0
