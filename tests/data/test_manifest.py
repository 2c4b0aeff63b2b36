"""A manifest has a column of predicted boxes only if it has predicted boxes."""

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


def test_a_manifest_without_predicted_boxes_has_no_such_column(tmp_path: Path) -> None:
    without = manifest(None, None)
    without.write(tmp_path / "m.parquet")
    required = [name for name in SCHEMA.names if name not in OPTIONAL]
    assert pq.read_schema(tmp_path / "m.parquet").names == required
    Manifest(without.rows[required], without.labels).write(tmp_path / "old.parquet")
    assert (tmp_path / "old.parquet").read_bytes() == (tmp_path / "m.parquet").read_bytes()
    assert read_manifest(tmp_path / "old.parquet").rows["proposals"].isna().all()
