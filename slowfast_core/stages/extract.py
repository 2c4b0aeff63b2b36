"""The extract stage: writes the clip store, encoded for fast and exact random access. Its DVC hash is the data version.

Each row has a file; with boxes, each source video has one file, which covers its annotated key frames. Each source is
decoded once, however many files it gives, on the cores of this machine or of a Ray cluster; the bytes are the same.
Optical flow, if requested, is stored next to each clip.

Clips that cannot be written because of the content of their source are left out, and listed in the store with the
reason. Failures that depend on the machine (time, memory, disk, a changed source) stop the stage instead, so that the
same inputs always give the same store.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from slowfast_core.data.clip_store.cutting import Cut, LeftOut, Written, write_clips
from slowfast_core.data.clip_store.optical_flow import flow_file
from slowfast_core.data.manifest import Manifest, read_manifest
from slowfast_core.data.quality.report import QUARANTINE, quarantined, write_quarantine
from slowfast_core.data.versions.track import data_version
from slowfast_core.errors import InputError
from slowfast_core.files import full_disk_in_one_line, inside
from slowfast_core.once import StageResult, finished, read_result, run_once
from slowfast_core.parallel.processes import Failed, run_isolated
from slowfast_core.progress import progress
from slowfast_core.recipe.load import Clip, Data, Store, Validation

MANIFEST = "manifest.parquet"
STORE, CLIPS, SCRATCH = "store", "clips", "scratch"
MARGIN_SECONDS = 1.0  # with boxes: margin on each side beyond half a clip span
FIRST_FIELDS = {"short_side", "fps", "gop", "crf", "fast_decode"}  # fields of Store that always count as inputs


def extract(
    data: Data, clip: Clip, ingested: Path, validated: Path, output: Path, workers: int = 0, cluster: str | None = None
) -> StageResult:
    """Write the clip store of the good rows in `validated`, with `workers` processes (0: one per core).

    `cluster` is the address of a Ray cluster to run on instead, on all its cores. Its nodes must see the workspace, and
    the source if it is a folder, under the same paths. Raises InputError when too many clips cannot be written.
    """

    def work(partial: Path) -> Mapping[str, Any]:
        manifest = read_manifest(validated / MANIFEST)
        files = _files(data, manifest.rows)
        cuts = [_cut(data, clip, manifest.rows.iloc[rows], ingested, name, partial) for name, rows in files.items()]
        with full_disk_in_one_line(partial):
            outcomes = _write_all(cuts, partial, workers, cluster, data.validation)
            cut_of = {row: cut for cut, file_rows in zip(cuts, files.values(), strict=True) for row in file_rows}
            outcome_of = {row: outcomes[cut_of[row].target] for row in sorted(cut_of)}
            left_out = {row: [outcome.reason] for row, outcome in outcome_of.items() if isinstance(outcome, LeftOut)}
            _accept(data, manifest, left_out, partial, output)
            written = {row: outcome for row, outcome in outcome_of.items() if isinstance(outcome, Written)}
            rows = [_row(data, manifest.rows.iloc[row], cut_of[row], file) for row, file in written.items()]
            table = pd.DataFrame(rows)
            Manifest(table, manifest.labels).write(partial / STORE / MANIFEST)
        version = data_version(partial / STORE)
        megabytes = sum(file.bytes for file in outcomes.values() if isinstance(file, Written)) / 1e6
        listed = f"; {len(left_out)} left out, see {STORE}/{QUARANTINE}" if left_out else ""
        return {
            "outputs": {"store": STORE},
            "summary": f"{len(table)} clips, {megabytes:.1f} MB, data version {version[:8]}…{listed}",
            "digest": version,
            "data_version": version,
            "versions": read_result(validated).versions,
            "metrics": {"clips": len(table), "files": len(outcomes), "left_out": len(left_out)},
        }

    return run_once("extract", output, extract_inputs(data, clip, validated), work)


def extracted(data: Data, clip: Clip, validated: Path, output: Path) -> StageResult | None:
    """The store in `output` that `extract` would find to be of these inputs, so that it had nothing to do."""
    return finished("extract", output, extract_inputs(data, clip, validated))


def extract_inputs(data: Data, clip: Clip, validated: Path) -> dict[str, Any]:
    """Everything the store depends on."""
    return {
        "validated": read_result(validated).digest,
        "format": data.format,
        "store": _fields(data.store),
        "span": _span(clip) if data.annotation_format.has_boxes else None,
    }


def _span(clip: Clip) -> int | list[float]:
    """The length of a clip: in frames of the video, or in frames of the rate `clip.fps`."""
    return clip.span if clip.fps is None else [clip.span, clip.fps]


def _fields(store: Store) -> dict[str, Any]:
    """Fields that identify the store; fields that were added later count only if they are not at their default."""
    return store.model_dump(include=FIRST_FIELDS) | store.model_dump(exclude=FIRST_FIELDS, exclude_defaults=True)


def _files(data: Data, rows: pd.DataFrame) -> dict[str, list[int]]:
    """The rows in each file of the store; a file is named by its first row."""
    if not data.annotation_format.has_boxes:
        groups = [[index] for index in range(len(rows))]
    else:
        groups = [list(indices) for indices in rows.groupby("path", sort=False).indices.values()]
    return {str(rows["id"].iloc[group[0]]): group for group in groups}


def _cut(data: Data, clip: Clip, rows: pd.DataFrame, ingested: Path, name: str, partial: Path) -> Cut:
    first = rows.iloc[0]
    source = inside(ingested, first["path"])
    fps = float(first["fps"])
    target = partial / STORE / CLIPS / f"{name}.mp4"
    if not data.annotation_format.has_boxes:
        start = round(first["start"] * fps)
        stop = needed = start + int(first["frames"])
    else:
        margin = clip.span / 2 / (clip.fps or data.store.fps or fps) + MARGIN_SECONDS
        start = max(math.floor((rows["key"].min() - margin) * fps), 0)
        stop = math.ceil((rows["key"].max() + margin) * fps) + 1
        needed = math.floor(rows["key"].max() * fps)
    sha256 = first["sha256"] if isinstance(first["sha256"], str) else None
    return Cut(source, target, partial / SCRATCH, data.store, fps, start, stop, needed, sha256)


def _row(data: Data, row: pd.Series[Any], cut: Cut, written: Written) -> pd.Series[Any]:
    """The row of the store's manifest; its segment is the whole file."""
    info = written.info
    row = row.copy()
    row["path"], row["start"], row["end"] = f"{CLIPS}/{cut.target.name}", 0.0, info.seconds
    row["frames"], row["fps"], row["width"], row["height"] = info.frames, info.fps, info.width, info.height
    row["bytes"], row["sha256"] = written.bytes, written.sha256
    if data.annotation_format.has_boxes:
        row["key"] = row["key"] - cut.start / cut.fps
    return row


