"""Examines original videos, and reads them in order with FFmpeg (PyAV), upright and at a constant rate.

decord 0.6 contains an FFmpeg of 2019 and its own seeking. Reading in order, it yields the same bytes as today's FFmpeg
for most files; `examine` detects the others, which are read here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slowfast_core.data.video.info import DecodeError, Inspection, VideoInfo
from slowfast_core.data.video.orientation import AS_STORED, Orientation, orientation_of
from slowfast_core.parallel.processes import restart_time_limit

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

# No playlists (HLS, concat): a downloaded "video" must not lead to other files or to the network.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"
DECORD_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"})
DECORD_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video", "mjpeg", "ffv1"})
NARROW = 64  # pixels: below, decord mistakes the padding of rows for a fourth channel
CUT_OFF_SECONDS = 1.0  # an AVI header may count a few frames too many
ABSOLUTE_END = frozenset({"matroska,webm", "asf"})  # containers with the end time instead of the length in the header
LIMITED_SECONDS = 10.0  # seconds of video after which the time limit of a worker restarts


@dataclass(frozen=True)
class Original:
    """An examined video file."""

    path: Path
    stream: int  # its index in the container
    info: VideoInfo  # as displayed; the mean rate if frame times are uneven
    begin: float | None  # time of the first frame in seconds, None if the file has no frame times
    orientation: Orientation
    beyond_decord: str  # why decord reads it wrongly, empty if it does not
    claimed_seconds: float

    @property
    def decoded_bytes(self) -> int:
        """Size of all frames in RGB."""
        return 3 * self.info.frames * self.info.width * self.info.height


def examine(path: Path) -> Original:
    """Examine a file: read all packets and decode the first frame. Raises DecodeError."""
    with _open(path) as container:
        stream = _shown(path, container)
        frame, times, hidden = _packets(container, stream)
        if frame is None:
            raise DecodeError(path, "no frame decodes")
        missing = _missing(path, container, stream, len(times) + hidden)
        if frame.pts is not None and None not in times:  # cut files may contain frames before the first key frame
            times = [time for time in times if time >= frame.pts]
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        # AVI has a constant rate and no display times: FFmpeg guesses them, wrongly for packed B-frames.
        timed = container.format.name != "avi" and None not in times
        seconds = np.array(sorted(times), float) * float(stream.time_base or 0) if timed else None
        uneven = seconds is not None and _uneven(seconds, fps)
        if uneven and seconds is not None:
            fps = float((len(seconds) - 1) / (seconds[-1] - seconds[0]))
        if not 0 < fps < 1e6:
            raise DecodeError(path, "its header has no frame rate")
        orientation = _orientation(path, frame)
        width, height = (frame.height, frame.width) if orientation.transposed else (frame.width, frame.height)
        reasons = {
            **_beyond_decord(container, stream),
            "turned or mirrored": orientation != AS_STORED,
            "an edit list hides frames": hidden > 0,
            "uneven frame times": uneven,
            "narrow": min(width, height) < NARROW,
            "cut off": missing > 0,  # decord does not open it
        }
        begin = None if seconds is None else float(seconds[0])
        return Original(
            path,
            stream.index,
            VideoInfo(len(times) + missing, fps, width, height),
            begin,
            orientation,
            ", ".join(reason for reason, holds in reasons.items() if holds),
            _claimed_seconds(container, begin or 0.0),
        )


def _orientation(path: Path, frame: av.VideoFrame) -> Orientation:
    try:
        return orientation_of(frame)
    except ValueError as error:
        raise DecodeError(path, str(error)) from None


def _beyond_decord(container: Any, stream: Any) -> dict[str, bool]:
    """Properties of the container and the codec that decord does not support."""
    codec = stream.codec_context.codec.canonical_name
    return {
        f"container {container.format.name}": container.format.name not in DECORD_CONTAINERS,
        f"codec {codec}": codec not in DECORD_CODECS,
        "several video streams": len(container.streams.video) > 1,  # decord selects another stream than players
    }


def _claimed_seconds(container: Any, begin: float) -> float:
    """Length in seconds in the header, NaN if it has none."""
    if not container.duration:
        return math.nan
    seconds = float(container.duration / 1e6)
    # Some programs write the length instead of the end time.
    return seconds - begin if container.format.name in ABSOLUTE_END and seconds > begin else seconds


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """Convert a frame to RGB `[H, W, C]` with its own colour matrix and range."""
    picture = reformatter.reformat(frame, format="rgb24", src_color_range=frame.color_range, threads=1)
    return picture.to_ndarray().astype(np.uint8, copy=False)


def read_in_order(original: Original, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """Yield frames `start` to `stop`, each `[H, W, C]`. Raises DecodeError."""
    from av.video.reformatter import VideoReformatter

    info, reformatter = original.info, VideoReformatter()
    number = start
    for frame in islice(_steady(original, _decoded(original)), start, stop):
        frame_HWC = original.orientation.shown(to_rgb(frame, reformatter))
        if frame_HWC.shape[:2] != (info.height, info.width):
            raise DecodeError(original.path, f"frame {number}: the size of the picture changes")
        yield frame_HWC
        number += 1
    if number < stop:
        raise DecodeError(original.path, f"ends before frame {number}")


def inspect_in_order(
    original: Original, wanted: int, differs: Callable[[int, av.VideoFrame], bool] | None = None
) -> Inspection:
    """Decode `wanted` frames and record damage: frames with concealed errors, missing frames, and those that `differs`.

    All later frames up to the next key frame may depend on a damaged one, and count as damaged. Damage from before the
    last encoding cannot be detected.
    """
    info, error = original.info, ""
    ranges: list[tuple[int, int]] = []
    broken: int | None = None
    number = -1
    try:
        for place, frame in _placed(original, _decoded(original, gaps=True)):
            if frame is None:
                broken = number + 1 if broken is None else broken
                continue
            number = round(place)
            if (frame.height, frame.width) != _stored_size(original):
                error = f"frame {number}: the size of the picture changes"
                number -= 1
                break
            bad = frame.is_corrupt or (differs is not None and number < wanted and differs(number, frame))
            if frame.key_frame and not bad and broken is not None:
                ranges.append((broken, number))
                broken = None
            if bad and broken is None:
                broken = number
            if number >= wanted:  # one more frame than wanted determines the end of the last one
                break
    except DecodeError as failed:
        error = failed.reason
        number -= 1
    if broken is not None:
        ranges.append((broken, info.frames))
    decoded = min(number + 1, wanted)
    if decoded < wanted and not error:
        error = f"ends before frame {decoded}"
    return Inspection(info, decoded, error, tuple(ranges), original.claimed_seconds)


@contextmanager
def _open(path: Path) -> Iterator[av.container.InputContainer]:
    import av

    # "file:" treats any name as a path; no other protocol is allowed.
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError):
        raise DecodeError(path, "not a readable video") from None


def _shown(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The video stream with the largest frames, as FFmpeg's programs select it, except cover images."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    streams = [stream for stream in streams if stream.codec_context is not None]  # with a codec that FFmpeg supports
    if not streams:
        raise DecodeError(path, "has no video stream")
    return max(streams, key=lambda stream: stream.width * stream.height)


def _packets(container: Any, stream: Any) -> tuple[av.VideoFrame | None, list[Any], int]:
    """The first frame, the times of the displayed packets, and the number of hidden packets."""
    import av

    stream.codec_context.thread_count = 1
    frame, times, hidden = None, [], 0
    try:
        for packet in demuxed(container, stream):
            if frame is None:
                frame = next((shown for shown in _decode(packet) or () if isinstance(shown, av.VideoFrame)), None)
            hidden += packet.is_discard
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
    except av.FFmpegError:
        pass  # the remaining frames are missing
    return frame, times, hidden


def demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of the stream, and restart the worker's time limit every ten seconds of video."""
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    limited = round(LIMITED_SECONDS * min(max(rate, 1), 1000))
    for number, packet in enumerate(container.demux(stream)):
        if number % limited == 0:
            restart_time_limit()
        yield packet


