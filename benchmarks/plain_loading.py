"""Loading of clips and views without a clip store: a plain decord loop, MMAction2's steps, PyTorchVideo's decoder."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from originals import CLIP, decord_frames
from torch import Tensor
from torch.nn import functional

from slowfast_core.data.loading.sampling import View
from slowfast_core.recipe.schema import Pixels

PIXELS = Pixels()
CROPS, SIZE = 3, 256
Frames = NDArray[np.uint8]


def crop_and_resize(frames: Frames, view: View) -> Tensor:
    """The cheapest rendering for the plain loop: crop at whole pixels, resize as uint8."""
    x, y, side = round(view.x), round(view.y), round(view.width)
    small = [cv2.resize(frame[y : y + side, x : x + side], (view.out_width, view.out_height)) for frame in frames]
    return normalised(np.stack(small)[:, :, ::-1] if view.flip else np.stack(small))


def whole_pictures(frames: Frames, view: View) -> Frames:
    """Resize whole pictures, as MMAction2 does before it crops."""
    scale = view.out_width / view.width
    size = round(frames.shape[2] * scale), round(frames.shape[1] * scale)
    return np.stack([cv2.resize(frame, size) for frame in frames])


def cropped(frames: Frames, view: View) -> Tensor:
    scale = view.out_width / view.width
    x, y = int(view.x * scale), int(view.y * scale)
    part = frames[:, y : y + view.out_height, x : x + view.out_width]
    return normalised(part[:, :, ::-1] if view.flip else part)


def normalised(frames_THWC: Frames) -> Tensor:
    pictures = torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(3, 0, 1, 2).float()
    return pictures.div_(255).sub_(PIXELS.mean[0]).div_(PIXELS.std[0])


def torchvideo(path: Path, start: float, end: float) -> Tensor:
    """PyTorchVideo's decoding of every frame of the span to RGB floats, then its subsampling to 32 frames."""
    names = (
        "torchvision",
        "torchvision.datasets",
        "torchvision.datasets.folder",
    )  # imported by PyTorchVideo, but not used here
    sys.modules |= {name: sys.modules.get(name) or ModuleType(name) for name in names}
    sys.modules[names[-1]].make_dataset = None  # type: ignore[attr-defined]
    from pytorchvideo.data.encoded_video_pyav import EncodedVideoPyAV

    with path.open("rb") as file:
        video = EncodedVideoPyAV(file, path.name, decode_audio=False)
        clip: Tensor = video.get_clip(start, end)["video"]
        video.close()
    return clip.index_select(1, torch.linspace(0, clip.shape[1] - 1, CLIP.fast_frames).long())


def torchvideo_view(clip_CTHW: Tensor, view: View) -> Tensor:
    """The steps of PyTorchVideo's transforms: normalize, resize by the short side, crop, flip."""
    scale = view.out_width / view.width
    clip_CTHW = (clip_CTHW / 255 - PIXELS.mean[0]) / PIXELS.std[0]
    size = [round(side * scale) for side in clip_CTHW.shape[2:]]
    resized = functional.interpolate(clip_CTHW, size=size, mode="bilinear", align_corners=False)
    x, y = int(view.x * scale), int(view.y * scale)
    part = resized[:, :, y : y + view.out_height, x : x + view.out_width]
    return part.flip(-1) if view.flip else part


def whole_views(path: Path, clips: list[list[int]]) -> list[Frames]:
    """MMAction2's method: open once, decode the frames of all clips, resize whole pictures, three crops of each."""
    frames = decord_frames(path, list(chain(*clips)))
    scale = SIZE / min(frames.shape[1:3])
    size = round(frames.shape[2] * scale), round(frames.shape[1] * scale)
    resized = np.stack([cv2.resize(frame, size) for frame in frames])
    height, width = resized.shape[1:3]
    slack_y, slack_x = height - SIZE, width - SIZE
    corners = [(slack_y * i // 2, slack_x * i // 2) for i in range(CROPS)]
    return [np.ascontiguousarray(resized[:, y : y + SIZE, x : x + SIZE]) for y, x in corners]


def one_view(path: Path, indices: list[int], view: View) -> Frames:
    x, y, side = round(view.x), round(view.y), round(view.width)
    frames = decord_frames(path, indices)
    return np.stack([cv2.resize(frame[y : y + side, x : x + side], (SIZE, SIZE)) for frame in frames])


def all_normalised(views: list[Frames]) -> None:
    for view in views:
        normalised(view)
