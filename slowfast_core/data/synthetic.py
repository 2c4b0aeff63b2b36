"""Generates videos in the official Kinetics and AVA layouts, with classes that differ only in motion.

Sprites move on a torus with uniform position, orientation and phase, so that single frames have the same distribution
in every class. Periods are in source frames: a Slow pathway, which sees every eighth frame, sees all slides as still,
both spins at quarter turns of a shape with half-turn symmetry, and both pulses at the same two sizes. A Fast pathway,
which sees every second frame, can distinguish them.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.annotations.ava import AVA
from slowfast_core.data.annotations.interface import AnnotationFormat
from slowfast_core.data.annotations.kinetics import KINETICS
from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.recipe.load import Data, Synthetic

# The difficulty of the data set. Lengths are fractions of `settings.size`, periods are in source frames.
RADIUS = 0.2  # of a sprite of scale 1, to its farthest corner
SLIDE = 0.25  # distance of a slide, after which the sprite jumps back to its start
SLIDE_PERIOD = 8.0
SPIN_PERIOD = 32.0
PULSE = 0.25  # relative change of size in either direction
SLOW_PULSE_PERIOD = 16.0
FAST_PULSE_PERIOD = 16.0 / 3
DRIFT = 0.003  # maximum speed per frame of the drift that all classes have
CLUTTER = 22  # grey levels of the static background, in either direction
SPRITES = 2  # per Kinetics video, in the same motion; AVA videos have two or three actors with their own actions

# Motions of the position and of the form of a sprite; an actor may have one of each at the same time.
PLACE_MOTIONS = ("sliding left", "sliding right", "sliding up", "sliding down")
FORM_MOTIONS = ("spinning clockwise", "spinning counterclockwise", "pulsing slowly", "pulsing fast")
MOTIONS = PLACE_MOTIONS + FORM_MOTIONS

SETTINGS = "settings.json"  # in a generated source: the settings that generated it
GENERATOR = 1  # increment when the same settings generate different videos
MODIFIED = 946_684_800  # modification time of all files, in seconds since 1970
LABELS = "labels.pbtxt"
SPLITS = ("train", "val")
TEXTURE = 64  # side of a sprite's texture, about three times its side in the video
TEXTURE_REACH = 1.1  # sprite radii from the centre of a texture to its edge
SOFT = TEXTURE / (4 * TEXTURE_REACH)  # edges fade across two texels
COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
ID_LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"))

# Shapes: F frames, H = W = side of the video, P = side of the patch that contains a sprite, N = TEXTURE.
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Path2D:
    """State of one sprite at each frame: centre in pixels, angle in radians, size relative to its radius. All [F]."""

    x: Floats
    y: Floats
    angle: Floats
    scale: Floats


def write_kinetics(settings: Synthetic, output: Path) -> None:
    """Write `videos/<label>/*.mp4`, `train.csv` and `val.csv` to `output`; the `*_videos` settings are per class."""
    _write_once(settings, output, KINETICS, _fill_kinetics)


def write_ava(settings: Synthetic, output: Path) -> None:
    """Write `videos/*.mp4`, `train.csv`, `val.csv` and `labels.pbtxt` to `output`; frames have a side of `2 * size`."""
    _write_once(settings, output, AVA, _fill_ava)


def write_source(data: Data, output: Path) -> Data:
    """Generate the source of a recipe in `output`; returns `data` with that folder as its source."""
    write = write_ava if data.annotation_format.has_boxes else write_kinetics
    write(data.synthetic, output)
    return as_folder(data, output)


def as_folder(data: Data, output: Path) -> Data:
    """The settings of the source that is generated in `output`, as those of an ordinary folder."""
    labels = LABELS if data.annotation_format.has_boxes else None
    annotations = {split: f"{split}.csv" for split in SPLITS}
    return data.model_copy(update={"source": str(output), "annotations": annotations, "labels": labels})


def _write_once(
    settings: Synthetic, output: Path, layout: AnnotationFormat, fill: Callable[[Synthetic, Path], None]
) -> None:
    """Publish the files of `fill` as `output`, unless `output` was generated with the same settings."""
    if settings.size % 2 or settings.size < 16:
        raise InputError(f"size {settings.size} cannot be encoded", "data.synthetic.size", "use an even size from 16")
    if is_generated(settings, output, layout):
        _set_times(output)  # it may have been copied
        return
    partial, old = (output.with_name(f".{output.name}.{suffix}") for suffix in ("writing", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    fill(settings, partial)
    write_whole(partial / SETTINGS, _record(settings, layout))
    _set_times(partial)
    if output.exists():
        output.rename(old)
    partial.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def is_generated(settings: Synthetic, output: Path, layout: AnnotationFormat) -> bool:
    """Whether `output` holds the source that these settings generate in the layout of the format."""
    recorded = output / SETTINGS
    return recorded.is_file() and recorded.read_text(encoding="utf-8") == _record(settings, layout)


def _record(settings: Synthetic, layout: AnnotationFormat) -> str:
    return json.dumps({"layout": layout.name, "generator": GENERATOR, **settings.model_dump()}, indent=1)


def _set_times(folder: Path) -> None:
    """Set all files to the same time: ingestion detects changes by size and time."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mtime != MODIFIED:
            os.utime(path, (MODIFIED, MODIFIED))


