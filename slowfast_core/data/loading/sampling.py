"""Temporal and spatial sampling of clips: pure arithmetic, without decoding or tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from slowfast_core.data.annotations.boxes import Box
from slowfast_core.recipe.load import Clip


class Pick(NamedTuple):
    """One sample of a training; 0 for `frames` (of the Fast pathway) or `side` means the recipe's value."""

    epoch: int
    position: int
    frames: int = 0
    side: int = 0


@dataclass(frozen=True)
class View:
    """A box of the source frame in pixels, resized to `out_height` x `out_width`, and mirrored if `flip`."""

    x: float
    y: float
    width: float
    height: float
    out_height: int
    out_width: int
    flip: bool = False

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0 or self.out_height <= 0 or self.out_width <= 0:
            raise ValueError(f"empty view: {self}")


def clip_indices(clip: Clip, start: int, frames: int) -> list[int]:
    """Frames of the Fast pathway from `start` on; the last frame is repeated past the end of the video."""
    return [min(start + i * clip.fast_stride, frames - 1) for i in range(clip.fast_frames)]


def training_indices(clip: Clip, frames: int, random: np.random.Generator) -> list[int]:
    """Frames of the Fast pathway for training: a span at a random start, or a random frame of each segment."""
    if clip.sampling == "segments":
        return [int(random.integers(first, last + 1)) for first, last in _segments(clip, frames)]
    return clip_indices(clip, random_start(clip, frames, random), frames)


def evaluation_indices(clip: Clip, frames: int, clips: int) -> list[list[int]]:
    """Frames of the Fast pathway for each test clip: spans across the video, or the middle frame of each segment."""
    if clip.sampling == "segments":
        return [[(first + last) // 2 for first, last in _segments(clip, frames)]]
    return [clip_indices(clip, start, frames) for start in uniform_starts(clip, frames, clips)]


def _segments(clip: Clip, frames: int) -> list[tuple[int, int]]:
    """First and last frame of each of `fast_frames` equal segments of a video.

    As in PySlowFast, neighbours share a border, and a video with fewer frames than segments repeats some.
    """
    size = (frames - 1) / clip.fast_frames
    return [(round(size * part), round(size * (part + 1))) for part in range(clip.fast_frames)]


def labels_within(spans: Sequence[Sequence[float]], start: float, end: float) -> list[int]:
    """Sorted unique labels of the spans [label, start, end] that overlap with the time from `start` to `end`."""
    return sorted({int(label) for label, first, last in spans if first <= end and last >= start})


def resized_clip(clip: Clip, frames: int, random: np.random.Generator) -> Clip:
    """A clip with `frames` Fast frames, at a random stride between the recipe's and the one that covers its span."""
    longest = clip.fast_stride * (clip.fast_frames // frames)
    stride = int(random.integers(clip.fast_stride, longest + 1))
    return clip.model_copy(update={"T": max(frames // clip.alpha, 1), "tau": stride * clip.alpha})


def random_start(clip: Clip, frames: int, random: np.random.Generator) -> int:
    """Uniformly random start of a span of alpha T x tau/alpha frames (paper, section 4: training)."""
    return int(random.integers(0, max(frames - clip.span, 0) + 1))


def uniform_starts(clip: Clip, frames: int, clips: int) -> list[int]:
    """Starts of test clips spread uniformly over the video (paper, section 4: inference)."""
    last = max(frames - clip.span, 0)
    if clips == 1:
        return [last // 2]
    return [last * i // (clips - 1) for i in range(clips)]


def centred_indices(clip: Clip, centre: int, frames: int) -> list[int]:
    """Frames of the Fast pathway around a key frame, clamped to the video (paper, section 5)."""
    first = centre - clip.span // 2
    return [min(max(first + i * clip.fast_stride, 0), frames - 1) for i in range(clip.fast_frames)]


def random_view(
    width: int, height: int, jitter: tuple[int, int], crop: int, flip: bool, random: np.random.Generator
) -> View:
    """Random view: short side uniform in `jitter`, a random `crop` x `crop` box, mirrored with probability 1/2."""
    short_side = int(random.integers(jitter[0], jitter[1] + 1))
    scale = short_side / min(width, height)
    side = min(crop / scale, width, height)
    x, y = random.uniform(0, width - side), random.uniform(0, height - side)
    return View(x, y, side, side, crop, crop, flip and bool(random.random() < 0.5))


def spatial_views(width: int, height: int, size: int, crops: int) -> list[View]:
    """`crops` square views of `size` along the longer side: the centre, or left/centre/right (top to bottom)."""
    side = min(width, height)
    slack = max(width, height) - side
    offsets = [slack / 2] if crops == 1 else [slack * i / (crops - 1) for i in range(crops)]
    corners = [(offset, 0.0) if width >= height else (0.0, offset) for offset in offsets]
    return [View(x, y, side, side, size, size) for x, y in corners]


def whole_view(width: int, height: int, size: int) -> View:
    """The whole frame with its short side resized to `size`."""
    scale = size / min(width, height)
    return View(0, 0, width, height, round(height * scale), round(width * scale))


def boxes_in_view(boxes: Sequence[Sequence[float]], width: int, height: int, view: View) -> list[tuple[int, Box]]:
    """Convert relative boxes to pixels of the view, clipped at its border: (index, box); omits boxes outside."""
    kept = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        left, right = ((x * width - view.x) * view.out_width / view.width for x in (x1, x2))
        top, bottom = ((y * height - view.y) * view.out_height / view.height for y in (y1, y2))
        if view.flip:
            left, right = view.out_width - right, view.out_width - left
        left = max(left, 0.0)
        right = min(right, float(view.out_width))
        top = max(top, 0.0)
        bottom = min(bottom, float(view.out_height))
        if right - left >= 1 and bottom - top >= 1:
            kept.append((i, (left, top, right, bottom)))
    return kept
