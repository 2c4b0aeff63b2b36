"""Generated videos like Kinetics' (H.264, 340x256, 30 fps, 10 s, GOP 250, B-frames), clip stores, a plain loader."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import decord
import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.video.decoding import probe
from slowfast_core.data.video.info import DecodeError
from slowfast_core.recipe.load import Clip, Recipe, Store, parse_recipe
from slowfast_core.stages.flow import STAGE_FUNCTIONS
from slowfast_core.workspace import Workspace

ENDINGS = (".mp4", ".mkv", ".avi")
CLIP = Clip(T=8, tau=8, alpha=4)  # a span of 64 frames
Frames = NDArray[np.uint8]


def write_original(path: Path, seed: int, frames: int = 300, height: int = 256, width: int = 340) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "23", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size, stream.max_b_frames = 250, 2
        for number, frame in enumerate(scene(frames, height, width, seed)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def scene(frames: int, height: int, width: int, seed: int) -> Iterator[Frames]:
    """Frames of a swaying camera over a texture with a natural spectrum, with moving patches and noise."""
    random = np.random.default_rng(seed)
    ground = texture(2 * height, 2 * width, random)
    things = [texture(2 * height, 2 * width, random)[: height // 2, : width // 4] for _ in range(4)]
    places, speeds = random.uniform(0, 1, (4, 2)) * [height, width], random.normal(0, 3, (4, 2))
    for time_ in range(frames):
        angle, scale = 0.02 * np.sin(time_ / 20), 0.55 + 0.05 * np.sin(time_ / 37 + seed)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        shift = [0.4 * width + 20 * np.sin(time_ / 25), 0.4 * height + 12 * np.cos(time_ / 31)]
        matrix = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpAffine(ground, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        for thing, place in zip(things, places + speeds * time_, strict=True):
            room = np.array([height, width]) - thing.shape[:2]
            y, x = np.abs((place % (2 * room)) - room).astype(int)  # reflect at the border
            picture[y : y + thing.shape[0], x : x + thing.shape[1]] = thing
        yield (picture + random.normal(0, 2, picture.shape)).clip(0, 255).astype(np.uint8)


def texture(height: int, width: int, random: np.random.Generator) -> Frames:
    power = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.fftfreq(width)[None] ** 2
    power[0, 0] = 1
    waves = [np.fft.ifft2(np.fft.fft2(random.normal(size=(height, width))) / power**0.6).real for _ in range(3)]
    picture = np.stack([waves[0] + 0.4 * wave for wave in waves], axis=-1)
    pixels: Frames = ((picture - picture.mean()) / picture.std() * 45 + 120).clip(0, 255).astype(np.uint8)
    return pixels


def decord_frames(path: Path, indices: Sequence[int]) -> Frames:
    frames: Frames = decord.VideoReader(str(path), num_threads=1).get_batch(list(indices)).asnumpy()
    return frames


def extracted(originals: list[Path], store: Store, at: Workspace, number: int) -> tuple[Path, Recipe]:
    """The clip store that the stages write for these originals, and their recipe."""
    source = originals[0].parent
    table = at.root / f"{number}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        for i, path in enumerate(originals):
            writer.writerow(["a", path.stem, 0, probe(path).seconds, "val" if i == len(originals) - 1 else "train"])
    data = {"name": f"set{number}", "source": str(source), "annotations": str(table), "store": store.model_dump()}
    data["validation"] = {"max_bad_share": 1}
    recipe = parse_recipe({"name": f"set{number}", "data": data, "clip": CLIP.model_dump()})
    for stage in ("ingest", "validate", "extract"):
        STAGE_FUNCTIONS[stage](recipe, at)
    return at.data(recipe.data.name, "extract") / "store", recipe


def usable(path: Path) -> bool:
    """Whether the video is long enough for a span and about the size of Kinetics videos."""
    if path.suffix not in ENDINGS:
        return False
    try:
        info = probe(path)
    except DecodeError:
        return False
    return info.frames >= 2 * CLIP.span and 240 <= min(info.width, info.height) <= 300