def _accept(data: Data, manifest: Manifest, left_out: Mapping[int, list[str]], partial: Path, output: Path) -> None:
    """List the clips that are left out in the store. Raises InputError when there are too many."""
    rejected = output.with_name(f"{output.name}.rejected")
    shutil.rmtree(rejected, ignore_errors=True)
    (partial / STORE / QUARANTINE).unlink(missing_ok=True)
    if not left_out:
        return
    total, limit, first = len(manifest.rows), data.validation.max_bad_share, next(iter(left_out))
    rows = manifest.rows.drop(index=list(left_out))
    lost = sorted({*manifest.rows["split"]} - {*rows["split"]})
    if len(left_out) <= limit * total and not lost:
        write_quarantine(quarantined(manifest.rows, left_out), partial / STORE / QUARANTINE)
        return
    rejected.mkdir()
    write_quarantine(quarantined(manifest.rows, left_out), rejected / QUARANTINE)
    what = f"{len(left_out)} of {total} clips cannot be extracted ({len(left_out) / total:.1%}, allowed {limit:.1%})"
    what = f"split {lost[0]!r} has no clip left, {what}" if lost else what
    what += f", the first: cannot extract {manifest.rows['id'].iloc[first]}: {left_out[first][0]}"
    raise InputError(what, rejected / QUARANTINE, "fix the source, or raise data.validation.max_bad_share")


def _write_all(
    cuts: list[Cut], partial: Path, workers: int, cluster: str | None, limits: Validation
) -> dict[Path, Written | LeftOut]:
    """The outcome for each target. Files that a killed run finished are kept."""
    found: dict[Path, Written | LeftOut] = {}
    shutil.rmtree(partial / SCRATCH, ignore_errors=True)
    for folder in (partial / STORE / CLIPS, partial / SCRATCH):
        folder.mkdir(parents=True, exist_ok=True)
    with progress("extract", len(cuts)) as advance:
        for group, outcome in _outcomes(_by_source(cuts), workers, cluster, limits):
            if isinstance(outcome, InputError):
                raise outcome
            found |= _left_out(group, outcome) if isinstance(outcome, Failed) else _each(group, outcome)
            advance(len(group), group[0].target.stem)
    shutil.rmtree(partial / SCRATCH)
    return found


def _each(group: list[Cut], outcomes: list[Written | LeftOut]) -> dict[Path, Written | LeftOut]:
    return {cut.target: outcome for cut, outcome in zip(group, outcomes, strict=True)}


def _left_out(group: list[Cut], failed: Failed) -> dict[Path, Written | LeftOut]:
    """Leave out all clips of a source that crashed its worker.

    Raises InputError for a failure of another kind, because another machine might succeed.
    """
    if not failed.crashed:
        what = f"cannot extract {group[0].target.stem}: {failed.reason}"
        fix = "remove the video and ingest again, or raise data.validation.decode_timeout_seconds or .decode_memory_mb"
        raise InputError(what, group[0].source, fix)
    for cut in group:
        cut.target.unlink(missing_ok=True)
        flow_file(cut.target).unlink(missing_ok=True)
    return {cut.target: LeftOut(failed.reason) for cut in group}


def _by_source(cuts: list[Cut]) -> list[list[Cut]]:
    """The cuts grouped by source, the longest group first, so that all workers finish at about the same time."""
    sources: dict[Path, list[Cut]] = {}
    for cut in cuts:
        sources.setdefault(cut.source, []).append(cut)
    return sorted(sources.values(), key=lambda group: -sum(cut.stop - cut.start for cut in group))


def _outcomes(
    items: list[list[Cut]], workers: int, cluster: str | None, limits: Validation
) -> Iterator[tuple[list[Cut], list[Written | LeftOut] | InputError | Failed]]:
    seconds = limits.decode_timeout_seconds
    if cluster is None:
        return run_isolated(write_clips, items, workers, seconds, limits.decode_memory_mb)
    from slowfast_core.parallel.ray_tasks import run_on_cluster

    return run_on_cluster(write_clips, items, cluster, seconds)
