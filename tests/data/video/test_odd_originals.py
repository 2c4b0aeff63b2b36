"""Unusual originals are stored with the frames of FFmpeg, or quarantined with the true reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import cv2
import pandas as pd
import pytest
from ffmpeg_pictures import ffmpeg_pictures
from odd_originals import KINDS, ORIENTATIONS, with_matrix
from video_kinds import FPS, colourful_frames
from videos import ingested, kinetics_row, psnr

from slowfast_core.data.manifest import read_manifest
from slowfast_core.data.video.decoding import decode_range, inspect, pick_frames, probe
from slowfast_core.data.video.info import DecodeError
from slowfast_core.recipe.load import Clip, Data, Store, Validation
from slowfast_core.stages.extract import extract
from slowfast_core.stages.validate import validate

COUNT = 40
REASONS = {
    "skewed": "its display matrix (1 0 0.5 1) is not made of quarter turns and mirroring",
    "size_changes_webm": "decodes only 20 of 40 frames: frame 20: the size of the picture changes",
    "times_go_back": "its times run backwards",
    "wide": "2000x2 pixels become 128000x128 in the clip store; its limits are 16384 pixels per side",
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_all_orientations_are_shown_as_ffmpeg_shows_them(name: str, tmp_path: Path) -> None:
    path = with_matrix(*ORIENTATIONS[name])(tmp_path / name, colourful_frames(6))
    shown = ffmpeg_pictures(path)
    info = probe(path)
    assert (info.height, info.width) == shown[0].shape[:2]
    read = list(decode_range(path, 0, info.frames))
    assert min(psnr(ours, theirs) for ours, theirs in zip(read, shown, strict=True)) > 30
    assert inspect(path, float("inf")).damaged == ()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    av.logging.set_level(av.logging.PANIC)
    folder = tmp_path_factory.mktemp("odd")
    return {
        kind: write(folder / kind, colourful_frames(COUNT, seed=number))
        for number, (kind, write) in enumerate(KINDS.items())
    }


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind == "wide" or kind not in REASONS])
def test_frames_equal_those_of_ffmpeg(kind: str, originals: dict[str, Path]) -> None:
    path = originals[kind]
    shown = ffmpeg_pictures(path)
    assert len(shown) == probe(path).frames == (1 if kind == "one_frame_webm" else COUNT)
    read = list(decode_range(path, 0, len(shown)))
    assert min(psnr(ours, theirs) for ours, theirs in zip(read, shown, strict=True)) > 30


@pytest.mark.parametrize("kind", ["skewed", "times_go_back"])
def test_videos_without_well_defined_frames_are_refused_with_the_reason(kind: str, originals: dict[str, Path]) -> None:
    with pytest.raises(DecodeError) as error:
        pick_frames(originals[kind], range(COUNT))
    assert REASONS[kind].rpartition("frames: ")[2] in error.value.reason


def test_all_are_stored_or_quarantined_with_the_reason(originals: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    rows = []
    for number, (kind, path) in enumerate(originals.items()):
        shutil.copy(path, tmp_path / "videos")
        rows.append(kinetics_row(kind, f"videos/{path.name}", split="train" if number else "val"))
    validation = Validation(max_bad_share=0.4, min_frames=1)
    data = Data(name="odd", validation=validation, store=Store(short_side=128, crf=12))
    validate(data, ingested(tmp_path, rows), tmp_path / "validate")
    extract(data, Clip(), tmp_path / "ingest", tmp_path / "validate", tmp_path / "extract", workers=2)
    table = pd.read_csv(tmp_path / "validate" / "quarantine.csv", keep_default_na=False)
    quarantined = dict(zip(table["id"], table["reason"], strict=True))
    assert set(quarantined) == set(REASONS)
    assert all(reason in quarantined[kind] for kind, reason in REASONS.items())
    store = tmp_path / "extract" / "store"
    rows = read_manifest(store / "manifest.parquet").rows
    assert len(rows) == len(KINDS) - len(REASONS)
    for row in rows.to_dict("records"):
        shown = ffmpeg_pictures(originals[row["id"]])
        assert (row["frames"], row["fps"]) == (len(shown), FPS), row["id"]
        size = (row["width"], row["height"])
        sized = [cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC) for picture in shown]
        stored = pick_frames(store / row["path"], range(len(shown)))
        worst = min(psnr(ours, theirs) for ours, theirs in zip(stored, sized, strict=True))
        assert worst > 30, (row["id"], worst)
