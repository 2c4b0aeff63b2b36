"""Reading long videos takes little memory, and the limits of time apply to parts of a video."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import ingested, kinetics_row, moving_frames, write_video

from slowfast_core.data.video.decoding import decode_range
from slowfast_core.recipe.load import Data, Validation
from slowfast_core.stages.validate import validate

GROWTH = """
import resource, sys, time
from pathlib import Path
from slowfast_core.data.video.decoding import decode_range

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

frames = decode_range(Path(sys.argv[1]), 0, 300)
next(frames)
before, most = resident(), 0.0
for _ in range(30):
    time.sleep(0.1)
    most = max(most, resident())
print(most - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file that is decoded to 1.9 GB of frames."""
    path = tmp_path_factory.mktemp("large") / "large.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 1080, 1920, "yuv420p", 60
        picture = av.VideoFrame.from_ndarray(np.full((1620, 1920), 100, np.uint8), format="yuv420p")
        for number in range(300):
            picture.pts, picture.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def test_frames_are_not_decoded_far_ahead_of_the_reader(large: Path) -> None:
    printed = subprocess.run([sys.executable, "-c", GROWTH, large], capture_output=True, text=True, check=True).stdout
    assert float(printed) < 100


def test_the_end_of_a_large_file_is_read(large: Path) -> None:
    assert sum(1 for _ in decode_range(large, 290, 300)) == 10


@pytest.mark.exhaustive
def test_the_time_limit_applies_to_each_part_of_a_long_video(tmp_path: Path) -> None:
    """Almost an hour of video, which takes longer to decode than the limit."""
    piece = write_video(tmp_path / "piece.mp4", moving_frames(100, 144, 192), b_frames=0)
    (tmp_path / "videos").mkdir()
    with av.open(str(piece)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for name, times in (("long", 300), ("short", 1)):
            with av.open(str(tmp_path / "videos" / f"{name}.mp4"), "w") as target:
                stream = target.add_stream_from_template(source.streams.video[0])
                for repetition in range(times):
                    for packet in packets:
                        copy = av.Packet(bytes(packet))
                        copy.pts = copy.dts = (packet.pts or 0) + repetition * 10 * 10240
                        copy.time_base, copy.stream = packet.time_base, stream
                        copy.is_keyframe = packet.is_keyframe
                        target.mux(copy)
    rows = [kinetics_row("long", "videos/long.mp4"), kinetics_row("short", "videos/short.mp4", split="val")]
    data = Data(name="some", validation=Validation(decode_timeout_seconds=5))
    result = validate(data, ingested(tmp_path, rows), tmp_path / "validate")
    assert result.summary == "2 good, 0 quarantined; 1 warnings in the report"  # the warning: a class has few clips
