"""Reads frames of the clip store with FFmpeg (PyAV), from the nearest key frame on.

It relies on the format that extraction writes (constant rate, no B-frames, no edit list), in which the time of a frame
follows from its number. T frames, H height, W width; R is 3/2 H: the rows of Y, then of U and V at half the size
(4:2:0, "I420").
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.video.info import DecodeError, VideoInfo

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

Bytes = NDArray[np.uint8]


def probe(path: Path) -> VideoInfo:
    """Read the header of a clip of the store, which unlike that of an original is reliable. Raises DecodeError."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        return VideoInfo(stream.frames, float(stream.average_rate or 0), stream.width, stream.height)


def read_frames(path: Path, indices: Sequence[int]) -> Bytes:
    """Read the frames at `indices`, in that order: RGB `[T, H, W, 3]`, equal to decord's. Raises DecodeError."""
    return _read(path, indices, "rgb24")


def read_planes(path: Path, indices: Sequence[int]) -> Bytes:
    """Read the frames as coded planes `[T, R, W]`, half the bytes; `rgb_of_planes` converts them to RGB."""
    return _read(path, indices, "yuv420p")


def _read(path: Path, indices: Sequence[int], format: str) -> Bytes:
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for all frames: it caches its tables
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(index, []).append(place)
    frames: Bytes | None = None
    with _opened(path) as container:
        for number, frame in _decoded(path, container, sorted(places)):
            picture = reformatter.reformat(frame, format=format, threads=1).to_ndarray()
            if frames is None:
                frames = np.empty((len(indices), *picture.shape), np.uint8)
            for place in places[number]:
                frames[place] = picture
    if frames is None:
        raise ValueError("no frames asked for")
    return frames


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DecodeError(path, "no video stream")
            context = container.streams.video[0].codec_context
            context.thread_count = 1  # one single-threaded decoder per core is fastest
            context.options = {"err_detect": "explode"}  # raise errors instead of concealing damage
            yield container
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(path, f"not a readable clip: {error.strerror}") from None


def _decoded(path: Path, container: InputContainer, wanted: list[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the frames of the ascending numbers `wanted`; seeks if a key frame is closer than the current position."""
    stream: Any = container.streams.video[0]
    tick = 1 / float(stream.average_rate * stream.time_base)  # from one frame to the next
    keys = [round(entry.timestamp / tick) for entry in stream.index_entries if entry.is_keyframe]
    number, frames = -1, iter(list[Any]())
    for index in wanted:
        key = keys[bisect_right(keys, index) - 1] if keys else 0
        if key > number + 1 or number < 0:
            container.seek(round(key * tick), stream=stream)
            frames = container.decode(stream)
            number = key - 1
        for frame in frames:
            number = round(frame.pts / tick)
            if number >= index:
                break
        else:
            raise DecodeError(path, f"ends before frame {index}")
        if number != index or frame.is_corrupt:
            raise DecodeError(path, f"frame {index} is damaged")
        yield index, frame
