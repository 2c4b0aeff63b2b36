"""Optical flow (Farneback's method, OpenCV): the motion of each pixel of a frame since the previous frame.

In pixels per frame, x to the right and y down. As in two-stream networks, the flow is clipped to `LIMIT` and quantised
to uint8, with `NO_MOTION` for zero. T frames, H height, W width; 2 is x, y. The store has a flow file next to the clip,
with one array per frame, computed from the clip itself; without the file, the flow is computed when it is read.
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

LIMIT = 20.0  # pixels per frame
NO_MOTION = 128
STEPS = 127  # from no motion to LIMIT

Bytes = NDArray[np.uint8]


def flow_file(video: Path) -> Path:
    return video.with_suffix(".flow.npz")


def quantise(flow_HW2: NDArray[np.float32]) -> Bytes:
    steps_HW2 = np.rint(flow_HW2.clip(-LIMIT, LIMIT) * (STEPS / LIMIT))
    return (steps_HW2 + NO_MOTION).astype(np.uint8)


def frame_flow(previous_HWC: Bytes, frame_HWC: Bytes) -> Bytes:
    """Quantised flow `[H, W, 2]` from the previous RGB frame to this one; zero for identical frames."""
    import cv2

    cv2.setNumThreads(1)  # many processes run in parallel already
    previous_HW, frame_HW = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (previous_HWC, frame_HWC))
    # The backward flow is aligned with the pixels of this frame; its negative is the forward flow.
    back_HW2 = cv2.calcOpticalFlowFarneback(frame_HW, previous_HW, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]
    return quantise(-back_HW2)


def write_flow(video: Path, target: Path) -> None:
    """Write the flow, one array per frame so that clips read only their frames; the bytes are deterministic."""
    previous = None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, frame in enumerate(decode_range(video, 0, probe(video).frames)):
            flow_HW2 = frame_flow(frame if previous is None else previous, frame)
            with archive.open(f"{number}.npy", "w") as file:
                np.lib.format.write_array(file, flow_HW2, allow_pickle=False)
            previous = frame


def decode_with_flow(video: Path, indices: Sequence[int]) -> Bytes:
    """Read the frames at `indices`, `[T, H, W, 5]`: RGB and quantised flow. Raises DecodeError."""
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
