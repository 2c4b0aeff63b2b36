"""Clips that cannot be extracted are left out with their reason; too many of them stop the stage in one line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from video_kinds import KINDS, colourful_frames, write
from videos import ava_row, ingested, kinetics_row, moving_frames, write_video

from slowfast_core.data.clip_store.cutting import Cut, LeftOut, Written, write_clips
from slowfast_core.data.manifest import Manifest, read_manifest
from slowfast_core.errors import InputError
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Clip, Data, Store, Validation
from slowfast_core.stages.extract import extract
from slowfast_core.stages.validate import validate

CLIP = Clip(T=4, tau=4, alpha=4)
STORE = Store(short_side=0, gop=6, crf=10)


def settings(max_bad_share: float = 0.3, format: Any = "kinetics", **limits: Any) -> Data:
    validation = Validation(max_bad_share=max_bad_share, min_fps=0, min_frames=1, **limits)
    return Data(name="some", format=format, store=STORE, validation=validation)


def run(root: Path, data: Data, name: str = "extract", workers: int = 2) -> StageResult:
    return extract(data, CLIP, root / "ingest", root / "validate", root / name, workers)


def data_with_an_unencodable_video(root: Path, format: str = "kinetics") -> Path:
    """Four rows that pass validation; one is a time-lapse of one frame in eight hours, a rate no codec accepts."""
    for number in range(3):
        write_video(root / "videos" / f"{number}.mp4", moving_frames(60, seed=number))
    write(root / "videos" / "slow.mkv", moving_frames(3), times=[0, 300_000, 600_000])
    videos = {"v0": "videos/0.mp4", "v1": "videos/1.mp4", "v2": "videos/2.mp4", "slow": "videos/slow.mkv"}
    splits = {name: "val" if name == "v0" else "train" for name in videos}
    if format == "ava":
        seconds = {name: 15_000 if name == "slow" else 3 for name in videos}  # half-way between the first two frames
        rows = [ava_row(name, path, seconds[name], splits[name]) for name, path in videos.items()]
    else:
        rows = [kinetics_row(name, path, splits[name]) for name, path in videos.items()]
    result = validate(settings(format=format), ingested(root, rows), root / "validate")
    assert result.metrics["good"] == 4
    return root


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_with_an_unencodable_video(tmp_path_factory.mktemp("validated"))


@pytest.fixture
def root(validated: Path, tmp_path: Path) -> Path:
    return shutil.copytree(validated, tmp_path / "root")


def check_left_out(root: Path, data: Data) -> None:
    result = run(root, data)
    assert result.summary.endswith("1 left out, see store/quarantine.csv")
    assert result.metrics == {"clips": 3, "files": 4, "left_out": 1}
    store = root / "extract" / "store"
    rows = read_manifest(store / "manifest.parquet").rows
    assert [str(id_)[:2] for id_ in rows["id"]] == ["v0", "v1", "v2"]
    assert sorted(path.name for path in (store / "clips").iterdir()) == [Path(path).name for path in rows["path"]]
    (listed,) = pd.read_csv(store / "quarantine.csv").to_dict("records")
    assert (listed["video"], listed["split"]) == ("slow", "train")
    assert listed["reason"].startswith("cannot be encoded: ")
    assert run(root, data, "one_worker", workers=1).data_version == result.data_version


def test_a_clip_that_cannot_be_encoded_is_left_out_and_listed(root: Path) -> None:
    check_left_out(root, settings())


@pytest.mark.exhaustive
def test_key_frames_of_a_video_that_cannot_be_encoded_are_left_out(tmp_path: Path) -> None:
    check_left_out(data_with_an_unencodable_video(tmp_path, "ava"), settings(format="ava"))


def test_more_than_the_allowed_share_stops_the_stage_in_one_line(root: Path) -> None:
    with pytest.raises(InputError) as error:
        run(root, settings(0.2))
    text, rejected = str(error.value), root / "extract.rejected" / "quarantine.csv"
    assert "1 of 4 clips cannot be extracted (25.0%, allowed 20.0%), the first: cannot extract slow: " in text
    assert str(rejected) in text
    assert len(text.splitlines()) == 1
    assert list(pd.read_csv(rejected)["id"]) == ["slow"]
    assert not (root / "extract").exists()
    run(root, settings(0.3))
    assert not rejected.exists()


def test_a_split_that_loses_its_last_clip_stops_the_stage(root: Path) -> None:
    manifest = read_manifest(root / "validate" / "manifest.parquet")
    splits = {"v0": "train", "slow": "val"}
    changed = manifest.rows.assign(split=[splits.get(str(id_), "train") for id_ in manifest.rows["id"]])
    Manifest(changed, manifest.labels).write(root / "validate" / "manifest.parquet")
    with pytest.raises(InputError, match="split 'val' has no clip left, 1 of 4 clips cannot be extracted"):
        run(root, settings())


def cuts_of(source: Path, folder: Path, *segments: tuple[int, int]) -> list[Cut]:
    return [Cut(source, folder / f"{a}_{b}.mp4", folder, STORE, 10.0, a, b, b) for a, b in segments]


def test_only_the_segment_that_fails_is_left_out(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", moving_frames(40))
    cuts = cuts_of(source, tmp_path, (0, 10), (5, 60), (50, 60), (20, 40))
    first, beyond, after, last = write_clips(cuts)
    assert isinstance(first, Written)
    assert beyond == LeftOut("the video ends before frame 40")
    assert after == LeftOut("the video ends before frame 40")
    assert isinstance(last, Written)
    assert last.info.frames == 20
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"source.mp4", "0_10.mp4", "20_40.mp4"}


def test_segments_before_a_change_of_size_are_kept(tmp_path: Path) -> None:
    source = KINDS["size_changes"](tmp_path / "source", colourful_frames())
    before, across, after = write_clips(cuts_of(source, tmp_path, (0, 15), (10, 30), (32, 40)))
    assert isinstance(before, Written)
    assert isinstance(across, LeftOut)
    assert isinstance(after, LeftOut)
    assert all("the size of the picture changes" in out.reason for out in (across, after))


def test_a_source_that_hangs_exceeds_the_time_limit(root: Path) -> None:
    source = root / "ingest" / "videos" / "1.mp4"
    source.unlink()
    os.mkfifo(source)
    with pytest.raises(InputError, match=r"cannot extract \w+: took longer than 4 s .*decode_timeout_seconds"):
        run(root, settings(decode_timeout_seconds=4))
    assert not (root / "extract").exists()


def test_a_source_that_takes_too_much_memory_exceeds_the_limit(root: Path) -> None:
    source = root / "ingest" / "videos" / "1.mp4"
    source.unlink()
    os.mkfifo(source)  # the reader blocks, so that it is alive when its memory is measured
    with pytest.raises(InputError, match=r"cannot extract \w+: took more than 30 MB of memory .*decode_memory_mb"):
        run(root, settings(decode_memory_mb=30), workers=1)
