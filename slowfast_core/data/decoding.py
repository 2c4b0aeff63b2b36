"""Video files to frames: all of decord, and where something else reads.

Frames are uint8 `[T, H, W, C]`, RGB. A reader has one thread (one single-threaded decoder a core is fastest) and is
closed after use. Random access of decord 0.6 is exact on the clip store; originals (open GOP, MPEG-TS, edit lists) are
read in order, and those that decord shows wrong by FFmpeg: see `originals`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.originals import Original, examine, inspect_in_order, read_in_order
from slowfast_core.data.video import DecodeError, Inspection, VideoInfo

__all__ = ["DecodeError", "Inspection", "VideoInfo", "decode_frames", "decode_range", "inspect", "pick_frames", "probe"]


def probe(path: Path) -> VideoInfo:
    """Raises DecodeError."""
    original = examine(path)
    with _reader(original) as reader:
        return _info(path, reader, _next(path, reader, 0)) if reader else original.info


def decode_frames(path: Path, indices: Sequence[int]) -> NDArray[np.uint8]:
    """The frames at `indices` of a file of the clip store, in that order, by random access. Raises DecodeError."""
    with _open(path) as reader, _as_decode_error(path):
        frames: NDArray[np.uint8] = reader.get_batch(list(indices)).asnumpy()
    return frames


def pick_frames(path: Path, indices: Sequence[int]) -> NDArray[np.uint8]:
    """The frames at `indices` of any file, in that order, all read from the first on. Raises DecodeError."""
    wanted = set(indices)
    frames = enumerate(decode_range(path, 0, max(wanted) + 1))
    picked = {number: frame for number, frame in frames if number in wanted}
    return np.stack([picked[index] for index in indices])


def decode_range(path: Path, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """Frames `start` to `stop`, each `[H, W, C]`, all decoded in order from the first one on. Raises DecodeError."""
    original = examine(path)
    with _reader(original) as reader:
        if reader is None:
            yield from read_in_order(original, start, stop)
            return
        if start:
            with _as_decode_error(path, f"within the first {start} frames: "):
                reader.skip_frames(start)
        for number in range(start, stop):
            yield _next(path, reader, number)


def inspect(path: Path, seconds: float) -> Inspection:
    """Decode from the first frame up to `seconds`, noting where it breaks. Raises DecodeError when it does not open."""
    original = examine(path)
    with _reader(original) as reader:
        if reader is None:
            return inspect_in_order(original, _wanted(original.info, seconds))
        decoded, error = 1, ""
        info = _info(path, reader, _next(path, reader, 0))
        wanted = _wanted(info, seconds)
        try:
            while decoded < wanted:
                _next(path, reader, decoded)
                decoded += 1
        except DecodeError as broken:
            error = broken.reason
    # decord conceals errors without a word; FFmpeg tells which frames have them.
    return replace(inspect_in_order(original, wanted), info=info, decoded=decoded, error=error)


def _wanted(info: VideoInfo, seconds: float) -> int:
    return min(info.frames, math.ceil(seconds * info.fps)) if math.isfinite(seconds) else info.frames


@contextmanager
def _reader(original: Original) -> Iterator[Any]:
    """decord's, or None where FFmpeg must read: decord is known wrong there, does not open it, or counts otherwise."""
    with ExitStack() as stack:
        reader = None
        if not original.beyond_decord:
            try:
                reader = stack.enter_context(_open(original.path))
            except DecodeError:
                reader = None
        yield reader if reader is not None and len(reader) == original.info.frames else None


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
