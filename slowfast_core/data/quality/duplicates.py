"""Finds duplicates by content: files with the same SHA-256, whatever their names."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pandas as pd

from slowfast_core.data.quality.inspection import KEY_MARGIN_SECONDS


def leaks(rows: pd.DataFrame) -> list[str | None]:
    """For each `train` row, the `val` row whose segment of the same file overlaps, if any; `val` rows have priority."""
    of_val = defaultdict(list)
    for row in rows[rows["split"] == "val"].itertuples():
        of_val[row.sha256].append((*_seconds(row), str(row.id)))

    def leak(row: Any) -> str | None:
        if row.split != "train" or not isinstance(row.sha256, str):
            return None
        first, last = _seconds(row)
        return next((f"val ({id_})" for start, end, id_ in of_val[row.sha256] if start < last and first < end), None)

    return [leak(row) for row in rows.itertuples()]


def repeats(rows: pd.DataFrame) -> list[str | None]:
    """For each row, the id of an earlier row of the same split with the same segment of the same file, if any."""
    first: dict[tuple[Any, ...], str] = {}
    found: list[str | None] = []
    for row in rows.itertuples():
        segment = (row.split, row.sha256, *_seconds(row))
        found.append(first.get(segment) if isinstance(row.sha256, str) else None)
        first.setdefault(segment, str(row.id))
    return found


def shared_videos(rows: pd.DataFrame) -> list[str | None]:
    """For each `train` row, "val" if its source video is also in `val`: other moments of a video look similar."""
    of_val = set(rows.loc[rows["split"] == "val", "video"])
    shared = (rows["split"] == "train") & rows["video"].isin(of_val)
    return ["val" if of_row else None for of_row in shared]


def _seconds(row: Any) -> tuple[float, float]:
    if not math.isnan(row.key):
        return row.key - KEY_MARGIN_SECONDS, row.key + KEY_MARGIN_SECONDS
    return row.start, math.inf if math.isnan(row.end) else row.end
