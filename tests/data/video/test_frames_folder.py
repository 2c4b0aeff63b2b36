"""Videos that are folders of frames are read like files, and their faults are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import Frames, moving_frames, psnr

from slowfast_core.data.video.decoding import decode_range, inspect, pick_frames, probe
from slowfast_core.data.video.frames_folder import write_frame_rate
from slowfast_core.data.video.info import DecodeError


def write_frames(folder: Path, frames: Frames, name: str = "{:05d}.jpg", rate: float = 12) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / name.format(number), quality=95)
    write_frame_rate(folder, rate)
    return folder


@pytest.mark.parametrize("name", ["{:05d}.jpg", "46GP8-{:06d}.jpg", "img_{:05d}.JPEG", "{}.png"])
def test_a_folder_of_frames_reads_as_a_video(tmp_path: Path, name: str) -> None:
    frames = moving_frames(12)
    folder = write_frames(tmp_path / "7", frames, name)
    info = probe(folder)
    assert (info.frames, info.fps, info.width, info.height) == (12, 12.0, 64, 48)
    assert [int(np.argmax([psnr(one, other) for other in frames])) for one in decode_range(folder, 0, 12)] == [
        *range(12)
    ]
    some = pick_frames(folder, [11, 0, 3, 3])
    assert min(psnr(one, frames[index]) for one, index in zip(some, [11, 0, 3, 3], strict=True)) > 34
    assert [len(list(decode_range(folder, start, stop))) for start, stop in ((0, 5), (9, 12))] == [5, 3]
    assert (inspect(folder, 0.5).decoded, inspect(folder, float("inf")).decoded) == (6, 12)


def test_grey_frames_become_rgb_and_numbers_may_start_at_0(tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(moving_frames(1)[0]).convert("L").save(folder / f"{number:05d}.jpg")
    write_frame_rate(folder, 12)
    assert pick_frames(folder, [2]).shape == (1, 48, 64, 3)


def test_faults_of_a_folder_are_reported(tmp_path: Path) -> None:
    frames = moving_frames(6)
    for case in ("hole", "start", "none", "text", "size", "cut", "rate"):
        write_frames(tmp_path / case, frames)
    (tmp_path / "hole" / "00004.jpg").unlink()
    (tmp_path / "start" / "00001.jpg").unlink()
    for file in (tmp_path / "none").glob("*.jpg"):
        file.unlink()
    (tmp_path / "text" / "00001.jpg").write_text("no picture")
    Image.fromarray(moving_frames(1, 32, 32)[0]).save(tmp_path / "size" / "00003.jpg")
    cut = tmp_path / "cut" / "00005.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    (tmp_path / "rate" / "frame_rate.txt").unlink()
    for case, message in (
        ("hole", "no frame 4"),
        ("start", "no frame 1"),
        ("none", "has no frames"),
        ("text", "00001.jpg: not a picture"),
        ("rate", "not a folder of frames"),
    ):
        with pytest.raises(DecodeError) as error:
            probe(tmp_path / case)
        assert error.value.reason == message
    size, broken = inspect(tmp_path / "size", float("inf")), inspect(tmp_path / "cut", float("inf"))
    assert (size.decoded, size.error) == (2, "00003.jpg: frames of 64x48 and 32x32")
    assert broken.decoded == 4
    assert broken.error.startswith("00005.jpg: image file is truncated")
    with pytest.raises(DecodeError, match="has 6 frames, not frame 6"):
        pick_frames(tmp_path / "cut", [6])
