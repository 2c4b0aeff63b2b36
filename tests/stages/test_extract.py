from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from videos import ava_row, ingested, kinetics_row, moving_frames, psnr, write_video

from slowfast_core.data.clip_store.encoding import stored_size
from slowfast_core.data.clip_store.reader import read_frames
from slowfast_core.data.loading.sampling import centred_indices
from slowfast_core.data.manifest import read_manifest
from slowfast_core.data.versions.track import data_version
from slowfast_core.data.video.decoding import pick_frames, probe
from slowfast_core.errors import InputError
from slowfast_core.files import sha256_of
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Clip, Data, Store
from slowfast_core.stages import extract as extraction
from slowfast_core.stages.extract import extract
from slowfast_core.stages.validate import validate

CLIP = Clip(T=4, tau=4, alpha=4)  # a span of 16 frames


def settings(short_side: int = 0, fps: float = 0, format: Any = "kinetics", **store: Any) -> Data:
    return Data(name="some", format=format, store=Store(short_side=short_side, fps=fps, gop=6, crf=10, **store))


def run(root: Path, data: Data, name: str = "extract", workers: int = 2) -> StageResult:
    return extract(data, CLIP, root / "ingest", root / "validate", root / name, workers)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos with B-frames and a long GOP, and a segment of one of them; ingested and validated."""
    root = tmp_path_factory.mktemp("kinetics")
    for number in range(3):
        write_video(root / "videos" / f"{number}.mp4", moving_frames(40, 50, 66, seed=number), gop=250)
    rows = [
        kinetics_row("a", "videos/0.mp4"),
        kinetics_row("b", "videos/1.mp4", split="val"),
        kinetics_row("c", "videos/2.mp4", label=1),
        kinetics_row("part", "videos/2.mp4", start=1.3, end=3.1),
    ]
    validate(settings(), ingested(root, rows), root / "validate")
    return root


@pytest.fixture(scope="module")
def result(root: Path) -> StageResult:
    return run(root, settings())


def test_the_store_contains_the_frames_of_the_segments(root: Path, result: StageResult) -> None:
    store = Path(result.outputs["store"])
    rows = read_manifest(store / "manifest.parquet").rows
    assert list(rows["id"]) == ["a", "b", "c", "part"]
    assert list(rows["frames"]) == [40, 40, 40, 18]
    assert list(rows["start"]) == [0.0] * 4
    assert list(rows["end"]) == [4.0, 4.0, 4.0, 1.8]
    for row, (source, first) in zip(rows.itertuples(), [(0, 0), (1, 0), (2, 0), (2, 13)], strict=True):
        stored = pick_frames(store / row.path, range(row.frames))
        original = pick_frames(root / f"ingest/videos/{source}.mp4", range(first, first + row.frames))
        assert min(psnr(ours, theirs) for ours, theirs in zip(stored, original, strict=True)) > 30


def test_rows_describe_the_files_of_the_store(result: StageResult) -> None:
    store = Path(result.outputs["store"])
    for row in read_manifest(store / "manifest.parquet").rows.itertuples():
        file = store / row.path
        assert (row.frames, row.fps, row.width, row.height) == tuple(vars(probe(file)).values())
        assert (row.bytes, row.sha256) == (file.stat().st_size, sha256_of(file))


def test_files_allow_random_access(result: StageResult) -> None:
    with av.open(str(Path(result.outputs["store"]) / "clips" / "a.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]  # no B-frames
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert max(np.diff([*keys, len(packets)])) <= 6
    data = (Path(result.outputs["store"]) / "clips" / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_version_is_the_dvc_hash_and_independent_of_workers(root: Path, result: StageResult) -> None:
    assert result.data_version == result.digest == data_version(root / "extract" / "store")
    assert result.summary.startswith("4 clips, 0.")
    single = run(root, settings(), "one_worker", workers=1)
    assert single.data_version == result.data_version


def test_unchanged_input_is_not_extracted_again(root: Path, result: StageResult) -> None:
    assert run(root, settings()).status == "unchanged"


def test_a_killed_run_resumes(root: Path, result: StageResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(folder: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(extraction, "data_version", killed)
        with pytest.raises(KeyboardInterrupt):
            run(root, settings(), "killed")
    partial = root / ".killed.partial"
    kept = partial / "store" / "clips" / "a.mp4"
    (partial / "store" / "clips" / "b.mp4").unlink()
    (partial / "scratch").mkdir()
    (partial / "scratch" / "b.mp4").write_bytes(b"half a file")
    before = kept.stat().st_mtime_ns
    again = run(root, settings(), "killed")
    assert (root / "killed" / "store" / "clips" / "a.mp4").stat().st_mtime_ns == before
    assert again.data_version == result.data_version
    assert not (root / "killed" / "scratch").exists()


def test_sizes_are_even_with_the_requested_short_side(root: Path) -> None:
    store = Path(run(root, settings(short_side=32), "small").outputs["store"])
    row = read_manifest(store / "manifest.parquet").rows.iloc[0]
    assert (row["height"], row["width"], row["frames"]) == (32, 42, 40)


@pytest.mark.parametrize(("fps", "frames"), [(5.0, 20), (15.0, 60)])
def test_another_rate_selects_the_nearest_frames(root: Path, fps: float, frames: int) -> None:
    store = Path(run(root, settings(fps=fps), f"at{fps}").outputs["store"])
    row = read_manifest(store / "manifest.parquet").rows.iloc[0]
    assert (row["frames"], row["fps"], row["end"]) == (frames, fps, 4.0)
    stored = pick_frames(store / row["path"], range(frames))
    original = pick_frames(root / "ingest/videos/0.mp4", range(40))
    nearest = [min(round(number * 10 / fps), 39) for number in range(frames)]
    assert min(psnr(stored[i], original[n]) for i, n in enumerate(nearest)) > 30


@pytest.mark.parametrize(("every", "fps", "fast"), [(2, 0.0, False), (3, 0.0, True), (2, 5.0, False)])
def test_only_every_nth_frame_is_kept(root: Path, every: int, fps: float, fast: bool) -> None:
    name = f"every{every}at{fps}"
    store = Path(run(root, settings(fps=fps, every=every, fast_decode=fast), name).outputs["store"])
    row = read_manifest(store / "manifest.parquet").rows.iloc[0]
    kept = range(0, 40, every * (2 if fps else 1))  # the source has 10 frames per second
    assert (row["frames"], row["fps"]) == (len(kept), pytest.approx((fps or 10) / every))
    original = pick_frames(root / "ingest/videos/0.mp4", list(kept))
    stored = read_frames(store / row["path"], range(len(kept)))
    assert min(psnr(ours, theirs) for ours, theirs in zip(stored, original, strict=True)) > 30


def test_key_frames_are_correct_in_a_store_of_every_second_frame(tmp_path: Path) -> None:
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mp4", moving_frames(100, seed=number))
    rows = [ava_row("x", "videos/0.mp4", 4), ava_row("x", "videos/0.mp4", 5), ava_row("y", "videos/1.mp4", 3, "val")]
    validate(settings(format="ava"), ingested(tmp_path, rows), tmp_path / "validate")
    store = Path(run(tmp_path, settings(format="ava", every=2)).outputs["store"])
    clip = Clip(T=4, tau=8, alpha=4).every(2)
    for row, frame in zip(read_manifest(store / "manifest.parquet").rows.itertuples(), (40, 50, 30), strict=True):
        key = centred_indices(clip, round(row.key * row.fps), row.frames)[clip.fast_frames // 2]
        stored = read_frames(store / row.path, [key])[0]
        source = pick_frames(tmp_path / f"ingest/videos/{row.path.startswith('clips/y'):d}.mp4", range(100))
        nearest = max(range(100), key=lambda number: psnr(stored, source[number]))
        assert abs(nearest - frame) <= 1  # half the distance of stored frames


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mkv", moving_frames(20, 45, 61, number), codec="ffv1")
    rows = [kinetics_row("a", "videos/0.mkv"), kinetics_row("b", "videos/1.mkv", split="val")]
    validate(settings(), ingested(tmp_path, rows), tmp_path / "validate")
    run(tmp_path, settings())
    row = read_manifest(tmp_path / "extract/store/manifest.parquet").rows.iloc[0]
    assert (row["height"], row["width"], row["frames"]) == (44, 60, 20)


def test_ava_files_extend_half_a_span_and_a_second_beyond_the_key_frames(tmp_path: Path) -> None:
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mp4", moving_frames(100, seed=number))
    rows = [
        ava_row("x", "videos/0.mp4", 4),
        ava_row("x", "videos/0.mp4", 5),
        ava_row("y", "videos/1.mp4", 1, split="val"),
        ava_row("y", "videos/1.mp4", 9, split="val"),
    ]
    validate(settings(format="ava"), ingested(tmp_path, rows), tmp_path / "validate")
    store = Path(run(tmp_path, settings(format="ava")).outputs["store"])
    assert sorted(path.name for path in (store / "clips").iterdir()) == ["x_0004.mp4", "y_0001.mp4"]
    rows = read_manifest(store / "manifest.parquet").rows
    assert list(rows["frames"]) == [47, 47, 100, 100]  # 1.8 s before and after, and the last frame; the whole video
    assert list(rows["second"]) == [4, 5, 1, 9]
    for row, source, frame in zip(rows.itertuples(), (0, 0, 1, 1), (40, 50, 10, 90), strict=True):
        key = pick_frames(store / row.path, [round(row.key * row.fps)])[0]
        assert psnr(key, pick_frames(tmp_path / f"ingest/videos/{source}.mp4", [frame])[0]) > 30


def test_segments_of_one_source_equal_separate_extractions(root: Path, result: StageResult, tmp_path: Path) -> None:
    """Also if more segments of a source overlap than are written at the same time."""
    rows = [kinetics_row(f"r{n}", "videos/1.mp4", start=n / 10, end=n / 10 + 1.4) for n in range(20)]
    rows += [kinetics_row("all", "videos/1.mp4"), kinetics_row("b", "videos/0.mp4", split="val")]
    shutil.copytree(root / "ingest" / "videos", tmp_path / "videos")
    validate(settings(), ingested(tmp_path, rows), tmp_path / "validate")
    store = Path(run(tmp_path, settings()).outputs["store"])
    assert (store / "clips/all.mp4").read_bytes() == (Path(result.outputs["store"]) / "clips/b.mp4").read_bytes()
    original = pick_frames(root / "ingest/videos/1.mp4", range(40))
    for n in range(20):
        stored = pick_frames(store / f"clips/r{n}.mp4", range(14))
        assert min(psnr(ours, theirs) for ours, theirs in zip(stored, original[n:], strict=False)) > 30


def test_frames_are_stored_as_jpeg(root: Path) -> None:
    data = Data(name="some", store=Store(short_side=0, codec="jpeg", jpeg_scale=2))
    store = Path(run(root, data, "jpeg").outputs["store"])
    with av.open(str(store / "clips/a.mp4")) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    stored, original = (pick_frames(file, range(40)) for file in (store / "clips/a.mp4", root / "ingest/videos/0.mp4"))
    assert min(psnr(ours, theirs) for ours, theirs in zip(stored, original, strict=True)) > 35
    indices = [39, 0, 17, 17, 3]
    assert np.array_equal(pick_frames(store / "clips/a.mp4", indices), stored[indices])


@pytest.mark.parametrize(
    ("store", "wide", "upright"),
    [
        (Store(short_side=0), (40, 70), (70, 40)),
        (Store(short_side=100), (100, 176), (176, 100)),
        (Store(height=100), (100, 176), (100, 58)),
    ],
)
def test_stored_sizes_follow_the_settings(store: Store, wide: tuple[int, int], upright: tuple[int, int]) -> None:
    assert (stored_size(40, 70, store), stored_size(70, 40, store)) == (wide, upright)


def test_a_field_at_its_default_does_not_change_the_store() -> None:
    first = {"short_side": 256, "fps": 0.0, "gop": 12, "crf": 18, "fast_decode": True}
    assert extraction._fields(Store()) == first
    assert extraction._fields(Store(every=2, height=100)) == {**first, "every": 2, "height": 100}


def test_a_source_damaged_after_validation_stops_the_stage(tmp_path: Path) -> None:
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mp4", moving_frames(20, seed=number))
    rows = [kinetics_row("a", "videos/0.mp4"), kinetics_row("b", "videos/1.mp4", split="val")]
    validate(settings(), ingested(tmp_path, rows), tmp_path / "validate")
    (tmp_path / "ingest/videos/1.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot extract b: .*not a readable video"):
        run(tmp_path, settings())
    assert not (tmp_path / "extract").exists()
