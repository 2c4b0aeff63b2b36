"""Extract: the clip store, encoded once so that random access is fast and exact. Its DVC hash is the data version.

Kinetics: one file a row. AVA: one file a source video, around its annotated key frames. Every file is written from the
source's frames in order, at a constant rate, with a short closed GOP, no B-frames, no edit list and no audio; its bytes
do not depend on how many workers write the store. Its optical flow, where asked for, is beside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slowfast_core.data.decoding import DecodeError, VideoInfo, decode_range, probe
from slowfast_core.data.flow import flow_file, write_flow
from slowfast_core.data.manifest import Manifest, read_manifest
from slowfast_core.data.versions import data_version
from slowfast_core.data.workers import Failed, run_isolated
from slowfast_core.errors import InputError
from slowfast_core.files import inside, sha256_of, sync
from slowfast_core.progress import progress
from slowfast_core.recipe import Clip, Data, Store
from slowfast_core.stage import StageResult, read_result, run_once

MANIFEST = "manifest.parquet"
STORE, CLIPS, SCRATCH = "store", "clips", "scratch"
MARGIN_SECONDS = 1.0  # AVA: kept beyond half a clip span on each side
LATER_FIELDS = ("flow", "every", "fast_decode")  # of Store: at their defaults, stores older than them stay


@dataclass(frozen=True)
class Cut:
    """One file of the store: source frames `start` to `stop`, of which those before `needed` must decode."""

    source: Path
    target: Path
    scratch: Path
    store: Store
    fps: float  # of the source
    start: int
    stop: int
    needed: int


@dataclass(frozen=True)
class Written:
    info: VideoInfo
    bytes: int
    sha256: str


def extract(data: Data, clip: Clip, ingested: Path, validated: Path, output: Path, workers: int = 0) -> StageResult:
    """Write the clip store of the good rows of `validated`. `workers` 0 takes all cores. Raises InputError."""
    inputs = {
        "validated": read_result(validated).digest,
        "format": data.format,
        "store": _fields(data.store),
        "span": clip.span if data.format == "ava" else None,
    }

    def work(partial: Path) -> Mapping[str, Any]:
        manifest = read_manifest(validated / MANIFEST)
        files = _files(data, manifest.rows)
        cuts = [_cut(data, clip, manifest.rows.iloc[rows], ingested, name, partial) for name, rows in files.items()]
        written = _write_all(cuts, partial, workers)
        rows = [
            _row(data, manifest.rows.iloc[row], cut, written[cut.target])
            for cut, of_file in zip(cuts, files.values(), strict=True)
            for row in of_file
        ]
        table = pd.DataFrame(rows).sort_index()
        Manifest(table, manifest.labels).write(partial / STORE / MANIFEST)
        version = data_version(partial / STORE)
        megabytes = sum(file.bytes for file in written.values()) / 1e6
        return {
            "outputs": {"store": STORE},
            "summary": f"{len(table)} clips, {megabytes:.1f} MB, data version {version[:8]}…",
            "digest": version,
            "data_version": version,
            "metrics": {"clips": len(table), "files": len(cuts)},
        }

    return run_once("extract", output, inputs, work)


def _fields(store: Store) -> dict[str, Any]:
    defaults = {name for name in LATER_FIELDS if getattr(store, name) == Store.model_fields[name].default}
    return store.model_dump(exclude=defaults)


def _files(data: Data, rows: pd.DataFrame) -> dict[str, list[int]]:
    """The store's files and the rows that each holds; a file has the name of its first row."""
    if data.format == "kinetics":
        groups = [[index] for index in range(len(rows))]
    else:
        groups = [list(indices) for indices in rows.groupby("path", sort=False).indices.values()]
    return {str(rows["id"].iloc[group[0]]): group for group in groups}


def _cut(data: Data, clip: Clip, rows: pd.DataFrame, ingested: Path, name: str, partial: Path) -> Cut:
    first = rows.iloc[0]
    source = inside(ingested, first["path"])
    fps = float(first["fps"])
    target = partial / STORE / CLIPS / f"{name}.mp4"
    if data.format == "kinetics":
        start = round(first["start"] * fps)
        stop = needed = start + int(first["frames"])
    else:
        margin = clip.span / 2 / (data.store.fps or fps) + MARGIN_SECONDS
        start = max(math.floor((rows["key"].min() - margin) * fps), 0)
        stop = math.ceil((rows["key"].max() + margin) * fps) + 1
        needed = math.floor(rows["key"].max() * fps)
    return Cut(source, target, partial / SCRATCH / target.name, data.store, fps, start, stop, needed)


