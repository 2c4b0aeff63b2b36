"""Reads videos that are folders of numbered frames (JPEG or PNG), with the same functions as `decoding`.

Ingestion writes the frame rate to a file in the folder, which marks the folder as a video. Missing numbers, frames of
different sizes and truncated frames are errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.annotations.videos import FRAME
from slowfast_core.data.video.info import DecodeError, Inspection, VideoInfo

RATE = "frame_rate.txt"
NUMBER = re.compile(r"([0-9]+)\.[^.]+")


def is_frames(folder: Path) -> bool:
    return (folder / RATE).is_file()


def write_frame_rate(folder: Path, frame_rate: float) -> None:
    (folder / RATE).write_text(f"{frame_rate:g}\n", encoding="utf-8")


def probe(folder: Path) -> VideoInfo:
    """Properties of a folder of frames, from the first frame and the frame rate file. Raises DecodeError."""
    files = _files(folder)
    height, width, _ = _picture(folder, files[0]).shape
    return VideoInfo(len(files), float((folder / RATE).read_text(encoding="utf-8")), width, height)


def pick_frames(folder: Path, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Read the frames at `indices`, `[T, H, W, C]`, in that order. Raises DecodeError."""
    files = _files(folder)
    wanted = sorted(set(indices))
    if not 0 <= wanted[0] <= wanted[-1] < len(files):
        raise DecodeError(folder, f"has {len(files)} frames, not frame {wanted[-1]}")
    pictures = dict(zip(wanted, _pictures(folder, [files[index] for index in wanted]), strict=True))
    return np.stack([pictures[index] for index in indices])


def decode_range(folder: Path, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """Yield frames `start` to `stop`, each `[H, W, C]`. Raises DecodeError."""
    files = _files(folder)
    yield from _pictures(folder, files[start:stop])
    if len(files) < stop:
        raise DecodeError(folder, f"ends before frame {len(files)}")


def inspect(folder: Path, seconds: float) -> Inspection:
    """Decode up to `seconds` and record the first error. Raises DecodeError if the first frame does not decode."""
    info = probe(folder)
    wanted = min(info.frames, math.ceil(seconds * info.fps)) if math.isfinite(seconds) else info.frames
    decoded = 0
    try:
        for _ in decode_range(folder, 0, wanted):
            decoded += 1
    except DecodeError as broken:
        return Inspection(info, decoded, broken.reason)
    return Inspection(info, decoded)


def _files(folder: Path) -> list[Path]:
    """The frames in order of their numbers, which must start at 0 or 1 without gaps."""
    if not is_frames(folder):
        raise DecodeError(folder, "not a folder of frames")
    numbered = sorted(
        (int(NUMBER.findall(path.name)[-1]), path) for path in folder.iterdir() if FRAME.fullmatch(f"./{path.name}")
    )
    if not numbered:
        raise DecodeError(folder, "has no frames")
    expected = min(numbered[0][0], 1)
    for number, path in numbered:
        if number != expected:
            raise DecodeError(folder, f"duplicate {path.name}" if number < expected else f"no frame {expected}")
        expected += 1
    return [path for _, path in numbered]


def _pictures(folder: Path, files: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    shape = None
    for file in files:
        picture = _picture(folder, file)
        shape = shape or picture.shape
        if picture.shape != shape:
            sizes = " and ".join(f"{width}x{height}" for height, width, _ in (shape, picture.shape))
            raise DecodeError(folder, f"{file.name}: frames of {sizes}")
        yield picture


def _picture(folder: Path, file: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # broken PNG files raise SyntaxError
        text = str(error)
        reason = "not a picture" if "cannot identify" in text else text.removeprefix(f"{file}: ")
        raise DecodeError(folder, f"{file.name}: {reason}") from None
