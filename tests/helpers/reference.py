"""An independent reader of videos: decodes all frames in order, converts colours by the formulas of the standards.

Uses no code of the project, but the same FFmpeg decoders (PyAV).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Frames = list[NDArray[np.uint8]]
KR_KB = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}  # BT.709 and BT.2020; all others use BT.601


def reference_frames(path: Path, fps: float, frames: int) -> Frames:
    """The `frames` frames that a player shows at the times `k / fps` after the first one; RGB, upright."""
    pictures, times = [], []
    with av.open(str(path), metadata_errors="replace") as container:
        videos = [
            stream for stream in container.streams.video if stream.codec_context and not stream.disposition & 0x400
        ]
        stream = max(videos, key=lambda stream: stream.width * stream.height)
        stream.thread_count = 1
        for packet in container.demux(stream):
            try:
                shown = packet.decode()
            except av.FFmpegError:
                continue
            for frame in shown:
                pictures.append(np.rot90(rgb(frame), frame.rotation // 90))
                times.append(frame.time)
    if None in times or times != sorted(times):  # the demuxer guessed the times: use the decoder's order
        return pictures[:frames]
    wanted = min(times) + np.arange(frames) / fps
    later = 1e-6 * np.arange(len(times))[:, None]  # prefers the later of two equally near frames
    nearest = (np.abs(np.array(times, float)[:, None] - wanted[None]) - later).argmin(0)
    return [pictures[number] for number in nearest]


def rgb(frame: Any) -> NDArray[np.uint8]:
    """Convert the planes by ITU-R BT.601, 709 or 2020, in floating point."""
    kind = frame.format
    if not kind.name.startswith("yuv"):
        return frame.to_ndarray(format="rgb24")
    bits = kind.components[0].bits
    planes = [
        np.frombuffer(plane, np.uint16 if bits > 8 else np.uint8)
        .reshape(plane.height, -1)[:, : plane.width]
        .astype(np.float32)
        for plane in frame.planes
    ]
    size = (frame.width, frame.height)
    y, u, v = planes[0], *(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in planes[1:])
    one = 2 ** (bits - 8)
    if frame.color_range == 2 or kind.name.startswith("yuvj"):
        y, u, v = y / (256 * one - 1), (u - 128 * one) / (256 * one - 1), (v - 128 * one) / (256 * one - 1)
    else:
        y, u, v = (y - 16 * one) / (219 * one), (u - 128 * one) / (224 * one), (v - 128 * one) / (224 * one)
    kr, kb = KR_KB.get(frame.colorspace, (0.299, 0.114))
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return (255 * np.stack([red, green, blue], -1)).round().clip(0, 255).astype(np.uint8)
