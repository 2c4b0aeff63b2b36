"""Properties of videos, results of inspections, and decode errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


class DecodeError(Exception):
    """A file that cannot be opened or decoded."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that it survives pickling between processes
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class VideoInfo:
    """Number, rate and size of the frames of a video."""

    frames: int
    fps: float
    width: int
    height: int

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    def frame_range(self, start: float, end: float) -> tuple[int, int]:
        """Half-open frame range of a segment in seconds; `end` NaN is the end of the video."""
        stop = self.frames if math.isnan(end) else min(round(end * self.fps), self.frames)
        return max(round(start * self.fps), 0), stop


@dataclass(frozen=True)
class Inspection:
    """The result of decoding the first frames of a file; the ranges of `damaged` frames are half open."""

    info: VideoInfo
    decoded: int
    error: str = ""
    damaged: tuple[tuple[int, int], ...] = ()
    claimed_seconds: float = math.nan  # length in the header, NaN if it has none
