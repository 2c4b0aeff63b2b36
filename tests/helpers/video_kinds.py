"""Writes test videos of each kind that occurs in sources or is hard to decode; all show one smooth, colourful motion.

A kind is a function of `(path without suffix, frames)` that returns the path of the written file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Kind = Callable[[Path, Frames], Path]
FPS, COUNT, HEIGHT, WIDTH = 10, 40, 72, 96
MATRICES = {Colorspace.ITU601: 6, Colorspace.ITU709: 1}  # values of MatrixCoefficients in ISO/IEC 23091-4


def colourful_frames(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Frames:
    """Frames in saturated colours, which reveal a wrong matrix or range; their motion never repeats."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 14.0
    turns, phases = rng.uniform(0.5, 1, (3, 2)), rng.uniform(0, 6, 3)
    waves = [
        [np.sin(a * x + b * y + time / s + p) for (a, b), s, p in zip(turns, (4, 5.3, 7.1), phases, strict=True)]
        for time in range(count)
    ]
    return (128 + 100 * np.moveaxis(np.array(waves), 1, -1)).round().astype(np.uint8)


def write(
    path: Path,
    frames: Frames,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    matrix: Colorspace = Colorspace.ITU601,
    full_range: bool = False,
    tagged: bool = False,
    container_format: str | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    gop: int = 10,
    b_frames: int = 2,
    sound: bool = False,
) -> Path:
    """Encode frames. `times` are in units of 1/FPS; `tagged` writes the colour matrix and range into the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container_format, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=FPS, options=QUALITY.get(codec, {}) | (options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = pixels, 1
        if codec in ("libx264", "libx265", "mpeg4", "mpeg2video"):
            stream.gop_size, stream.max_b_frames = gop, b_frames
        if tagged:
            stream.codec_context.colorspace = MATRICES[matrix]
            stream.codec_context.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        tone = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number, picture in enumerate(pictures(frames, pixels, matrix, full_range)):
            picture.pts, picture.time_base = times[number] if times else number, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if tone:
            write_tone(container, tone, len(frames) / FPS)
    return path


QUALITY = {
    "libx264": {"crf": "8", "preset": "veryfast"},
    "libx265": {"crf": "8", "preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libvpx-vp9": {"crf": "10", "b": "0", "cpu-used": "8", "deadline": "realtime", "g": "10"},
    "libvpx": {"crf": "4", "b": "4M", "cpu-used": "8", "deadline": "realtime", "g": "10"},
    "libsvtav1": {"crf": "15", "preset": "12", "g": "10"},
    "mpeg4": {"qscale": "2", "flags": "+qscale", "global_quality": "236"},
    "mpeg2video": {"flags": "+qscale", "global_quality": "236"},
    "mjpeg": {"flags": "+qscale", "global_quality": "236"},
}


def pictures(frames: Frames, pixels: str, matrix: Colorspace, full_range: bool) -> list[av.VideoFrame]:
    return [
        av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
            format=pixels,
            src_colorspace=Colorspace.ITU601,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        )
        for frame in frames
    ]


def write_tone(container: Any, stream: Any, seconds: float) -> None:
    for start in range(0, round(seconds * 8000), 1024):
        wave = np.sin(np.arange(start, start + 1024) / 3)[None].astype(np.float32)
        sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = 8000, start, Fraction(1, 8000)
        container.mux(stream.encode(sound))
    container.mux(stream.encode())


def sound_only(path: Path, frames: Frames) -> Path:
    path = path.with_suffix(".mp4")
    with av.open(str(path), "w") as container:
        write_tone(container, container.add_stream("aac", rate=8000, layout="mono"), len(frames) / FPS)
    return path


def rotated(quarters: int) -> Kind:
    """Rotated clockwise for display by the track's display matrix (ISO/IEC 14496-12, 8.3.2), which no encoder sets."""

    def kind(path: Path, frames: Frames) -> Path:
        path = write(path.with_suffix(".mp4"), np.rot90(frames, quarters, axes=(1, 2)))
        one = 0x10000
        cos, sin = ((one, 0), (0, one), (-one, 0), (0, -one))[quarters]
        data = bytearray(path.read_bytes())
        at = data.index(b"tkhd") + 4 + 40  # version 0
        data[at : at + 36] = struct.pack(">9i", cos, sin, 0, -sin, cos, 0, 0, 0, 0x40000000)
        path.write_bytes(data)
        return path

    return kind


