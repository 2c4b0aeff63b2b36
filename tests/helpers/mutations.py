"""Damage that downloads, disks and upload forms cause to videos, drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Random = np.random.Generator


def cut_end(data: bytes, random: Random) -> bytes:
    return data[: int(len(data) * random.uniform(0.02, 0.99))]


def cut_few_bytes(data: bytes, random: Random) -> bytes:
    return data[: -int(random.integers(1, 200))]


def cut_begin(data: bytes, random: Random) -> bytes:
    return data[int(len(data) * random.uniform(0.01, 0.5)) :]


def empty(data: bytes, random: Random) -> bytes:
    return b""


def zeroed(data: bytes, random: Random) -> bytes:
    """A block of zeros, as if it was never written."""
    start = int(random.integers(len(data)))
    length = int(random.integers(1, max(len(data) // 3, 2)))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def flipped(data: bytes, random: Random) -> bytes:
    """Single flipped bits, anywhere."""
    changed = bytearray(data)
    for at in random.integers(len(data), size=int(random.integers(1, 40))):
        changed[at] ^= 1 << int(random.integers(8))
    return bytes(changed)


def flipped_header(data: bytes, random: Random) -> bytes:
    """Single flipped bits in the first and last kilobytes, where containers have their tables."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 12))):
        near = int(random.integers(min(2000, len(data))))
        changed[near if random.random() < 0.5 else -1 - near] ^= 1 << int(random.integers(8))
    return bytes(changed)


def other_text(data: bytes, random: Random) -> bytes:
    page = b"<html><body>This video is not available in your country.</body></html>\n"
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/passwd\n#EXT-X-ENDLIST\n"
    subtitles = b"1\n00:00:01,000 --> 00:00:02,000\nHello\n\n"
    return (page, playlist, subtitles)[int(random.integers(3))] * int(random.integers(1, 50))


def noise(data: bytes, random: Random) -> bytes:
    return random.bytes(int(random.integers(1, 50_000)))


def missing_block(data: bytes, random: Random) -> bytes:
    start = int(random.integers(len(data)))
    return data[:start] + data[start + int(random.integers(1, 3000)) :]


def repeated_part(data: bytes, random: Random) -> bytes:
    return data + data[int(random.integers(len(data) // 2)) :]


def swapped(data: bytes, random: Random) -> bytes:
    """Two blocks swapped."""
    size = max(len(data) // 20, 1)
    a, b = sorted(int(at) for at in random.choice(max(len(data) - size, 2), 2, replace=False))
    if b - a < size:
        return data[:a] + data[b:]
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


MUTATIONS: list[Callable[[bytes, Random], bytes]] = [
    cut_end,
    cut_few_bytes,
    cut_begin,
    empty,
    zeroed,
    flipped,
    flipped_header,
    flipped,
    flipped_header,
    other_text,
    noise,
    missing_block,
    repeated_part,
    swapped,
]