def _missing(path: Path, container: Any, stream: Any, there: int) -> int:
    """Number of frames in the index that a truncated file does not contain."""
    if container.format.name == "avi":
        short = stream.frames - there
        return short if short > CUT_OFF_SECONDS * float(stream.average_rate or 0) else 0
    size = path.stat().st_size
    return sum(entry.pos + entry.size > size for entry in stream.index_entries)


def _uneven(seconds: NDArray[np.float64], fps: float) -> bool:
    """Whether the time of any frame is off the constant rate by half a frame or more."""
    if len(seconds) < 2 or seconds[-1] <= seconds[0]:
        return False
    places = (seconds - seconds[0]) * fps
    return bool(np.abs(places - np.arange(len(places))).max() >= 0.5)


def _decoded(original: Original, gaps: bool = False) -> Iterator[Any]:
    """Yield all displayed frames, and with `gaps` None for each packet that does not decode."""
    import av

    with _open(original.path) as container:
        stream = container.streams[original.stream]
        stream.codec_context.thread_count = 1
        packets = demuxed(container, stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                raise DecodeError(original.path, f"cannot be read further: {error.strerror}") from None
            if packet is None:
                return
            frames = _decode(packet)
            if frames is None and gaps:
                yield None
            yield from frames or ()


def _decode(packet: Any) -> list[Any] | None:
    import av

    try:
        return list(packet.decode())
    except av.FFmpegError:
        return None


def _placed(original: Original, frames: Iterator[Any]) -> Iterator[tuple[float, Any]]:
    """Yield each frame or gap with its position in frames of the constant rate, counted if there are no times."""
    place = -1.0
    for frame in frames:
        if frame is None:
            yield place, None
            continue
        if original.begin is None:
            place += 1
        elif frame.time is None:
            raise DecodeError(original.path, f"after frame {place:.0f}: a frame has no time")
        else:
            before, place = place, (frame.time - original.begin) * original.info.fps
            if place < before - 0.5:
                raise DecodeError(original.path, f"after frame {before:.0f}: its times run backwards")
        yield place, frame


def _steady(original: Original, frames: Iterator[Any]) -> Iterator[Any]:
    """Yield the nearest frame for each time of the constant rate."""
    number, last, last_place = 0, None, 0.0
    for place, frame in _placed(original, frames):
        while last is not None and number < (last_place + place) / 2:
            yield last
            number += 1
        last, last_place = frame, place
    while last is not None and number < last_place + 0.5:
        yield last
        number += 1


def _stored_size(original: Original) -> tuple[int, int]:
    info = original.info
    return (info.width, info.height) if original.orientation.transposed else (info.height, info.width)
