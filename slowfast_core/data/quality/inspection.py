"""Decodes every file of a manifest in worker processes with a time and a memory limit, and checks its segments."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slowfast_core.data.video.decoding import inspect
from slowfast_core.data.video.frames_folder import is_frames
from slowfast_core.data.video.info import DecodeError, Inspection, VideoInfo
from slowfast_core.files import inside
from slowfast_core.json_lines import JsonLines, read_lines
from slowfast_core.parallel.processes import Failed, run_isolated
from slowfast_core.progress import progress
from slowfast_core.recipe.load import Validation

SLACK_SECONDS = 0.5  # tolerated excess of a segment over the end of its video: annotations are coarse
KEY_MARGIN_SECONDS = 1.0  # AVA: must decode before and after a key frame
NAMED_SECONDS = re.compile(r"_(\d{6}(?:\.\d+)?)_(\d{6}(?:\.\d+)?)(?:-\d+)?$")  # Kinetics: name of a pre-cut clip


@dataclass(frozen=True)
class Segment:
    """Decoded properties of a segment, NaN where the file does not record them; `problem` is None if it is good."""

    file_found: bool
    frames: float = math.nan
    fps: float = math.nan
    width: float = math.nan
    height: float = math.nan
    length_share: float = math.nan  # decoded seconds / expected seconds (from the annotation or the header)
    problem: str | None = None


def inspect_segments(rows: pd.DataFrame, root: Path, limits: Validation, journal: Path) -> pd.DataFrame:
    """Return one Segment per row, in order. Files that a killed run recorded in `journal` are not decoded again."""
    until = _seconds_needed(rows)
    present = {path: inside(root, path) for path in until if path}
    present = {path: file for path, file in present.items() if file.exists() and file.is_dir() == is_frames(file)}
    found = _inspect_files({path: (file, until[path]) for path, file in present.items()}, limits, journal)
    return pd.DataFrame([_segment(row, found.get(str(row.path))) for row in rows.itertuples()], index=rows.index)


def _seconds_needed(rows: pd.DataFrame) -> dict[str, float]:
    """The time in seconds up to which each file must decode."""
    needed: dict[str, float] = {}
    for row in rows.itertuples():
        end = _required(row)[1]
        needed[str(row.path)] = max(needed.get(str(row.path), 0.0), math.inf if math.isnan(end) else end)
    return needed


def _required(row: Any) -> tuple[float, float]:
    if math.isnan(row.key):
        return row.start, row.end
    return max(row.key - KEY_MARGIN_SECONDS, 0.0), row.key + KEY_MARGIN_SECONDS


def _inspect_files(
    files: dict[str, tuple[Path, float]], limits: Validation, journal: Path
) -> dict[str, Inspection | Failed]:
    found: dict[str, Inspection | Failed] = dict(_recorded(journal))
    todo = [(path, *target) for path, target in files.items() if path not in found]
    note = JsonLines(journal)
    with progress("validate", len(files)) as advance:
        advance(len(files) - len(todo))
        seconds, megabytes = limits.decode_timeout_seconds, limits.decode_memory_mb
        for (path, _, _), outcome in run_isolated(_inspect, todo, limit_seconds=seconds, limit_mb=megabytes):
            found[path] = outcome
            if isinstance(outcome, Inspection):  # failures are tried again: a file may be repaired in place
                note(path=path, **asdict(outcome))
            advance(1, path)
    return found


def _inspect(item: tuple[str, Path, float]) -> Inspection | Failed:
    """Decode one file in a worker process."""
    try:
        return inspect(item[1], item[2])
    except DecodeError as error:
        return Failed(error.reason)


def _recorded(journal: Path) -> dict[str, Inspection]:
    noted: dict[str, Inspection] = {}
    for note in read_lines(journal):
        path, info = note.pop("path"), VideoInfo(**note.pop("info"))
        damaged = tuple((first, stop) for first, stop in note.pop("damaged"))
        noted[path] = Inspection(info, damaged=damaged, **note)
    return noted


def _segment(row: Any, outcome: Inspection | Failed | None) -> Segment:
    if outcome is None:
        return Segment(file_found=False)
    if isinstance(outcome, Failed):
        return Segment(True, problem=f"cannot decode: {outcome.reason}")
    info = outcome.info
    start, end = _required(row)
    first, stop = info.frame_range(start, end)
    problem = _problem(row, outcome)
    counted = problem is None and not end <= start  # otherwise the number of frames is not a separate problem
    frames = max(stop - first, 0) if counted else math.nan
    share = _length_share(row, outcome) if problem is None else math.nan
    return Segment(True, frames, info.fps, info.width, info.height, share, problem)


def _length_share(row: Any, found: Inspection) -> float:
    """Decoded / expected length of a row that lasts to the end of its file; NaN for segments with an end."""
    if not (math.isnan(row.key) and math.isnan(row.end)):
        return math.nan
    named = NAMED_SECONDS.search(str(row.id))
    expected = float(named[2]) - float(named[1]) if named else found.claimed_seconds - row.start
    return (found.info.seconds - row.start) / expected if expected > 0 else math.nan


def _problem(row: Any, found: Inspection) -> str | None:
    info = found.info
    if row.key > info.seconds + SLACK_SECONDS:
        return f"the key frame at {row.key:g} s is after the end of the video ({info.seconds:.1f} s)"
    start, end = _required(row)
    if start >= info.seconds or (math.isnan(row.key) and end > info.seconds + SLACK_SECONDS):
        return f"the segment {start:g}-{end:g} s is after the end of the video ({info.seconds:.1f} s)"
    first, stop = info.frame_range(start, end)
    if found.decoded < stop:
        return f"decodes only {max(found.decoded - first, 0)} of {stop - first} frames: {found.error}"
    damaged = sum(max(min(stop, b) - max(first, a), 0) for a, b in found.damaged)
    return f"{damaged} of {stop - first} frames are damaged" if damaged else None
