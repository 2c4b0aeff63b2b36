"""A download in byte ranges that a later process can resume."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable
from pathlib import Path

from slowfast_core.data.objects.object import CHUNK, StoredObject
from slowfast_core.data.objects.s3_errors import TornError, WrongContentError
from slowfast_core.files import sync, write_whole

LINE = re.compile(r"(\d+) (\d+) ([0-9a-f]{32})")


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
        self._finished = self._read_journal()
        self._lock = threading.Lock()
        self.path.touch()
        self._write_journal()

    def missing(self) -> list[range]:
        return [part for part in self._parts if part not in self._finished]

    def write(self, part: range, chunks: Iterable[bytes]) -> None:
        """Write the chunks of a range. Raises TornError if their size differs from the range."""
        md5, size = hashlib.md5(usedforsecurity=False), 0
        with self.path.open("r+b") as file:
            file.seek(part.start)
            for chunk in chunks:
                file.write(chunk)
                size += len(chunk)
                md5.update(chunk)
        if size != len(part):
            raise TornError(f"{size} of the {len(part)} bytes from {part.start} arrived")
        with self._lock, self._journal.open("a", encoding="utf-8") as journal:
            self._finished[part] = md5.hexdigest()
            journal.write(self._line(part))

    def digests(self) -> tuple[str, str]:
        """SHA-256 and MD5 of the file on disk. Raises WrongContentError if it differs from the received bytes."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with self.path.open("rb") as file:
            for part in self._parts:
                of_part = hashlib.md5(usedforsecurity=False)
                for start in range(part.start, part.stop, CHUNK):
                    chunk = file.read(min(CHUNK, part.stop - start))
                    for digest in (sha256, md5, of_part):
                        digest.update(chunk)
                if of_part.hexdigest() != self._finished[part]:
                    raise WrongContentError(f"the bytes from {part.start} on are damaged on disk")
        return sha256.hexdigest(), md5.hexdigest()

    def forget_all(self) -> None:
        self._finished.clear()
        self._write_journal()

    def publish(self) -> None:
        """Rename the complete file to `target`."""
        sync(self.path)
        self.path.replace(self._target)
        sync(self._target.parent)
        self._journal.unlink()

    def _read_journal(self) -> dict[range, str]:
        """The finished ranges among the parts; truncated lines are ignored."""
        if not self._journal.is_file() or not self.path.is_file():
            return {}
        found = [LINE.fullmatch(line) for line in self._journal.read_text(encoding="utf-8").splitlines()]
        finished = {range(int(line[1]), int(line[2])): line[3] for line in found if line}
        return {part: finished[part] for part in self._parts if part in finished}

    def _write_journal(self) -> None:
        write_whole(self._journal, "".join(self._line(part) for part in self._finished))

    def _line(self, part: range) -> str:
        return f"{part.start} {part.stop} {self._finished[part]}\n"
