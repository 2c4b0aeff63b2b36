"""AVA as other codebases extract it: a folder of JPEG frames per movie, 30 per second from second 900 on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from slowfast_core.data.manifest import read_manifest
from slowfast_core.data.video.decoding import pick_frames
from slowfast_core.recipe.data import Data, Store
from slowfast_core.recipe.schema import Clip
from slowfast_core.stages.extract import extract
from slowfast_core.stages.ingest import ingest
from slowfast_core.stages.validate import validate


def test_key_frames_are_the_frames_at_their_seconds(tmp_path: Path) -> None:
    """Frame n (from 1) has the grey value n, so the key frame at second 902 is frame 61."""
    source = tmp_path / "source"
    for video in ("-one", "two"):
        (source / "frames" / video).mkdir(parents=True)
        for number in range(1, 121):
            picture = np.full((32, 64, 3), number, dtype=np.uint8)
            Image.fromarray(picture).save(source / "frames" / video / f"{video}_{number:06d}.jpg", quality=95)
    (source / "train.csv").write_text("-one,0902,0.1,0.1,0.5,0.9,1,0\n")
    (source / "val.csv").write_text("two,0902,0.1,0.1,0.5,0.9,1,0\ntwo,0903,0.1,0.1,0.5,0.9,1,0\n")
    data = Data(
        name="ava",
        format="ava",
        source=str(source),
        annotations={"train": "train.csv", "val": "val.csv"},
        first_second=900,
        store=Store(short_side=0, crf=4),
    )
    ingested, validated, extracted = (tmp_path / stage for stage in ("ingest", "validate", "extract"))
    ingest(data, tmp_path / "none", ingested)
    validate(data, ingested, validated)
    extract(data, Clip(T=2, tau=4, alpha=2), ingested, validated, extracted)
    rows = read_manifest(extracted / "store" / "manifest.parquet").rows
    assert list(rows["id"]) == ["-one_0902", "two_0902", "two_0903"]
    for row in rows.itertuples():
        [frame] = pick_frames(extracted / "store" / row.path, [round(row.key * row.fps)])
        assert abs(frame.mean() - ((row.second - 900) * 30 + 1)) < 1.5
