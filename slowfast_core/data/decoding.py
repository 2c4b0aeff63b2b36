"""Video files to frames: all of decord, and what only a second decoder (FFmpeg through PyAV) tells about damage.

Frames are uint8 `[T, H, W, C]`, RGB. A reader has one thread (one single-threaded decoder a core is fastest) and is
closed after use. Random access of decord 0.6 is exact on the clip store; on originals (open GOP, MPEG-TS) only reading
in order is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DecodeError(Exception):
    """A file that cannot be opened or decoded."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that it survives pickling between processes
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class VideoInfo:
    frames: int
    fps: float
    width: int
    height: int

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    def frame_range(self, start: float, end: float) -> tuple[int, int]:
        """The frames of a segment in seconds, half open; `end` NaN is the end of the video."""
        stop = self.frames if math.isnan(end) else min(round(end * self.fps), self.frames)
        return max(round(start * self.fps), 0), stop


@dataclass(frozen=True)
class Inspection:
    """What came of decoding the first frames of a file; ranges of `damaged` frames are half open."""

    info: VideoInfo
    decoded: int
    error: str = ""
    damaged: tuple[tuple[int, int], ...] = ()


def probe(path: Path) -> VideoInfo:
    """Raises DecodeError."""
    if path.is_dir():
        from slowfast_core.data import frames_folder

        return frames_folder.probe(path)
    with _open(path) as reader:
        return _info(path, reader, _next(path, reader, 0))


def decode_frames(path: Path, indices: Sequence[int]) -> NDArray[np.uint8]:
    """The frames at `indices`, in that order. Raises DecodeError."""
    if path.is_dir():
        from slowfast_core.data import frames_folder

        return frames_folder.decode_frames(path, indices)
    with _open(path) as reader, _as_decode_error(path):
        frames: NDArray[np.uint8] = reader.get_batch(list(indices)).asnumpy()
    return frames


def decode_range(path: Path, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """Frames `start` to `stop`, each `[H, W, C]`, all decoded in order from the first one on. Raises DecodeError."""
    if path.is_dir():
        from slowfast_core.data import frames_folder

        yield from frames_folder.decode_range(path, start, stop)
        return
    with _open(path) as reader:
        if start:
            with _as_decode_error(path, f"within the first {start} frames: "):
                reader.skip_frames(start)
        for number in range(start, stop):
            yield _next(path, reader, number)


def inspect(path: Path, seconds: float) -> Inspection:
    """Decode from the first frame up to `seconds`, noting where it breaks. Raises DecodeError when it does not open."""
    if path.is_dir():
        from slowfast_core.data import frames_folder

        return frames_folder.inspect(path, seconds)
    decoded, error = 1, ""
    with _open(path) as reader:
        info = _info(path, reader, _next(path, reader, 0))
        wanted = min(info.frames, math.ceil(seconds * info.fps)) if math.isfinite(seconds) else info.frames
        try:
            while decoded < wanted:
                _next(path, reader, decoded)
                decoded += 1
        except DecodeError as broken:
            error = broken.reason
    return Inspection(info, decoded, error, _damaged(path, info, wanted))


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    with _as_decode_error(path):
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    try:
        yield reader
    finally:
        del reader  # closes the file and lets its frames go


def _info(path: Path, reader: Any, frame: NDArray[np.uint8]) -> VideoInfo:
    fps = float(reader.get_avg_fps())
    if not 0 < fps < 1e6:
        raise DecodeError(path, "its header has no frame rate")
    height, width, _ = frame.shape
    return VideoInfo(len(reader), fps, width, height)


def _next(path: Path, reader: Any, number: int) -> NDArray[np.uint8]:
    try:
        with _as_decode_error(path, f"frame {number}: "):
            frame: NDArray[np.uint8] = reader.next().asnumpy()
    except StopIteration:
        raise DecodeError(path, f"ends before frame {number}") from None
    return frame


@contextmanager
def _as_decode_error(path: Path, where: str = "") -> Iterator[None]:
    from decord import DECORDError

    try:
        yield
    except (DECORDError, RuntimeError, IndexError) as error:
        # decord tells the source line and the C expression that failed, then what it means.
        text = re.sub(r"\[[\d:]+\] \S+:\d+: |Check failed: .*? \([^()]* vs\. [^()]*\)", "", str(error))
        reason = " ".join(text.partition("Stack trace")[0].split()) or type(error).__name__
        unreadable = reason.startswith("Error reading")
        raise DecodeError(path, "not a readable video" if unreadable else f"{where}{reason}") from None


def _damaged(path: Path, info: VideoInfo, wanted: int) -> tuple[tuple[int, int], ...]:
    """Frames that FFmpeg shows only by concealing errors, each with those after it that may build on it.

    That is up to the next key frame. decord does not pass this flag on. What was damaged before the last encoding
    leaves no such trace.
    """
    import av

    ranges: list[tuple[int, int]] = []
    broken: int | None = None
    number = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")  # as decord chooses
            for packet in container.demux(stream):
                try:
                    frames = [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
                except av.FFmpegError:
                    broken = number if broken is None else broken
                    continue
                for frame in frames:
                    if frame.key_frame and not frame.is_corrupt and broken is not None:
                        ranges.append((broken, number))
                        broken = None
                    if frame.is_corrupt and broken is None:
                        broken = number
                    number += 1
                if number >= wanted:
                    break
    except av.FFmpegError:
        return ()  # decord's word counts
    return tuple(ranges) if broken is None else (*ranges, (broken, info.frames))
