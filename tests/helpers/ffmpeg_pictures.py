"""Frames of a video as the program `ffmpeg` shows them: decoded, rotated and converted by FFmpeg's own filters.

The filters that rotate a frame are chosen from its display matrix, as in ffmpeg_filter.c. No code of the project is
used, and no NumPy operation moves a pixel.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray


def ffmpeg_pictures(path: Path) -> list[NDArray[np.uint8]]:
    """All frames in display order, RGB."""
    graph, pictures = None, []
    with av.open(str(path), metadata_errors="replace") as container:
        stream = max(container.streams.video, key=lambda stream: stream.width * stream.height)
        for frame in container.decode(stream):
            graph = graph or _graph(stream, frame)
            graph.push(frame)
            pictures.append(graph.pull().to_ndarray(format="rgb24"))
    return pictures


def _graph(stream: Any, frame: Any) -> Graph:
    graph = Graph()
    last = graph.add_buffer(template=stream, width=frame.width, height=frame.height, format=frame.format)
    for name, options in [*_rotation_filters(frame), ("format", "pix_fmts=rgb24"), ("buffersink", None)]:
        following = graph.add(name, options) if options else graph.add(name)
        last.link_to(following)
        last = following
    graph.configure()
    return graph


def _rotation_filters(frame: Any) -> list[tuple[str, str | None]]:
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return []
    matrix = struct.unpack("=9i", bytes(data))
    scale = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    theta = math.degrees(math.atan2(matrix[1] / scale[1], matrix[0] / scale[0])) % 360
    if abs(theta - 90) < 1:
        return [("transpose", "cclock_flip" if matrix[3] > 0 else "clock")]
    if abs(theta - 270) < 1:
        return [("transpose", "clock_flip" if matrix[3] < 0 else "cclock")]
    if abs(theta - 180) < 1:
        return [("hflip", None)] * (matrix[0] < 0) + [("vflip", None)] * (matrix[4] < 0)
    return [("vflip", None)] * (matrix[4] < 0)