def _fill_kinetics(settings: Synthetic, folder: Path) -> None:
    for label in MOTIONS:
        (folder / "videos" / label).mkdir(parents=True)
    for number, split in enumerate(SPLITS):
        rows: list[Sequence[object]] = [COLUMNS]
        for index, (motion, label) in product(range(_videos(settings, split)), enumerate(MOTIONS)):
            random = np.random.default_rng([settings.seed % 2**32, 0, number, motion, index])
            video, start = _video_id(random), int(random.integers(0, 120))
            end = start + settings.seconds
            path = folder / "videos" / label / f"{video}_{start:06d}_{end:06d}.mp4"
            _encode(path, _kinetics_frames(settings, label, random), settings.fps)
            rows.append((label, video, start, end, split))
        _write_csv(folder / f"{split}.csv", rows)


def _kinetics_frames(settings: Synthetic, label: str, random: np.random.Generator) -> NDArray[np.uint8]:
    """One video [F, H, W, 3] of sprites with the motion `label`, half the torus apart so that they never overlap."""
    count, size = settings.fps * settings.seconds, settings.size
    frames = _background(random, count, size)
    first, phase = random.uniform(0, size, 2), random.random()
    drift = random.uniform(-DRIFT, DRIFT, 2) * size
    for number in range(SPRITES):
        centre = first + number * size / SPRITES + random.uniform(-0.05, 0.05, 2) * size
        path = _path(random, [label], centre, drift, phase, count, size)
        _draw(frames, _texture(random), path, RADIUS * size)
    return frames.astype(np.uint8)


def _fill_ava(settings: Synthetic, folder: Path) -> None:
    (folder / "videos").mkdir()
    for number, split in enumerate(SPLITS):
        rows: list[Sequence[object]] = []
        actions = _action_sets(np.random.default_rng([settings.seed % 2**32, 2, number]))
        for index in range(_videos(settings, split)):
            random = np.random.default_rng([settings.seed % 2**32, 1, number, index])
            video = _video_id(random)
            acts = [next(actions) for _ in range(2 + index % 2)]
            frames, boxes = _ava_frames(settings, acts, random)
            _encode(folder / "videos" / f"{video}.mp4", frames, settings.fps)
            rows.extend(_ava_rows(video, settings, acts, boxes))
        _write_csv(folder / f"{split}.csv", rows)
    items = (f'item {{\n  name: "{name}"\n  id: {action}\n}}\n' for action, name in enumerate(MOTIONS, start=1))
    (folder / LABELS).write_text("".join(items), encoding="utf-8")


def _action_sets(random: np.random.Generator) -> Iterator[list[str]]:
    """Yield actions of actors endlessly: a motion of position, one of form, or both, all equally often."""
    combinations = [[m for m in pair if m] for pair in product(("", *PLACE_MOTIONS), ("", *FORM_MOTIONS)) if any(pair)]
    while True:
        yield from (combinations[i] for i in random.permutation(len(combinations)))


