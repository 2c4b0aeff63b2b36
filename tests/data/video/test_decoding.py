from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from videos import break_frame, moving_frames, psnr, write_video

from slowfast_core.data.video.decoding import decode_range, inspect, pick_frames, probe
from slowfast_core.data.video.info import DecodeError, VideoInfo


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return moving_frames(40)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, frames: np.ndarray) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", frames)


def test_probe_reports_frames_rate_and_size(video: Path) -> None:
    assert probe(video) == VideoInfo(frames=40, fps=10.0, width=64, height=48)


def test_frames_are_returned_in_the_requested_order(video: Path, frames: np.ndarray) -> None:
    indices = [39, 0, 7, 7, 21]
    decoded = pick_frames(video, indices)
    assert decoded.shape == (5, 48, 64, 3)
    assert decoded.dtype == np.uint8
    assert [int(np.argmax([psnr(frame, source) for source in frames])) for frame in decoded] == indices


def test_reading_in_order_gives_the_same_frames(video: Path) -> None:
    in_order = np.stack(list(decode_range(video, 11, 37)))
    assert np.array_equal(in_order, pick_frames(video, range(11, 37)))


def test_segments_in_seconds_are_half_open_frame_ranges() -> None:
    info = VideoInfo(frames=100, fps=29.97, width=1, height=1)
    assert info.frame_range(0.0, 1.0) == (0, 30)
    assert info.frame_range(1.0, 2.0) == (30, 60)
    assert info.frame_range(2.0, float("nan")) == (60, 100)
    assert info.frame_range(2.0, 99.0) == (60, 100)


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 99], ids=["empty", "text"])
def test_a_file_that_is_not_a_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    for read in (
        probe,
        lambda p: pick_frames(p, [0]),
        lambda p: list(decode_range(p, 0, 1)),
        lambda p: inspect(p, 1),
    ):
        with pytest.raises(DecodeError, match="not a readable video"):
            read(path)


def test_a_missing_file_and_frames_beyond_the_end_are_refused(tmp_path: Path, video: Path) -> None:
    with pytest.raises(DecodeError):
        probe(tmp_path / "none.mp4")
    with pytest.raises(DecodeError):
        pick_frames(video, [40])
    with pytest.raises(DecodeError, match="ends before frame 40"):
        list(decode_range(video, 30, 41))


def test_inspection_of_an_intact_file_finds_no_damage(video: Path) -> None:
    assert inspect(video, 1.5).decoded == 15
    whole = inspect(video, float("inf"))
    assert (whole.decoded, whole.error, whole.damaged) == (40, "", ())


def test_concealed_damage_is_reported_up_to_the_next_key_frame(tmp_path: Path) -> None:
    """decord returns all 40 frames of this file without an error."""
    path = write_video(tmp_path / "a.mp4", moving_frames(40), gop=10, b_frames=0)
    break_frame(path, 14)
    found = inspect(path, float("inf"))
    assert found.damaged == ((14, 20),)


def test_a_packet_refused_by_the_decoder_is_reported_as_damage(tmp_path: Path, frames: np.ndarray) -> None:
    path = write_video(tmp_path / "a.mp4", frames, gop=10, b_frames=0)
    break_frame(path, 25, share=1.0)
    found = inspect(path, float("inf"))
    assert (found.decoded, found.error, found.damaged) == (40, "", ((25, 30),))
    read = list(decode_range(path, 30, 40))  # intact from the next key frame on
    assert [int(np.argmax([psnr(frame, source) for source in frames])) for frame in read] == list(range(30, 40))


def test_playlists_are_refused(tmp_path: Path, video: Path) -> None:
    """decord would open a playlist and the files that it names."""
    path = tmp_path / "a.mp4"
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{video}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {video}\n",
    ):
        path.write_text(text)
        with pytest.raises(DecodeError, match="not a readable video"):
            inspect(path, 1)
