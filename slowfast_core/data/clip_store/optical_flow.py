"""Optical flow (Farneback's, by OpenCV): how far what each pixel of a frame shows has moved since the frame before.

In pixels a frame, x to the right and y down. Kept as two-stream networks keep it: clipped to `LIMIT` and quantised to
uint8, `NO_MOTION` for none. T frames, H height, W width; 2 is x, y. A clip's flow is beside it in the store, an array a
frame, and is what the clip itself gives: a video without such a file has its flow computed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.clip_store.reader import read_frames
from slowfast_core.data.video.decoding import decode_range, pick_frames, probe
from slowfast_core.data.video.info import DecodeError

LIMIT = 20.0  # pixels a frame
NO_MOTION, STEPS = 128, 127  # the value of no motion, and from there to LIMIT

Bytes = NDArray[np.uint8]


def flow_file(video: Path) -> Path:
    return video.with_suffix(".flow.npz")


def quantise(flow_HW2: NDArray[np.float32]) -> Bytes:
    steps_HW2 = np.rint(flow_HW2.clip(-LIMIT, LIMIT) * (STEPS / LIMIT))
    return (steps_HW2 + NO_MOTION).astype(np.uint8)


def frame_flow(previous_HWC: Bytes, frame_HWC: Bytes) -> Bytes:
    """Quantised flow `[H, W, 2]` of an RGB frame from the one before it; none where they are the same."""
    import cv2

    cv2.setNumThreads(1)  # the processes are many already
    previous_HW, frame_HW = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (previous_HWC, frame_HWC))
    # Back to the frame before, so that it lies on this frame's pixels: hence the sign.
    back_HW2 = cv2.calcOpticalFlowFarneback(frame_HW, previous_HW, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]
    return quantise(-back_HW2)


def write_flow(video: Path, target: Path) -> None:
    """The flow of every frame, an array each, so that a clip reads its own only; the same bytes at any time."""
    previous = None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, frame in enumerate(decode_range(video, 0, probe(video).frames)):
            flow_HW2 = frame_flow(frame if previous is None else previous, frame)
            with archive.open(f"{number}.npy", "w") as file:
                np.lib.format.write_array(file, flow_HW2, allow_pickle=False)
            previous = frame


def decode_with_flow(video: Path, indices: Sequence[int]) -> Bytes:
    """The frames at `indices`, `[T, H, W, 5]`: RGB, then quantised flow. Raises DecodeError."""
    if flow_file(video).is_file():
        return np.concatenate([read_frames(video, indices), _read_flow(video, indices)], axis=-1)
    needed = sorted({frame for i in indices for frame in (max(i - 1, 0), i)})
    frames = dict(zip(needed, pick_frames(video, needed), strict=True))
    flow = {i: frame_flow(frames[max(i - 1, 0)], frames[i]) for i in set(indices)}
    return np.stack([np.concatenate([frames[i], flow[i]], axis=-1) for i in indices])


def _read_flow(video: Path, indices: Sequence[int]) -> Bytes:
    try:
        with np.load(flow_file(video), allow_pickle=False) as arrays:
            flow = {i: arrays[str(i)] for i in set(indices)}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DecodeError(flow_file(video), f"not a readable flow: {error}") from None
    return np.stack([flow[i] for i in indices])