def _ava_frames(
    settings: Synthetic, acts: Sequence[Sequence[str]], random: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Floats]]:
    """One video [F, H, W, 3] and each actor's boxes [F, 4]. Each actor stays in its own quarter, so none overlap."""
    count, size = settings.fps * settings.seconds, settings.size
    frames = _background(random, count, 2 * size)
    slack = (0.5 - RADIUS * (1 + PULSE) - SLIDE / 2) * size
    quarters = random.permutation(4)
    boxes = []
    for quarter, actions in zip(quarters, acts, strict=False):
        start, end = np.array([0.5 + quarter % 2, 0.5 + quarter // 2]) * size + random.uniform(-slack, slack, (2, 2))
        path = _path(random, actions, start, (end - start) / count, random.random(), count, size)
        boxes.append(_draw(frames, _texture(random), path, RADIUS * size))
    return frames.astype(np.uint8), boxes


def _ava_rows(
    video: str, settings: Synthetic, acts: Sequence[Sequence[str]], boxes: Sequence[Floats]
) -> Iterator[Sequence[object]]:
    """Yield the official rows: a key frame at every full second with a second of video before and after it."""
    for second, (person, actions) in product(range(1, settings.seconds), enumerate(acts)):
        box = boxes[person][second * settings.fps] / (2 * settings.size)
        corners = [f"{min(max(float(v), 0.0), 1.0):.3f}" for v in box]
        for action in actions:
            yield (video, f"{second:04d}", *corners, MOTIONS.index(action) + 1, person)


def _path(
    random: np.random.Generator,
    motions: Sequence[str],
    centre: NDArray[np.float64],
    drift: NDArray[np.float64],
    phase: float,
    count: int,
    size: int,
) -> Path2D:
    """The path of a sprite with `motions`; unchanged angles and sizes have the distribution of the changed ones."""
    time = np.arange(count)
    x, y = centre[0] + drift[0] * time, centre[1] + drift[1] * time
    angle, pulse = (np.full(count, random.uniform(0, math.tau)) for _ in range(2))
    slide = SLIDE * size * ((phase + time / SLIDE_PERIOD) % 1 - 0.5)
    for motion in motions:
        match motion:
            case "sliding left":
                x = x - slide
            case "sliding right":
                x = x + slide
            case "sliding up":
                y = y - slide
            case "sliding down":
                y = y + slide
            case "spinning clockwise":
                angle = angle + math.tau / SPIN_PERIOD * time
            case "spinning counterclockwise":
                angle = angle - math.tau / SPIN_PERIOD * time
            case "pulsing slowly":
                pulse = pulse + math.tau / SLOW_PULSE_PERIOD * time
            case "pulsing fast":
                pulse = pulse + math.tau / FAST_PULSE_PERIOD * time
            case _:
                raise ValueError(motion)
    return Path2D(*(v.astype(np.float32) for v in (x, y, angle, 1 + PULSE * np.cos(pulse))))


def _background(random: np.random.Generator, count: int, side: int) -> Floats:
    """Smooth static clutter [F, H, W, 3] around a random medium colour, at a coarse and a fine scale."""
    picture = np.broadcast_to(random.uniform(95, 150, 3), (side, side, 3))
    for cells in (side // 16, side // 6):
        weights = np.maximum(0, 1 - abs(np.linspace(0, cells, side)[:, None] - np.arange(cells + 1)))
        noise = random.uniform(-CLUTTER / 2, CLUTTER / 2, (3, cells + 1, cells + 1))
        picture = picture + (weights @ noise @ weights.T).transpose(1, 2, 0)
    return np.repeat(picture[None].astype(np.float32), count, axis=0)


def _texture(random: np.random.Generator) -> Floats:
    """A sprite [N, N, 4] (premultiplied colour, opacity): a striped two-colour shape with half-turn symmetry."""
    axis = np.linspace(-TEXTURE_REACH, TEXTURE_REACH, TEXTURE)
    u, v = np.meshgrid(axis, axis)
    radius, angle = np.hypot(u, v / random.uniform(0.5, 0.8)), np.arctan2(v, u)
    corners = int(random.choice([4, 6]))
    if random.random() < 0.5:
        outline = math.cos(math.pi / corners) / np.cos(angle % (math.tau / corners) - math.pi / corners)
    else:
        outline = (1 + 0.25 * np.cos(corners * angle)) / 1.25
    tilt = random.uniform(0, math.tau)
    stripe = abs(u * math.cos(tilt) + v * math.sin(tilt)) - random.uniform(0.2, 0.4)
    opacity, outside = (np.clip(edge * SOFT + 0.5, 0, 1)[..., None] for edge in (outline - radius, stripe))
    hues = random.uniform(0, 1, (2, 3))
    hues = (hues - hues.min(1, keepdims=True)) / (np.ptp(hues, axis=1, keepdims=True) + 1e-6)
    colours = np.array([120, 0])[:, None] + np.array([135, 70])[:, None] * hues  # a light and a dark colour
    colour = outside * colours[0] + (1 - outside) * colours[1]
    return np.concatenate([colour * opacity, opacity], axis=2).astype(np.float32)


def _draw(frames: Floats, texture: Floats, path: Path2D, radius: float) -> Floats:
    """Draw the sprite into `frames` [F, H, W, 3] with wrap-around; return its boxes x1 y1 x2 y2 in pixels [F, 4]."""
    count, side = frames.shape[:2]
    half = math.ceil(radius * (1 + PULSE)) + 1
    offsets = np.arange(-half, half + 1)
    left, top = np.floor(path.x).astype(int), np.floor(path.y).astype(int)
    columns, rows = left[:, None] + offsets, top[:, None] + offsets  # [F, P]
    dx, dy = ((offsets + 0.5 + np.floor(v)[:, None] - v[:, None]).astype(np.float32) for v in (path.x, path.y))
    # Patch pixels in the sprite's coordinates; the texture is fine enough for nearest-neighbour sampling.
    zoom = TEXTURE / (2 * TEXTURE_REACH * radius * path.scale)
    cos, sin = ((f(path.angle) * zoom)[:, None].astype(np.float32) for f in (np.cos, np.sin))
    u = (cos * dx)[:, None, :] + (sin * dy)[:, :, None] + TEXTURE / 2
    v = (cos * dy)[:, :, None] - (sin * dx)[:, None, :] + TEXTURE / 2
    texels = np.clip(v, 0, TEXTURE - 1).astype(np.int32) * TEXTURE + np.clip(u, 0, TEXTURE - 1).astype(np.int32)
    paint = texture.reshape(-1, 4).take(texels, axis=0)  # [F, P, P, 4]
    lines = np.arange(count)[:, None] * side + rows % side
    where = lines[:, :, None] * side + (columns % side)[:, None, :]
    pixels = frames.reshape(-1, 3)
    pixels[where] = pixels.take(where, axis=0) * (1 - paint[..., 3:]) + paint[..., :3]
    inside = paint[..., 3] > 0.5
    (x1, x2), (y1, y2) = _first_last(np.any(inside, 1)), _first_last(np.any(inside, 2))
    return np.stack([columns[:, 0] + x1, rows[:, 0] + y1, columns[:, 0] + x2, rows[:, 0] + y2], 1).astype(np.float32)


def _first_last(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the first True and one past the last True of each row."""
    return mask.argmax(1), mask.shape[1] - mask[:, ::-1].argmax(1)


def _encode(path: Path, frames: NDArray[np.uint8], fps: int) -> None:
    """Encode deterministic H.264: one thread, no library versions in the container, and no macroblock tree, with which
    x264 encodes small frames slightly differently from run to run."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        options = {"preset": "veryfast", "crf": "20", "flags": "+bitexact", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _video_id(random: np.random.Generator) -> str:
    return "".join(random.choice(ID_LETTERS, 11))


def _videos(settings: Synthetic, split: str) -> int:
    return settings.train_videos if split == "train" else settings.val_videos


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