def trimmed(path: Path, frames: Frames) -> Path:
    """An edit list presents only the 6th to the 35th frame (ISO/IEC 14496-12, 8.6.6)."""
    path = write(path.with_suffix(".mp4"), frames, gop=10)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4 + 8
    duration, start = struct.unpack(">Ii", data[at : at + 8])
    scale = struct.unpack(">I", data[(t := data.index(b"mdhd") + 4 + 12) : t + 4])[0]
    data[at : at + 8] = struct.pack(">Ii", duration * 30 // len(frames), start + 5 * scale // FPS)
    path.write_bytes(data)
    return path


def two_streams(path: Path, frames: Frames) -> Path:
    """Two video streams, the small one first, and an audio stream."""
    path = path.with_suffix(".mp4")
    with av.open(str(path), "w") as container:
        streams = []
        for shape in ((HEIGHT // 2, WIDTH // 2), (HEIGHT, WIDTH)):
            stream = container.add_stream("libx264", rate=FPS, options=QUALITY["libx264"])
            (stream.height, stream.width), stream.pix_fmt, stream.thread_count = shape, "yuv420p", 1
            streams.append(stream)
        tone = container.add_stream("aac", rate=8000, layout="mono")
        for number, picture in enumerate(pictures(frames, "yuv420p", Colorspace.ITU601, False)):
            for stream in streams:
                scaled = picture.reformat(stream.width, stream.height)
                scaled.pts, scaled.time_base = number, Fraction(1, FPS)
                container.mux(stream.encode(scaled))
        for stream in streams:
            container.mux(stream.encode())
        write_tone(container, tone, len(frames) / FPS)
    return path


def size_changes(path: Path, frames: Frames) -> Path:
    """A transport stream whose frame size is halved half-way."""
    path = path.with_suffix(".ts")
    first = write(path.with_suffix(".1.ts"), frames[:20])
    second = write(
        path.with_suffix(".2.ts"), frames[20:, : HEIGHT // 2, : WIDTH // 2], times=range(22, len(frames) + 2)
    )
    path.write_bytes(first.read_bytes() + second.read_bytes())
    first.unlink()
    second.unlink()
    return path


def encoded(suffix: str, **settings: Any) -> Kind:
    """A kind that is encoded by `write` with these settings."""
    return lambda path, frames: write(path.with_suffix(suffix), frames, **settings)


def vfr_times(count: int) -> list[int]:
    """Presentation times, in frames, of a variable frame rate with one pause."""
    gaps = [(1, 1, 2, 3)[number // 5 % 4] + 9 * (number == 17) for number in range(count)]
    return [0, *np.cumsum(gaps[:-1]).tolist()]


KINDS: dict[str, Kind] = {
    "h264": encoded(".mp4"),
    "h264_long_gop": encoded(".mp4", gop=250, b_frames=0),
    "h264_fast_start": encoded(".mp4", muxer={"movflags": "+faststart"}),
    "h264_fragmented": encoded(".mp4", muxer={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "h264_open_gop": encoded(".mp4", options={"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}),
    "h264_mkv": encoded(".mkv"),
    "h264_mov": encoded(".mov"),
    "h264_flv": encoded(".flv"),
    "h264_ts": encoded(".ts"),
    "h264_interlaced": encoded(".mp4", options={"x264-params": "tff=1"}),
    "h264_10_bit": encoded(".mp4", pixels="yuv420p10le"),
    "h264_422": encoded(".mp4", pixels="yuv422p"),
    "h264_444_odd": lambda path, frames: write(path.with_suffix(".mp4"), frames[:, :-1, :-1], pixels="yuv444p"),
    "h264_709": encoded(".mp4", matrix=Colorspace.ITU709, tagged=True),
    "h264_709_full": encoded(".mp4", matrix=Colorspace.ITU709, full_range=True, tagged=True),
    "h264_601_full": encoded(".mp4", full_range=True, tagged=True),
    "h264_sound": encoded(".mp4", sound=True),
    "h264_variable_rate": lambda path, frames: write(path.with_suffix(".mp4"), frames, times=vfr_times(len(frames))),
    "h264_variable_rate_mkv": lambda path, frames: write(
        path.with_suffix(".mkv"), frames, times=vfr_times(len(frames))
    ),
    "h264_late_start": lambda path, frames: write(path.with_suffix(".mkv"), frames, times=range(7, 7 + len(frames))),
    "h265": encoded(".mp4", codec="libx265"),
    "h265_709_full": encoded(".mp4", codec="libx265", matrix=Colorspace.ITU709, full_range=True, tagged=True),
    "h265_10_bit": encoded(".mkv", codec="libx265", pixels="yuv420p10le"),
    "vp8": encoded(".webm", codec="libvpx"),
    "vp9": encoded(".webm", codec="libvpx-vp9"),
    "vp9_709": encoded(".webm", codec="libvpx-vp9", matrix=Colorspace.ITU709, tagged=True),
    "vp9_odd": lambda path, frames: write(path.with_suffix(".webm"), frames[:, :-1, :-1], codec="libvpx-vp9"),
    "av1": encoded(".mp4", codec="libsvtav1"),
    "mpeg4": encoded(".avi", codec="mpeg4", b_frames=0),
    "mpeg4_b_frames": encoded(".avi", codec="mpeg4"),
    "mpeg2": encoded(".mpg", codec="mpeg2video", container_format="mpeg"),
    "mpeg2_ts": encoded(".ts", codec="mpeg2video"),
    "motion_jpeg": encoded(".avi", codec="mjpeg", pixels="yuvj420p", full_range=True),
    "ffv1": encoded(".mkv", codec="ffv1"),
    "narrow": lambda path, frames: write(path.with_suffix(".mp4"), frames[:, :36, :48]),
    "one_frame": lambda path, frames: write(path.with_suffix(".mp4"), frames[:1]),
    "rotated_90": rotated(1),
    "rotated_180": rotated(2),
    "rotated_270": rotated(3),
    "trimmed": trimmed,
    "one_frame_lost": lambda path, frames: write(
        path.with_suffix(".mp4"), np.delete(frames, 20, 0), times=[number for number in range(COUNT) if number != 20]
    ),
    "two_streams": two_streams,
    "size_changes": size_changes,
    "sound_only": sound_only,
}
