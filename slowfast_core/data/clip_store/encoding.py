"""The encoder of the clip store: writes frames at a constant rate, without B-frames, edit list or audio.

H.264 with a short closed GOP, or JPEG frames (Motion JPEG) in the same container: both allow exact random access.
"""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slowfast_core.recipe.load import Store

MAX_SIDE = 16384  # pixels, limit of x264
X264_PARAMS = "open-gop=0"
# With x264's macroblock tree, repeated encodings of small frames differ in their bytes: of 192 encodings, 10 of
# squares with a side of 200, 13 of 224 and 1 of 240; none of 256, and none of real videos of that height.
SMALL_SIDE = 256
MAX_PIXELS = 139_264 * 16**2  # of H.264's highest level, 6.2 (ITU-T H.264, table A-1); 8K video has fewer


class ClipEncoder:
    """Encodes the `count` frames of a clip at `fps`: resamples them to the store's rate and writes every n-th one."""

    def __init__(self, path: Path, store: Store, fps: float, count: int, preset: str = "veryfast") -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.store, self.fps, self.count = store, fps, count
        self.wanted = store.fps or fps
        self.total = max(round(count * self.wanted / fps), 1)
        self.seen = self.shown = self.written = 0  # frames read, resampled, and written
        self._rate = Fraction(self.wanted).limit_denominator(10000) / store.every
        self._reformatter = VideoReformatter()  # one for all frames: it caches its tables
        self._container = av.open(str(path), "w", options={"movflags": "+faststart"})
        codec, self._format, options = _codec(store, preset)
        stream = self._container.add_stream(codec, rate=self._rate, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = self._format, store.gop, 0
        self._stream = stream

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Add the next frame, RGB `[H, W, C]`."""
        while self.shown < self.total and self._nearest() == self.seen:
            if self.shown % self.store.every == 0:
                self._encode(frame)
            self.shown += 1
        self.seen += 1

    def finish(self) -> int:
        """Complete the file; return the number of written frames."""
        self._container.mux(self._stream.encode())
        self._container.close()  # writes the index of the file; write errors are raised here
        return self.written

    def abandon(self) -> None:
        """Close the incomplete file, which is then deleted."""
        import av

        with suppress(OSError, av.FFmpegError):
            self._container.close()

    def _nearest(self) -> int:
        return min(round(self.shown * self.fps / self.wanted), self.count - 1)

    def _encode(self, frame: NDArray[np.uint8]) -> None:
        import av

        height, width = stored_size(frame.shape[0], frame.shape[1], self.store)
        if not self.written:
            self._stream.width, self._stream.height = width, height
            if self.store.codec == "h264" and min(width, height) < SMALL_SIDE:
                options = self._stream.codec_context.options
                self._stream.codec_context.options = options | {"x264-params": f"{X264_PARAMS}:mbtree=0"}
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture = self._reformatter.reformat(picture, width, height, self._format, interpolation="BICUBIC", threads=1)
        picture.pts, picture.time_base = self.written, 1 / self._rate
        self._container.mux(self._stream.encode(picture))
        self.written += 1


def _codec(store: Store, preset: str) -> tuple[str, str, dict[str, str]]:
    """FFmpeg's encoder, pixel format and options. One thread, so that the bytes do not depend on the machine."""
    if store.codec == "jpeg":
        scale = str(store.jpeg_scale)
        return "mjpeg", "yuvj420p", {"qmin": scale, "qmax": scale, "threads": "1"}
    options = {"crf": str(store.crf), "preset": preset, "threads": "1", "x264-params": X264_PARAMS}
    if store.fast_decode:
        options["tune"] = "fastdecode"
    return "libx264", "yuv420p", options


def stored_size(height: int, width: int, store: Store) -> tuple[int, int]:
    """Height and width in the store; even, because the codec requires it."""
    if store.height:
        scale = store.height / height
    else:
        scale = store.short_side / min(height, width) if store.short_side else 1.0
    return max(2 * round(height * scale / 2), 2), max(2 * round(width * scale / 2), 2)


def too_large(height: int, width: int, store: Store) -> str | None:
    """The reason why frames of this size do not fit in the clip store, or None."""
    stored = stored_size(height, width, store)
    if max(stored) <= MAX_SIDE and stored[0] * stored[1] <= MAX_PIXELS:
        return None
    limits = f"{MAX_SIDE} pixels per side and {MAX_PIXELS / 1e6:.1f} million in total"
    return f"{width}x{height} pixels become {stored[1]}x{stored[0]} in the clip store; its limits are {limits}"
