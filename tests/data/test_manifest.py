"""The manifest's column of predicted boxes is there where there are some, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from videos import ava_row

from slowfast_core.data.manifest import OPTIONAL, SCHEMA, Manifest, read_manifest


def manifest(*proposals: Any) -> Manifest:
    rows = [{**ava_row("one", "one.mp4", second), "proposals": of} for second, of in enumerate(proposals)]
    return Manifest(
        pd.DataFrame([{name: row.get(name) for name in SCHEMA.names} for row in rows], dtype=object), ("a", "")
    )


def test_predicted_boxes_are_kept(tmp_path: Path) -> None:
    people = [[0.1, 0.2, 0.3, 0.4, 0.9], [0.0, 0.0, 1.0, 1.0, 0.8]]
    manifest(people, [], None).write(tmp_path / "m.parquet")
    kept = read_manifest(tmp_path / "m.parquet").rows["proposals"]
    assert [[list(box) for box in of] if of is not None else None for of in kept] == [people, [], None]


def test_a_manifest_without_them_is_what_it_always_was(tmp_path: Path) -> None:
    without = manifest(None, None)
    without.write(tmp_path / "m.parquet")
    always = [name for name in SCHEMA.names if name not in OPTIONAL]
    assert pq.read_schema(tmp_path / "m.parquet").names == always
    Manifest(without.rows[always], without.labels).write(tmp_path / "old.parquet")
    assert (tmp_path / "old.parquet").read_bytes() == (tmp_path / "m.parquet").read_bytes()
    assert read_manifest(tmp_path / "old.parquet").rows["proposals"].isna().all()
