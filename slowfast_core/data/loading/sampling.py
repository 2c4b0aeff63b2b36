"""Temporal and spatial sampling of clips: pure arithmetic, without decoding or tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from slowfast_core.data.annotations.boxes import Box
from slowfast_core.recipe.load import Clip

Starts = Literal["uniform", "pyslowfast", "offset", "rounded"]

# Principal components of the colors of ImageNet's pixels (Krizhevsky et al., 2012), in the order red, green, blue.
COLOR_VALUES = np.array([0.225, 0.224, 0.229])
COLOR_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


class Pick(NamedTuple):
    """One sample of a training; 0 for `frames` (of the Fast pathway) or `side` means the recipe's value."""

    epoch: int
    position: int
    frames: int = 0
    side: int = 0


@dataclass(frozen=True)
class Color:
    """Changes of a clip's colors: factors by name, in their order, and what is added to red, green and blue (0..1)."""

    factors: tuple[tuple[Literal["brightness", "contrast", "saturation"], float], ...]
    shift: tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """A box of the source frame in pixels, resized to `out_height` x `out_width`, and mirrored if `flip`.

    `color` changes the colors before they are normalised.
    """

    x: float
    y: float
    width: float
    height: float
    out_height: int
    out_width: int
    flip: bool = False
    color: Color | None = None

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0 or self.out_height <= 0 or self.out_width <= 0:
            raise ValueError(f"empty view: {self}")


def covered(clip: Clip, fps: float | None) -> float:
    """Number of frames that a clip covers in a video of the frame rate `fps`, which is used if clip.fps is set."""
    if clip.fps is None:
        return clip.span
    if fps is None:
        raise ValueError("a clip with clip.fps needs the frame rate of the video")
    return max(clip.span * fps / clip.fps, 1.0)


def clip_indices(clip: Clip, start: float, frames: int, fps: float | None = None) -> list[int]:
    """Frames of the Fast pathway of a clip from `start` on, in a video of `frames` frames.

    With clip.fps, they are spread evenly from the first to the last frame that the clip covers, rounded down.
    """
    first = math.ceil(start)
    if clip.fps is None:
        steps = [i * clip.fast_stride for i in range(clip.fast_frames)]
    else:
        length = covered(clip, fps)
        last = math.floor(start + length - 1) - first
        gap = (length - 1) / max(clip.fast_frames - 1, 1)
        steps = [min(int(i * gap), last) for i in range(clip.fast_frames)]
    if clip.short == "loop":
        return [(first + step) % frames for step in steps]
    return [min(first + step, frames - 1) for step in steps]


def training_indices(clip: Clip, frames: int, random: np.random.Generator, fps: float | None = None) -> list[int]:
    """Frames of the Fast pathway for training: a span at a random start, or a random frame of each segment."""
    if clip.sampling == "segments":
        return [int(random.integers(first, last + 1)) for first, last in _segments(clip, frames)]
    if clip.fps is None:
        return clip_indices(clip, random_start(clip, frames, random), frames)
    return clip_indices(clip, random.uniform(0, max(frames - covered(clip, fps), 0)), frames, fps)


def evaluation_indices(
    clip: Clip, frames: int, clips: int, starts: Starts = "uniform", fps: float | None = None
) -> list[list[int]]:
    """Frames of the Fast pathway for each test clip: spans across the video, or the middle frame of each segment."""
    if clip.sampling == "segments":
        return [[(first + last) // 2 for first, last in _segments(clip, frames)]]
    return [clip_indices(clip, start, frames, fps) for start in starts_of(clip, frames, clips, starts, fps)]


def starts_of(clip: Clip, frames: int, clips: int, starts: Starts, fps: float | None) -> list[float]:
    """Starts of the test clips by the rule `starts` of the recipe (Evaluate.starts)."""
    if starts == "uniform" and clip.fps is None:
        return [*uniform_starts(clip, frames, clips)]
    length = covered(clip, fps)
    if starts == "rounded" and clip.fps is None:
        length = (clip.fast_frames - 1) * clip.fast_stride + 1
    left = max(frames - length, 0)
    if starts == "pyslowfast":
        return [left * i / clips for i in range(clips)]
    if clips == 1:
        return [left // 2]
    if starts == "offset":
        return [i * (left // (clips - 1)) for i in range(clips)]
    if starts == "rounded":
        return [round(left / (clips - 1) * i) for i in range(clips)]
    return [left * i // (clips - 1) for i in range(clips)]


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


def centred_indices(clip: Clip, centre: int, frames: int, fps: float | None = None) -> list[int]:
    """Frames of the Fast pathway around a key frame, clamped to the video (paper, section 5)."""
    steps = [i * clip.fast_stride - clip.span // 2 for i in range(clip.fast_frames)]
    if clip.fps is not None:  # steps of 1 / clip.fps seconds; the other codebases extract AVA's frames at 30 a second
        steps = [round(step * covered(clip, fps) / clip.span) for step in steps]
    return [min(max(centre + step, 0), frames - 1) for step in steps]


def random_view(
    width: int,
    height: int,
    jitter: tuple[int, int],
    crop: int,
    flip: bool,
    random: np.random.Generator,
    inverse: bool = False,
) -> View:
    """Random view: a short side in `jitter`, a random `crop` x `crop` box, mirrored with probability 1/2.

    The short side is uniform, or its reciprocal is, if `inverse`.
    """
    if inverse:
        short_side = round(1 / random.uniform(1 / jitter[1], 1 / jitter[0]))
    else:
        short_side = int(random.integers(jitter[0], jitter[1] + 1))
    scale = short_side / min(width, height)
    side = min(crop / scale, width, height)
    x, y = random.uniform(0, width - side), random.uniform(0, height - side)
    return View(x, y, side, side, crop, crop, flip and bool(random.random() < 0.5))


def random_area_view(
    width: int,
    height: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    crop: int,
    flip: bool,
    random: np.random.Generator,
) -> View:
    """A random box of a share of the picture in `area` and of width / height in `aspect`, as `crop` x `crop` pixels.

    The area is uniform and the logarithm of the aspect, too. After ten boxes that do not fit, the middle square is
    taken (RandomResizedCrop).
    """
    for _ in range(10):
        ratio = math.exp(random.uniform(math.log(aspect[0]), math.log(aspect[1])))
        size = random.uniform(*area) * width * height
        across, down = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if 0 < across <= width and 0 < down <= height:
            x, y = int(random.integers(0, width - across + 1)), int(random.integers(0, height - down + 1))
            break
    else:
        across = down = min(width, height)
        x, y = (width - across) // 2, (height - down) // 2
    return View(x, y, across, down, crop, crop, flip and bool(random.random() < 0.5))


def random_color(jitter: float, lighting: float, random: np.random.Generator) -> Color | None:
    """Random changes of color by the recipe's `color_jitter` and `lighting_jitter`; None if both are 0."""
    if not jitter and not lighting:
        return None
    names: tuple[Literal["brightness", "contrast", "saturation"], ...] = ("brightness", "contrast", "saturation")
    order = random.permutation(len(names)) if jitter else ()
    factors = tuple((names[i], 1 + float(random.uniform(-jitter, jitter))) for i in order)
    amounts = random.normal(0, lighting, 3) * COLOR_VALUES if lighting else np.zeros(3)
    red, green, blue = (COLOR_VECTORS @ amounts).tolist()
    return Color(factors, (red, green, blue))


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
