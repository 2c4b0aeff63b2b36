"""Decodes any video: with decord, with FFmpeg (PyAV, see `originals`), or from folders of frames (`frames_folder`).

Frames are uint8 `[T, H, W, C]`, RGB. A reader has one thread (one single-threaded decoder per core is fastest) and is
closed after use. Videos are decoded in order from the first frame on, because decord's seeking is wrong in open GOPs,
MPEG-TS and edit lists. FFmpeg reads the files that decord still decodes wrongly, and files too large for memory: decord
decodes ahead without limit. `clip_store.reader` reads the clip store with random access.
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

from slowfast_core.data.video import frames_folder
from slowfast_core.data.video.info import DecodeError, Inspection, VideoInfo
from slowfast_core.data.video.originals import Original, examine, inspect_in_order, read_in_order, to_rgb

Frame = NDArray[np.uint8]
# decord may keep all frames of a file in memory; ten seconds of 640x480, as in usual copies of Kinetics, fit.
DECORD_BYTES = 300_000_000
SAME_DB = 28  # PSNR of equal frames: 30 for a 10-bit test card with hard edges, above 35 for natural images


def probe(path: Path) -> VideoInfo:
    """Properties of any video, a file or a folder of frames. Raises DecodeError."""
    if path.is_dir():
        return frames_folder.probe(path)
    return examine(path).info


def pick_frames(path: Path, indices: Sequence[int]) -> Frame:
    """Decode the frames at `indices`, in that order, and keep only these in memory. Raises DecodeError."""
    if path.is_dir():
        return frames_folder.pick_frames(path, indices)
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(index, []).append(place)
    if min(places) < 0:
        raise DecodeError(path, f"has no frame {min(places)}")
    picked = np.empty(0, np.uint8)
    for number, frame in enumerate(decode_range(path, 0, max(places) + 1)):
        if not picked.size:
            picked = np.empty((len(indices), *frame.shape), np.uint8)
        if number in places:
            picked[places[number]] = frame
    return picked


def decode_range(path: Path, start: int, stop: int) -> Iterator[Frame]:
    """Yield frames `start` to `stop`, `[H, W, C]`, decoded in order from the first frame on. Raises DecodeError."""
    if path.is_dir():
        yield from frames_folder.decode_range(path, start, stop)
        return
    original, number = examine(path), 0
    with _reader(original) as reader:
        try:
            while reader is not None and number < stop:
                # skip_frames would seek, which is wrong in open GOPs, fragments and AVI.
                frame = _next(path, reader, number)
                if number >= start:
                    yield frame
                number += 1
        except DecodeError:
            pass  # decord reads ahead, so it may fail before the damaged frame; FFmpeg continues
    if number < stop:
        yield from read_in_order(original, max(number, start), stop)


def inspect(path: Path, seconds: float) -> Inspection:
    """Decode up to `seconds` and record errors and damaged frames. Raises DecodeError if the video does not open."""
    if path.is_dir():
        return frames_folder.inspect(path, seconds)
    original = examine(path)
    frames = original.info.frames
    wanted = min(frames, math.ceil(seconds * original.info.fps)) if math.isfinite(seconds) else frames
    with _reader(original) as reader:
        both = _inspect_both(original, reader, wanted) if reader is not None else None
    return both or inspect_in_order(original, wanted)


def _inspect_both(original: Original, reader: Any, wanted: int) -> Inspection | None:
    """Inspect with FFmpeg, which reports damage that decord conceals. None if decord fails.

    A frame on which the decoders differ is damaged too: some damage shows only in the image.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    latest: list[Frame] = []  # the last decoded frame only
    decoded, failed = 0, False

    def differs(number: int, frame: Any) -> bool:
        nonlocal decoded, failed
        try:
            while not failed and decoded <= number:
                latest[:] = [_next(original.path, reader, decoded)]
                decoded += 1
        except DecodeError:
            failed = True
        return not failed and _psnr(latest[0], to_rgb(frame, reformatter)) < SAME_DB

    found = inspect_in_order(replace(original, begin=None), wanted, differs)  # decord ignores frame times
    return None if failed else found


def _psnr(a: Frame, b: Frame) -> float:
    """PSNR of 4 x 4 pixel averages, which hardly depend on how a decoder upsamples the colour planes."""
    import cv2

    if a.shape != b.shape:
        return 0
    cv2.setNumThreads(1)  # many processes run in parallel already
    size = (-(-a.shape[1] // 4), -(-a.shape[0] // 4))
    small_a, small_b = (cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in (a, b))
    return 10 * math.log10(255**2 / max(float(np.square(np.subtract(small_a, small_b, dtype=np.float32)).mean()), 1e-9))


def for_decord(original: Original) -> bool:
    return not original.beyond_decord and original.decoded_bytes <= DECORD_BYTES


@contextmanager
def _reader(original: Original) -> Iterator[Any]:
    """Yield a decord reader, or None if FFmpeg must read the file.

    That is the case if decord is known to be wrong, needs too much memory, fails to open, or counts other frames.
    """
    with ExitStack() as stack:
        reader = None
        if for_decord(original):
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
        del reader  # closes the file and frees its frames


def _next(path: Path, reader: Any, number: int) -> Frame:
    try:
        with _as_decode_error(path, f"frame {number}: "):
            frame: Frame = reader.next().asnumpy()
    except StopIteration:
        raise DecodeError(path, f"ends before frame {number}") from None
    return frame


@contextmanager
def _as_decode_error(path: Path, where: str = "") -> Iterator[None]:
    from decord import DECORDError

    try:
        yield
    except (DECORDError, RuntimeError, IndexError) as error:
        # decord's message starts with the source line and the failed C expression; the reason follows.
        text = re.sub(r"\[[\d:]+\] \S+:\d+: |Check failed: .*? \([^()]* vs\. [^()]*\)", "", str(error))
        reason = " ".join(text.partition("Stack trace")[0].split()) or type(error).__name__
        unreadable = reason.startswith("Error reading")
        raise DecodeError(path, "not a readable video" if unreadable else f"{where}{reason}") from None
