"""Moments of one video are never in two splits: what is in `val` stays, what is in `train` is quarantined."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from videos import ava_row, ingested, kinetics_row, moving_frames, write_video

from slowfast_core.data.manifest import read_manifest
from slowfast_core.recipe.load import Data, Validation
from slowfast_core.stages.validate import validate


@pytest.mark.parametrize("format", ["kinetics", "ava"])
def test_other_moments_of_a_val_video_are_quarantined(tmp_path: Path, format: str) -> None:
    """`shared` has one moment in each split, in files of their own: their contents differ."""
    for seed, name in enumerate(("mine", "shared", "shared_val", "held")):
        write_video(tmp_path / "videos" / f"{name}.mp4", moving_frames(30, seed=seed))
    splits = {"mine": "train", "shared": "train", "shared_val": "val", "held": "val"}
    rows = [
        {
            **(kinetics_row(name, path, split) if format == "kinetics" else ava_row(name, path, 1, split)),
            "video": name.removesuffix("_val"),
        }
        for name, split in splits.items()
        for path in [f"videos/{name}.mp4"]
    ]
    data = Data(name="d", format=format, validation=Validation(max_bad_share=1.0, shared_videos="quarantine"))  # type: ignore[arg-type]
    validate(data, ingested(tmp_path, rows), tmp_path / "validate")
    good = read_manifest(tmp_path / "validate" / "manifest.parquet").rows
    left = [(row.video, row.split) for row in good.itertuples()]
    assert left == [("mine", "train"), ("shared", "val"), ("held", "val")]
    with (tmp_path / "validate" / "quarantine.csv").open(newline="") as file:
        [bad] = csv.DictReader(file)
    assert (bad["split"], bad["reason"]) == ("train", "the video 'shared' is also in val")
