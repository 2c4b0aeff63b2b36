"""Original videos, as sources have them: examined and read in order by FFmpeg (PyAV), upright, at a constant rate.

decord 0.6 brings an FFmpeg of 2019 and its own seeking. Read in order it shows the same frames as today's FFmpeg, to
the byte, for most files, and `examine` tells which are not of that kind; those are read here.
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
NARROW = 64  # pixels: decord takes the padding of its rows for a fourth channel
CUT_OFF_SECONDS = 1.0  # an AVI header may count a few frames too many
ABSOLUTE_END = frozenset({"matroska,webm", "asf"})  # containers whose header has the time of the end, not the length
LIMITED_SECONDS = 10.0  # of video, for which the time limit of a worker holds


@dataclass(frozen=True)
class Original:
    path: Path
    stream: int  # its index in the container
    info: VideoInfo  # as shown; of uneven frame times the mean rate
    begin: float | None  # seconds of the first frame; None: the file has no frame times
    orientation: Orientation
    beyond_decord: str  # why decord does not show it right; empty: it does
    claimed_seconds: float

    @property
    def decoded_bytes(self) -> int:
        """Of all its frames in RGB."""
        return 3 * self.info.frames * self.info.width * self.info.height


def examine(path: Path) -> Original:
    """Read the packets and decode the first frame. Raises DecodeError."""
    with _open(path) as container:
        stream = _shown(path, container)
        frame, times, hidden = _packets(container, stream)
        if frame is None:
            raise DecodeError(path, "no frame of it decodes")
        missing = _missing(path, container, stream, len(times) + hidden)
        if frame.pts is not None and None not in times:  # a cut may leave frames before the first key frame
            times = [time for time in times if time >= frame.pts]
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        # AVI has a constant rate and no times of display: FFmpeg's are guesses, wrong where B-frames are packed.
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
    """What decord does not read, or reads wrongly, by the kind of the file."""
    codec = stream.codec_context.codec.canonical_name
    return {
        f"container {container.format.name}": container.format.name not in DECORD_CONTAINERS,
        f"codec {codec}": codec not in DECORD_CODECS,
        "several video streams": len(container.streams.video) > 1,  # decord takes another than players do
    }


def _claimed_seconds(container: Any, begin: float) -> float:
    """The length by the header; NaN: it has none."""
    if not container.duration:
        return math.nan
    seconds = float(container.duration / 1e6)
    # Some programs write the length there all the same.
    return seconds - begin if container.format.name in ABSOLUTE_END and seconds > begin else seconds


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """`[H, W, C]`, by the matrix and the range that the frame has."""
    picture = reformatter.reformat(frame, format="rgb24", src_color_range=frame.color_range, threads=1)
    return picture.to_ndarray().astype(np.uint8, copy=False)


def read_in_order(original: Original, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """Frames `start` to `stop`, each `[H, W, C]`. Raises DecodeError."""
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
    """Decode `wanted` frames. Those that FFmpeg shows only by concealing errors, or not at all, are damaged.

    So is each of which `differs(number, frame)` holds, and each after them that may build on them: up to the next key
    frame. What was damaged before the last encoding leaves no such trace.
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
            if number >= wanted:  # one more than wanted: it tells which times the last one fills
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

    # "file": the name is a path, whatever it looks like, and nothing else is opened.
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError):
        raise DecodeError(path, "not a readable video") from None


def _shown(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The video stream with the largest picture, as FFmpeg's own programs choose it; a cover is none."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    streams = [stream for stream in streams if stream.codec_context is not None]  # of a codec that FFmpeg knows
    if not streams:
        raise DecodeError(path, "has no video stream")
    return max(streams, key=lambda stream: stream.width * stream.height)


def _packets(container: Any, stream: Any) -> tuple[av.VideoFrame | None, list[Any], int]:
    """The first frame, the time of each packet that is shown, and how many are hidden."""
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
        pass  # what is not there is missing
    return frame, times, hidden


def demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of the stream. The time limit of the worker that reads them holds for every ten seconds of video."""
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    limited = round(LIMITED_SECONDS * min(max(rate, 1), 1000))
    for number, packet in enumerate(container.demux(stream)):
        if number % limited == 0:
            restart_time_limit()
        yield packet


def _missing(path: Path, container: Any, stream: Any, there: int) -> int:
    """How many frames its index names that the file does not have: it was cut off."""
    if container.format.name == "avi":
        short = stream.frames - there
        return short if short > CUT_OFF_SECONDS * float(stream.average_rate or 0) else 0
    size = path.stat().st_size
    return sum(entry.pos + entry.size > size for entry in stream.index_entries)


def _uneven(seconds: NDArray[np.float64], fps: float) -> bool:
    """Whether a frame lies nearer to another's place than to its own."""
    if len(seconds) < 2 or seconds[-1] <= seconds[0]:
        return False
    places = (seconds - seconds[0]) * fps
    return bool(np.abs(places - np.arange(len(places))).max() >= 0.5)


def _decoded(original: Original, gaps: bool = False) -> Iterator[Any]:
    """Every frame that is shown; None, with `gaps`, where a packet does not decode."""
    import av

    with _open(original.path) as container:
        stream = container.streams[original.stream]
        stream.codec_context.thread_count = 1
        packets = demuxed(container, stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                raise DecodeError(original.path, f"cannot be read on: {error.strerror}") from None
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
    """Each frame, or gap, with its place on the time line of the constant rate; without times they are counted."""
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
    """For each of the times of a constant rate the nearest frame."""
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
