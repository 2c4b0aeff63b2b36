"""The reader of the clip store returns the frames of decord, decodes no more than needed, and reports damage."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from videos import break_frame, moving_frames, write_video

from slowfast_core.data.clip_store.reader import probe, read_frames, read_planes
from slowfast_core.data.loading.render import rgb_of_planes
from slowfast_core.data.video.decoding import pick_frames
from slowfast_core.data.video.info import DecodeError, VideoInfo


def clip(path: Path, frames: int = 40, height: int = 48, width: int = 64, **options: int) -> Path:
    return write_video(path, moving_frames(frames, height, width, seed=width), gop=6, b_frames=0, **options)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("clips") / "v.mp4")


@pytest.mark.parametrize(
    "indices",
    [[0], [39], [38, 39, 39, 39], list(range(0, 40, 2)), list(range(1, 40, 8)), [17, 3, 3, 30, 0], list(range(40))],
)
def test_frames_are_those_of_decord(video: Path, indices: list[int]) -> None:
    expected = pick_frames(video, indices)
    assert np.array_equal(read_frames(video, indices), expected)
    planes = read_planes(video, indices)
    assert planes.nbytes * 2 == expected.nbytes
    assert np.array_equal(rgb_of_planes(torch.from_numpy(planes)).numpy(), expected)


@pytest.mark.parametrize(("height", "width"), [(46, 62), (50, 66), (36, 86), (2, 18)])
@pytest.mark.parametrize("fps", [5, 24])
def test_clips_of_any_size_and_rate_are_read(tmp_path: Path, height: int, width: int, fps: int) -> None:
    path = clip(tmp_path / "v.mp4", 15, height, width, fps=fps)
    assert probe(path) == VideoInfo(15, fps, width, height)
    expected = pick_frames(path, [14, 7, 0])
    assert np.array_equal(read_frames(path, [14, 7, 0]), expected)
    assert np.array_equal(rgb_of_planes(torch.from_numpy(read_planes(path, [14, 7, 0]))).numpy(), expected)


def colours(step: int) -> np.ndarray:
    """Planes with all combinations of every `step`-th value of Y, U and V."""
    values = np.arange(0, 256, step, dtype=np.uint8)
    u, v = (grid.repeat(len(values) // 4, 1) for grid in np.meshgrid(values, values, indexing="ij"))
    y = np.tile(values.reshape(-1, 2, 2), (len(values) ** 2, 1, 1)).reshape(len(values) ** 2, -1, 2, 2)
    y = y.transpose(0, 2, 1, 3).reshape(2 * len(values) ** 2, -1)
    u, v = (plane.reshape(len(values) ** 2, -1) for plane in (u, v))
    return np.concatenate([plane.reshape(-1) for plane in (y, u, v)]).reshape(-1, y.shape[1])


def same_as_ffmpeg(planes: np.ndarray) -> bool:
    expected = av.VideoFrame.from_ndarray(planes, format="yuv420p").reformat(format="rgb24", threads=1).to_ndarray()
    return np.array_equal(rgb_of_planes(torch.from_numpy(planes[None]))[0].numpy(), expected)


def test_colours_are_those_of_ffmpeg() -> None:
    assert same_as_ffmpeg(colours(8))


@pytest.mark.exhaustive
def test_all_colours_are_those_of_ffmpeg() -> None:
    planes = colours(1)  # 2^24 colours, in slices that FFmpeg accepts
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    y, uv = planes[:height], planes[height:].reshape(2, height // 2, width // 2)
    for first in range(0, height, 4096):
        part = [y[first : first + 4096], *uv[:, first // 2 : first // 2 + 2048]]
        assert same_as_ffmpeg(np.concatenate([plane.reshape(-1) for plane in part]).reshape(-1, width))


def test_only_needed_frames_are_decoded(video: Path, tmp_path: Path) -> None:
    """A damaged frame affects only reads of the frames from it to the next key frame."""
    broken = tmp_path / "v.mp4"
    broken.write_bytes(video.read_bytes())
    break_frame(broken, 13)  # the key frames are 0, 6, 12, 18, ...
    around = [0, 5, 11, 12, 18, 39]
    assert np.array_equal(read_frames(broken, around), pick_frames(video, around))
    for index in (13, 17):
        with pytest.raises(DecodeError, match=r"v\.mp4: "):
            read_frames(broken, [0, index, 20])


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "beyond"])
def test_unreadable_clips_are_reported(video: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "v.mp4"
    data = video.read_bytes()
    bodies = {"empty": b"", "text": b"no video" * 100, "cut": data[: len(data) // 2], "beyond": data}
    if kind in bodies:
        path.write_bytes(bodies[kind])
    with pytest.raises(DecodeError) as caught:
        read_planes(path, [0, 40])
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
