"""Rows of one video are never in both splits: those in `val` stay, those in `train` are quarantined."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from videos import ava_row, ingested, kinetics_row, moving_frames, write_video

from slowfast_core.data.manifest import read_manifest
from slowfast_core.recipe.load import Data, Validation
from slowfast_core.stages.validate import validate


@pytest.mark.parametrize("format", ["kinetics", "ava"])
def test_train_rows_of_a_val_video_are_quarantined(tmp_path: Path, format: str) -> None:
    """`shared` has one row in each split, with separate files, so that their contents differ."""
    for seed, name in enumerate(("train_only", "shared", "shared_val", "val_only")):
        write_video(tmp_path / "videos" / f"{name}.mp4", moving_frames(30, seed=seed))
    splits = {"train_only": "train", "shared": "train", "shared_val": "val", "val_only": "val"}
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
    assert left == [("train_only", "train"), ("shared", "val"), ("val_only", "val")]
    with (tmp_path / "validate" / "quarantine.csv").open(newline="") as file:
        [bad] = csv.DictReader(file)
    assert (bad["split"], bad["reason"]) == ("train", "the video 'shared' is also in val")
