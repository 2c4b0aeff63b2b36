"""A download in byte ranges that a later process can resume."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

from slowfast_core.data.objects.object import StoredObject, md5s_of_parts
from slowfast_core.data.objects.s3_errors import TornError, WrongContentError
from slowfast_core.files import md5_of, sha256_of, sync
from slowfast_core.json_lines import JsonLines, read_lines


def partial_paths(target: Path, item: StoredObject) -> tuple[Path, Path]:
    """Paths of the bytes and the journal of an incomplete `target`; they depend on the content of the object."""
    stem = hashlib.sha256(f"{target.name}\n{item.identity}\n{item.size}".encode()).hexdigest()[:16]
    return target.with_name(f".{stem}.part"), target.with_name(f".{stem}.ranges")


class PartialFile:
    """The incomplete `target`, with a journal of the start, end and MD5 of each finished range."""

    def __init__(self, target: Path, item: StoredObject, parts: list[range]) -> None:
        self.path, self._journal = partial_paths(target, item)
        self._target = target
        self._parts = parts
        self._lock = threading.Lock()
        if not self.path.is_file():
            self._journal.unlink(missing_ok=True)
        self._record = JsonLines(self._journal)
        recorded = {range(line["start"], line["stop"]): line["md5"] for line in read_lines(self._journal)}
        self._finished: dict[range, str] = {part: recorded[part] for part in parts if part in recorded}
        self.path.touch()

    def missing(self) -> list[range]:
        return [part for part in self._parts if part not in self._finished]

    def write(self, part: range, chunks: Iterable[bytes]) -> None:
        """Write the chunks of a range. Raises TornError if their size differs from the range."""
        md5 = hashlib.md5(usedforsecurity=False)
        size = 0
        with self.path.open("r+b") as file:
            file.seek(part.start)
            for chunk in chunks:
                file.write(chunk)
                size += len(chunk)
                md5.update(chunk)
        if size != len(part):
            raise TornError(f"{size} of the {len(part)} bytes from {part.start} arrived")
        with self._lock:
            self._finished[part] = md5.hexdigest()
            self._record(start=part.start, stop=part.stop, md5=md5.hexdigest())

    def digests(self) -> tuple[str, str]:
        """SHA-256 and MD5 of the file on disk. Raises WrongContentError if it differs from the received bytes."""
        for part, md5 in zip(self._parts, md5s_of_parts(self.path, map(len, self._parts)), strict=True):
            if md5.hex() != self._finished[part]:
                raise WrongContentError(f"the bytes from {part.start} on are damaged on disk")
        return sha256_of(self.path), md5_of(self.path)

    def forget_all(self) -> None:
        self._finished.clear()
        self._journal.unlink()

    def publish(self) -> None:
        """Rename the complete file to `target`."""
        sync(self.path)
        self.path.replace(self._target)
        sync(self._target.parent)
        self._journal.unlink()
