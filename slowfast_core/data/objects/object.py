"""An object of a store, and how hard to try for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20

Arrived = Callable[[int], None]  # told of bytes as they are safe on the disk; less than 0 when they have to come again


@dataclass(frozen=True)
class StoredObject:
    key: str  # relative to the root of the store, with "/"
    size: int
    identity: str  # another one when the content is another one


@dataclass(frozen=True)
class Transfer:
    """How the objects of a bucket are moved."""

    workers: int = 8  # requests at a time
    part_bytes: int = 8 << 20  # objects of more than two parts are moved in parts
    attempts: int = 8  # with the pauses between them, an outage of half a minute is outlived
    backoff_seconds: float = 0.5  # doubles with every attempt, up to 20 s
    timeout_seconds: float = 30.0  # for which no byte may come

    def parts(self, size: int) -> list[range]:
        """The byte ranges in which an object of this size is moved; S3 takes 10,000 of them at most."""
        if size <= 2 * self.part_bytes:
            return [range(size)]
        step = max(self.part_bytes, -(-size // 10_000))
        return [range(start, min(start + step, size)) for start in range(0, size, step)]


def nobody(size: int) -> None:
    """Whom it does not matter what has arrived."""


def write_chunks(chunks: Iterable[bytes], path: Path) -> tuple[int, str, str]:
    """Write the chunks; return their size, sha256 and md5."""
    size, sha256, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            size += len(chunk)
            sha256.update(chunk)
            md5.update(chunk)
    return size, sha256.hexdigest(), md5.hexdigest()
