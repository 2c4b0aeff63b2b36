"""Unusual videos as they occur in real sources, with the motion of `video_kinds`; each kind has its own peculiarity.

A kind is a function of `(path without suffix, frames)` that returns the path of the written file.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from video_kinds import FPS, Frames, Kind, colourful_frames, encoded, pictures, write

ORIENTATIONS = {  # the display matrix a, b, c, d maps x' = a x + c y, y' = b x + d y
    "as_stored": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside_down_mirrored": (1, 0, 0, -1),
    "rotated_180": (-1, 0, 0, -1),
    "rotated_90": (0, 1, -1, 0),
    "rotated_270": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transposed_rotated_180": (0, -1, -1, 0),
}


def with_matrix(*matrix: float) -> Kind:
    """With this display matrix of the track (ISO/IEC 14496-12, 8.3.2), which no encoder sets."""

    def kind(path: Path, frames: Frames) -> Path:
        path = write(path.with_suffix(".mp4"), frames)
        data = bytearray(path.read_bytes())
        at = data.index(b"tkhd") + 4 + 40  # version 0
        a, b, c, d = (round(value * 0x10000) for value in matrix)
        data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
        path.write_bytes(data)
        return path

    return kind


def size_changes(path: Path, frames: Frames) -> Path:
    """WebM whose frame size is halved at frame 20, as in browsers' recordings of calls."""
    path = path.with_suffix(".webm")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=FPS, options={"b": "1M"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        encoders = [av.CodecContext.create("libvpx", "w") for _ in range(2)]
        for half, encoder in enumerate(encoders):
            height, width = (side // (half + 1) for side in frames.shape[1:3])
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base, encoder.bit_rate = Fraction(1, FPS), 1_000_000
            shown = pictures(frames[20 * half : 20 * half + 20], "yuv420p", 5, False)
            for number, picture in enumerate([*shown, None]):
                if picture is not None:
                    picture = picture.reformat(width, height)
                    picture.pts, picture.time_base = 20 * half + number, Fraction(1, FPS)
                for packet in encoder.encode(picture):
                    packet.stream, packet.time_base = stream, Fraction(1, FPS)
                    container.mux(packet)
    return path


def times_go_back(path: Path, frames: Frames) -> Path:
    """Two camera recordings concatenated in one transport stream; the times of each start at 0."""
    path = path.with_suffix(".ts")
    parts = [write(path.with_suffix(f".{n}.ts"), frames[20 * n : 20 * n + 20]) for n in range(2)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return path


def alpha(path: Path, frames: Frames) -> Path:
    """One half is transparent, as in exported animations."""
    path = path.with_suffix(".mov")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "argb"
        for number, frame in enumerate(frames):
            opacity = np.full((*frame.shape[:2], 1), 255, np.uint8)
            opacity[:, : frame.shape[1] // 2] = 40
            picture = av.VideoFrame.from_ndarray(np.concatenate([opacity, frame], -1), format="argb")
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def starts_late(suffix: str, seconds: int) -> Kind:
    """The time of the first frame is `seconds`."""

    def kind(path: Path, frames: Frames) -> Path:
        first = seconds * FPS
        return write(path.with_suffix(suffix), frames, times=range(first, first + len(frames)))

    return kind


def interlaced(path: Path, frames: Frames) -> Path:
    """Two fields per frame, from different times, coded as fields."""
    woven = frames.copy()
    woven[:-1, 1::2] = frames[1:, 1::2]
    options = {"flags": "+ildct+ilme+qscale", "global_quality": "236"}
    return write(path.with_suffix(".mpg"), woven, codec="mpeg2video", container_format="mpeg", options=options)


def wide(path: Path, frames: Frames) -> Path:
    return write(path.with_suffix(".mp4"), colourful_frames(len(frames), 2, 2000))


KINDS: dict[str, Kind] = {
    "starts_late_mkv": starts_late(".mkv", 20),
    "starts_late_mp4": starts_late(".mp4", 20),
    "starts_late_ts": starts_late(".ts", 20),
    "mirrored": with_matrix(*ORIENTATIONS["mirrored"]),
    "transposed": with_matrix(*ORIENTATIONS["transposed"]),
    "skewed": with_matrix(1, 0, 0.5, 1),
    "size_changes_webm": size_changes,
    "one_frame_webm": lambda path, frames: write(path.with_suffix(".webm"), frames[:1], codec="libvpx-vp9"),
    "3x5": lambda path, frames: write(path.with_suffix(".mkv"), frames[:, :5, :3], codec="ffv1", pixels="bgr0"),
    "wide": wide,
    "alpha": alpha,
    "alpha_10_bit": encoded(".mov", codec="prores_ks", pixels="yuva444p10le"),
    "interlaced_mpg": interlaced,
    "gray": encoded(".mp4", pixels="gray"),
    "times_go_back": times_go_back,
}