def _row(data: Data, row: pd.Series[Any], cut: Cut, written: Written) -> pd.Series[Any]:
    """The row as the store has it: its segment is the whole file."""
    info = written.info
    row = row.copy()
    row["path"], row["start"], row["end"] = f"{CLIPS}/{cut.target.name}", 0.0, info.seconds
    row["frames"], row["fps"], row["width"], row["height"] = info.frames, info.fps, info.width, info.height
    row["bytes"], row["sha256"] = written.bytes, written.sha256
    if data.format == "ava":
        row["key"] = row["key"] - cut.start / cut.fps
    return row


def _write_all(cuts: list[Cut], partial: Path, workers: int) -> dict[Path, Written]:
    """Files that a killed run finished are kept."""
    written: dict[Path, Written] = {}
    for folder in (partial / STORE / CLIPS, partial / SCRATCH):
        folder.mkdir(parents=True, exist_ok=True)
    with progress("extract", len(cuts)) as advance:
        for cut, outcome in run_isolated(write_clip, cuts, workers):
            if isinstance(outcome, Failed):
                raise InputError(f"cannot extract {cut.target.stem}: {outcome.reason}", cut.source, "validate again")
            written[cut.target] = outcome
            advance(1, cut.target.stem)
    for left in (partial / SCRATCH).iterdir():
        left.unlink()
    (partial / SCRATCH).rmdir()
    return written


def write_clip(cut: Cut) -> Written:
    """Write the file of `cut`, and its flow, unless they are there, whole. Runs in a worker. Raises DecodeError."""
    if not cut.target.exists():
        # Encoded outside the store: what a killed worker leaves must not become part of the data version.
        written = _encode(cut)
        if (found := probe(cut.scratch).frames) != written:
            raise DecodeError(cut.source, f"{found} frames in the store instead of {written}")
        _move(cut.scratch, cut.target)
    if cut.store.flow and not flow_file(cut.target).exists():
        write_flow(cut.target, flow_file(cut.scratch))
        _move(flow_file(cut.scratch), flow_file(cut.target))
    return Written(probe(cut.target), cut.target.stat().st_size, sha256_of(cut.target))


def _move(scratch: Path, target: Path) -> None:
    sync(scratch)
    scratch.replace(target)


def _encode(cut: Cut) -> int:
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for all frames: it keeps its tables
    store = cut.store
    rate = Fraction(store.fps or cut.fps).limit_denominator(10000) / store.every
    written = 0
    with av.open(str(cut.scratch), "w", options={"movflags": "+faststart"}) as container:
        # One thread: the bytes do not depend on the machine. The preset "fast" takes three times as long, for as many
        # bytes and 1 dB more.
        options = {"crf": str(store.crf), "preset": "veryfast", "threads": "1", "x264-params": "open-gop=0"}
        if store.fast_decode:
            options["tune"] = "fastdecode"
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", store.gop, 0
        frames = _resampled(_source_frames(cut), cut.stop - cut.start, cut.fps, store.fps or cut.fps)
        for frame in itertools.islice(frames, 0, None, store.every):
            height, width = _size(frame, store.short_side)
            if not written:
                stream.width, stream.height = width, height
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = reformatter.reformat(picture, width, height, "yuv420p", interpolation="BICUBIC", threads=1)
            picture.pts, picture.time_base = written, 1 / rate
            container.mux(stream.encode(picture))
            written += 1
        container.mux(stream.encode())
    return written


def _source_frames(cut: Cut) -> Iterator[NDArray[np.uint8]]:
    """AVA: a margin that does not decode, or that the video does not have, is left out."""
    number = cut.start
    try:
        for frame in decode_range(cut.source, cut.start, min(cut.stop, probe(cut.source).frames)):
            yield frame
            number += 1
    except DecodeError:
        if number < cut.needed:
            raise


def _resampled(
    frames: Iterator[NDArray[np.uint8]], count: int, fps: float, wanted: float
) -> Iterator[NDArray[np.uint8]]:
    """For each of the wanted times the nearest of the `count` frames."""
    total = max(round(count * wanted / fps), 1)
    done = 0
    for number, frame in enumerate(frames):
        while done < total and min(round(done * fps / wanted), count - 1) == number:
            yield frame
            done += 1


def _size(frame: NDArray[np.uint8], short_side: int) -> tuple[int, int]:
    """Height and width with that short side (0: as it is), even as the codec needs them."""
    height, width, _ = frame.shape
    scale = short_side / min(height, width) if short_side else 1.0
    return max(2 * round(height * scale / 2), 2), max(2 * round(width * scale / 2), 2)
