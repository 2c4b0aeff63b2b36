"""Reads frames from the middle of a long video exactly, without decoding everything before them.

After seeking, decord counts frames from a key frame on, which is wrong if frames that are displayed before the key
frame follow it in the file (open GOP). This module identifies frames by time stamps. The pixels equal decord's.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.video.decoding import decode_range, for_decord
from slowfast_core.data.video.info import DecodeError
from slowfast_core.data.video.orientation import AS_STORED, orientation_of
from slowfast_core.data.video.originals import demuxed, examine, to_rgb

Frames = Iterator[NDArray[np.uint8]]
SAME_PIXELS = ("yuv420p", "yuvj420p")  # formats that both decoders convert to the same RGB


@dataclass(frozen=True)
class KeyFrames:
    """Time stamps of all frames in display order, and the numbers of the frames at which decoding may start."""

    times: list[int]
    numbers: list[int]

    def before(self, frame: int) -> int:
        """The last but one key frame up to `frame`, to include a whole gradual refresh; 0 if there is none."""
        position = bisect_right(self.numbers, frame) - 2
        return self.numbers[position] if position >= 0 else 0


def decode_from(path: Path, start: int, stop: int, keys: KeyFrames | None) -> Frames:
    """Yield frames `start` to `stop`, `[H, W, C]`, equal to decoding from the first frame on. Raises DecodeError."""
    if keys and keys.before(start):
        try:
            yield from _after(path, keys, start, stop)
            return
        except _NotThereError:
            pass  # raised before the first frame: decode from the start instead
    yield from islice(decode_range(path, 0, stop), start, None)


def key_frames(path: Path, frames: int) -> KeyFrames | None:
    """Key frames for exact seeking; None if the file has too little information, or not decord's number of `frames`."""
    import av

    original = examine(path)
    if original.beyond_decord:
        return None
    times, keys = [], []  # in the order of the file
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")  # decord's choice
            if not isinstance(stream, av.VideoStream):
                return None
            if for_decord(original) and stream.pix_fmt not in SAME_PIXELS:
                return None
            for packet in demuxed(container, stream):
                if packet.size:
                    if packet.pts is None or packet.is_discard:
                        return None
                    times.append(packet.pts)
                    keys.append(packet.is_keyframe and not packet.is_corrupt)
    except av.FFmpegError:
        return None
    shown = sorted(set(times))
    if len(shown) != len(times) or len(times) != frames:
        return None
    # Frames before the key frame in the file must be displayed before it: seeking loses or damages them.
    latest = [shown[0] - 1, *accumulate(times, max)]
    usable = (time for time, key, before in zip(times, keys, latest, strict=False) if key and before < time)
    return KeyFrames(shown, [bisect_left(shown, time) for time in usable])


class _NotThereError(Exception):
    """Seeking did not reach the key frame, or the frame is rotated."""


def _after(path: Path, keys: KeyFrames, start: int, stop: int) -> Frames:
    """Decode from a key frame before `start`. Raises _NotThereError before the first frame, or DecodeError."""
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    first = number = keys.before(start)
    reason = "is missing"
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            assert isinstance(stream, av.VideoStream)
            stream.thread_count = 1
            container.seek(keys.times[first], stream=stream)
            for frame in container.decode(stream):
                if number == first and frame.pts is not None and frame.pts < keys.times[first]:
                    continue
                if frame.pts != keys.times[number] or orientation_of(frame) != AS_STORED:
                    break
                if number >= start:
                    yield to_rgb(frame, reformatter)
                number += 1
                if number == stop:
                    return
    except av.FFmpegError as error:
        reason = str(error.strerror)
    except ValueError as error:
        reason = str(error)
    if number <= start:
        raise _NotThereError
    raise DecodeError(path, f"frame {number}: {reason}")
