"""Decoding from the middle gives the same frames as decoding from the start, with open and closed GOPs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import Frames, moving_frames, psnr, write_video

from slowfast_core.data.clip_store.cutting import Cut, write_clips
from slowfast_core.data.video import seeking
from slowfast_core.data.video.decoding import decode_range, pick_frames
from slowfast_core.data.video.seeking import decode_from, key_frames
from slowfast_core.recipe.load import Store

FRAMES = 620


@pytest.fixture(scope="module")
def frames() -> Frames:
    return moving_frames(FRAMES, 64, 80, seed=3)


@pytest.fixture(scope="module", params=["open", "closed"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, frames: Frames) -> Path:
    path = tmp_path_factory.mktemp("seeking") / f"{request.param}.mp4"
    with av.open(str(path), "w") as container:
        parameters = f"open-gop={int(request.param == 'open')}:keyint=40:bframes=3:b-adapt=0"
        stream = container.add_stream("libx264", rate=25, options={"x264-params": parameters})
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = 64, 80, "yuv420p", 1
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def test_decoding_from_the_middle_equals_decoding_from_the_start(video: Path) -> None:
    keys = key_frames(video, FRAMES)
    assert keys
    assert keys.numbers[:3] == [0, 40, 80]
    reference = list(decode_range(video, 0, FRAMES))
    for start in (0, 1, 79, 80, 81, 119, 300, 617):
        assert np.array_equal(
            list(decode_from(video, start, min(start + 5, FRAMES), keys)), reference[start : start + 5]
        )


def test_earlier_frames_are_not_decoded(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeking, "decode_range", None)
    assert len(list(decode_from(video, 500, 510, key_frames(video, FRAMES)))) == 10


def test_where_seeking_fails_decoding_starts_at_the_first_frame(video: Path, tmp_path: Path) -> None:
    stream = tmp_path / "v.ts"  # without an index, a seek ends after the requested time
    with av.open(str(video)) as source, av.open(str(stream), "w") as target:
        copied = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copied
                target.mux(packet)
    keys, reference = key_frames(stream, FRAMES), list(decode_range(stream, 0, FRAMES))
    assert np.array_equal(list(decode_from(stream, 500, 520, keys)), reference[500:520])


def test_key_frames_are_unknown_if_the_number_of_frames_differs(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mkv", moving_frames(30, 64, 80))
    assert key_frames(video, 30) is not None
    assert key_frames(video, 31) is None
    assert len(list(decode_from(video, 12, 20, None))) == 8


def test_distant_segments_are_cut_exactly(video: Path, frames: Frames, tmp_path: Path) -> None:
    segments = [(600, 620), (10, 30), (15, 25), (330, 345)]
    cuts = [
        Cut(video, tmp_path / f"{start}.mp4", tmp_path, Store(short_side=0, crf=10), 25.0, start, stop, stop)
        for start, stop in segments
    ]
    assert [file.info.frames for file in write_clips(cuts)] == [20, 20, 10, 15]
    for cut in cuts:
        for number, stored in enumerate(pick_frames(cut.target, range(cut.stop - cut.start)), cut.start):
            around = range(max(number - 5, 0), min(number + 6, FRAMES))
            assert max(around, key=lambda other: psnr(stored, frames[other])) == number
