"""Objects of a store, and the settings of transfers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20

OnBytes = Callable[[int], None]  # called with the number of bytes written; negative if they must be fetched again


@dataclass(frozen=True)
class StoredObject:
    key: str  # relative to the root of the store, with "/"
    size: int
    identity: str  # changes when the content changes


@dataclass(frozen=True)
class Transfer:
    """Settings of transfers from and to a bucket."""

    workers: int = 8  # concurrent requests
    part_bytes: int = 8 << 20  # objects larger than two parts are transferred in parts
    attempts: int = 8  # including the pauses, enough for an outage of half a minute
    backoff_seconds: float = 0.5  # doubles with every attempt, up to 20 s
    timeout_seconds: float = 30.0  # without any received byte

    def parts(self, size: int) -> list[range]:
        """Byte ranges of a transfer of `size` bytes, at most 10,000, the limit of S3."""
        if size <= 2 * self.part_bytes:
            return [range(size)]
        step = max(self.part_bytes, -(-size // 10_000))
        return [range(start, min(start + step, size)) for start in range(0, size, step)]


def ignore_bytes(size: int) -> None:
    """Callback that does nothing."""


def md5s_of_parts(path: Path, sizes: Iterable[int]) -> list[bytes]:
    """MD5s of consecutive parts of the file, which have these sizes in bytes."""
    found = []
    with path.open("rb") as file:
        for size in sizes:
            md5 = hashlib.md5(usedforsecurity=False)
            while size > 0 and (chunk := file.read(min(size, CHUNK))):
                md5.update(chunk)
                size -= len(chunk)
            found.append(md5.digest())
    return found
