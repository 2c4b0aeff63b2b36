"""Frames at given indices equal those of a sequential decode, for all kinds of files, at both ends and between."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from reference import reference_frames
from video_kinds import COUNT, FPS, HEIGHT, KINDS, WIDTH, colourful_frames, vfr_times
from videos import Staged, official_csv, psnr, run_data_stages, whole_clip_name

from slowfast_core.data.clip_store.reader import read_frames
from slowfast_core.data.video.decoding import decode_range, inspect, pick_frames, probe
from slowfast_core.data.video.info import DecodeError

BAD = {"size_changes": "the size of the picture changes", "sound_only": "has no video stream"}
GOOD = [kind for kind in KINDS if kind not in BAD]
SHOWN = {"one_frame": 1, "trimmed": 30, "one_frame_lost": 39}  # frames; the other kinds have COUNT
UNEVEN = ("h264_variable_rate", "h264_variable_rate_mkv", "one_frame_lost")  # the distances of their frames differ


def frame_size(kind: str) -> tuple[int, int]:
    return (36, 48) if kind == "narrow" else (HEIGHT - ("odd" in kind), WIDTH - ("odd" in kind))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    av.logging.set_level(av.logging.PANIC)
    folder = tmp_path_factory.mktemp("corpus")
    return {kind: write(folder / kind, colourful_frames(seed=n)) for n, (kind, write) in enumerate(KINDS.items())}


@pytest.mark.parametrize("kind", GOOD)
def test_reading_in_order_shows_what_a_player_shows(kind: str, corpus: dict[str, Path]) -> None:
    path = corpus[kind]
    info = probe(path)
    assert info.frames == SHOWN.get(kind, COUNT)
    assert (info.height, info.width) == frame_size(kind)
    shown = reference_frames(path, info.fps, info.frames)
    frames = list(decode_range(path, 0, info.frames))
    assert len(frames) == len(shown) == info.frames
    assert min(psnr(frame, picture) for frame, picture in zip(frames, shown, strict=True)) > 30
    found = inspect(path, float("inf"))
    assert (found.info, found.decoded, found.error, found.damaged) == (info, info.frames, "", ())


@pytest.mark.parametrize(
    "kind", [k for k in GOOD if k not in {"one_frame", "one_frame_lost"} and "variable_rate" not in k]
)
def test_each_frame_is_the_one_that_was_written(kind: str, corpus: dict[str, Path]) -> None:
    """The number of a frame is determined by its content, not by a decoder."""
    source = colourful_frames(seed=list(KINDS).index(kind))
    height, width = frame_size(kind)
    cropped = source[:, :height, :width]
    frames = np.stack(list(decode_range(corpus[kind], 0, SHOWN.get(kind, COUNT))))
    numbers = [int(np.argmax([psnr(frame, picture) for picture in cropped])) for frame in frames]
    first = 5 if kind == "trimmed" else 0
    assert numbers == list(range(first, first + len(frames)))
    assert min(psnr(frame, cropped[number]) for frame, number in zip(frames, numbers, strict=True)) > 36


@pytest.mark.parametrize("kind", UNEVEN)
def test_frames_at_uneven_times_are_selected_by_their_times(kind: str, corpus: dict[str, Path]) -> None:
    times = np.array(vfr_times(COUNT) if "variable_rate" in kind else [n for n in range(COUNT) if n != 20]) / FPS
    written = colourful_frames(seed=list(KINDS).index(kind))
    written = np.delete(written, 20, 0) if kind == "one_frame_lost" else written
    info = probe(corpus[kind])
    assert info.fps == pytest.approx((len(times) - 1) / times[-1], rel=1e-3)
    for number, frame in enumerate(decode_range(corpus[kind], 0, info.frames)):
        shown = int(np.argmax([psnr(frame, picture) for picture in written]))
        nearest = np.abs(times - number / info.fps).min()
        assert abs(times[shown] - number / info.fps) <= max(nearest, 0.5 / FPS) + 1e-6


@pytest.mark.parametrize("kind", GOOD)
def test_any_range_equals_that_range_of_the_whole_video(kind: str, corpus: dict[str, Path]) -> None:
    path = corpus[kind]
    frames = np.stack(list(decode_range(path, 0, count := probe(path).frames)))
    for start, stop in ((count - 1, count), (max(count - 4, 0), count), (count // 3, count // 2), (0, 1)):
        part = list(decode_range(path, start, stop))
        assert len(part) == stop - start
        assert not part or np.array_equal(part, frames[start:stop])
    indices = [count - 1, 0, count // 2, count - 1]
    assert np.array_equal(pick_frames(path, indices), frames[indices])
    with pytest.raises(DecodeError, match=f"ends before frame {count}"):
        list(decode_range(path, 0, count + 1))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, corpus: dict[str, Path]) -> Staged:
    root = tmp_path_factory.mktemp("staged")
    (root / "source").mkdir()
    files = [Path(shutil.copy(path, root / "source" / whole_clip_name(path).name)) for path in corpus.values()]
    official_csv(files, root / "source" / "annotations.csv")
    return run_data_stages(root / "source", root)


def test_every_kind_is_stored_or_quarantined_with_its_reason(staged: Staged) -> None:
    name = "{}_000000_000004".format
    assert set(staged.rows["id"]) == {name(kind) for kind in GOOD}
    assert set(staged.quarantine) == {name(kind) for kind in BAD}
    assert all(reason in staged.quarantine[name(kind)] for kind, reason in BAD.items())


def check_store(staged: Staged, floor: float) -> None:
    """Check counts, colours and that random access is exact, at both ends and between."""
    files = {path.stem: path for path in staged.source.iterdir()}
    for row in staged.rows.to_dict("records"):
        stored = staged.store / row["path"]
        in_order = np.stack(list(decode_range(stored, 0, row["frames"])))
        assert probe(stored).frames == row["frames"] == len(in_order), row["id"]
        assert np.array_equal(in_order, av_frames(stored)), row["id"]
        count = len(in_order)
        indices = [count - 1, 0, count // 2, count - 2, 1, count // 3, count - 1, count // 2 + 1]
        indices = [min(max(index, 0), count - 1) for index in indices]
        assert np.array_equal(read_frames(stored, indices), in_order[indices]), row["id"]
        shown = reference_frames(files[row["id"]], row["fps"], count)
        assert len(shown) == count, row["id"]
        sized = [cv2.resize(picture, (row["width"], row["height"]), interpolation=cv2.INTER_CUBIC) for picture in shown]
        worst = min(psnr(frame, picture) for frame, picture in zip(in_order, sized, strict=True))
        assert worst > floor, (row["id"], worst)


def av_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_random_access_on_the_store_is_exact(staged: Staged) -> None:
    check_store(staged, 30)


def test_real_videos_are_stored_exactly_or_quarantined(tmp_path: Path) -> None:
    folder = Path(os.environ.get("SLOWFAST_REAL_VIDEOS", "-"))
    if not folder.is_dir():
        pytest.skip("SLOWFAST_REAL_VIDEOS names no folder of real videos")
    (tmp_path / "source").mkdir()
    real = sorted(path for path in folder.iterdir() if path.suffix in {".mp4", ".mkv", ".avi"})
    files = [Path(shutil.copy(path, tmp_path / "source" / whole_clip_name(path).name)) for path in real]
    official_csv(files, tmp_path / "source" / "annotations.csv")
    staged = run_data_stages(tmp_path / "source", tmp_path)
    assert {*staged.rows["id"], *staged.quarantine} == {file.stem for file in files}
    assert all(staged.quarantine.values())
    print(staged.quarantine)
    check_store(staged, 24)
    for path in real:
        count = probe(path).frames
        frames = np.stack(list(decode_range(path, 0, count)))
        indices = [count - 1, 0, count // 2]
        assert np.array_equal(pick_frames(path, indices), frames[indices])
        assert np.array_equal(np.stack(list(decode_range(path, count - 2, count))), frames[-2:])
