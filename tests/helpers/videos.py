"""Small videos and ingested data sets for the tests of the data stages."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slowfast_core.data.manifest import SCHEMA, Manifest, read_manifest
from slowfast_core.files import sha256_of
from slowfast_core.once import run_once
from slowfast_core.recipe.load import Clip, Data, Store, Validation
from slowfast_core.stages.extract import extract
from slowfast_core.stages.ingest import ingest
from slowfast_core.stages.validate import validate

Frames = NDArray[np.uint8]


def moving_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> Frames:
    """A smooth moving pattern: each frame differs from the next, and compression changes it little."""
    rng = np.random.default_rng(seed)
    tint, phase = rng.uniform(40, 90, 3), rng.uniform(0, 6)
    y, x = np.mgrid[0:height, 0:width] / 9.0
    waves = [np.sin(x + y / 2 + time / 3 + phase) for time in range(count)]
    return np.stack([128 + wave[..., None] * tint for wave in waves]).clip(0, 255).astype(np.uint8)


def write_video(
    path: Path, frames: Frames, fps: int = 10, gop: int = 10, codec: str = "libx264", b_frames: int = 2
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "10"} if codec == "libx264" else {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", gop, b_frames
        stream.thread_count = 1
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def break_frame(path: Path, number: int, share: float = 0.5) -> None:
    """Overwrite the last `share` of the frame's compressed bytes."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    position, size = packets[number].pos, packets[number].size
    data = bytearray(path.read_bytes())
    broken = round(size * share)
    data[position + size - broken : position + size] = b"\x5a" * broken
    path.write_bytes(data)


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def kinetics_row(
    id_: str, path: str, split: str = "train", label: int = 0, start: float = 0.0, end: float = np.nan
) -> dict[str, Any]:
    return {
        "id": id_,
        "video": id_,
        "path": path,
        "split": split,
        "labels": [label],
        "start": start,
        "end": end,
        "key": np.nan,
    }


def ava_row(
    video: str, path: str, second: int, split: str = "train", boxes: Any = ((0.1, 0.1, 0.5, 0.9),)
) -> dict[str, Any]:
    return {
        **kinetics_row(f"{video}_{second:04d}", path, split, start=float(second), end=float(second)),
        "video": video,
        "second": second,
        "key": float(second),
        "boxes": [list(box) for box in boxes],
        "box_labels": [[0] for _ in boxes],
    }


def ingested(root: Path, rows: list[dict[str, Any]], labels: tuple[str, ...] = ("left", "right")) -> Path:
    """Write `root/ingest` as the ingest stage does, with these rows; moves the files of `root/videos` there."""

    def work(partial: Path) -> dict[str, Any]:
        (root / "videos").rename(partial / "videos")
        for row in rows:
            file = partial / row["path"]
            exists = file.is_file()
            row["sha256"], row["bytes"] = (sha256_of(file), file.stat().st_size) if exists else (None, None)
        table = pd.DataFrame([{name: row.get(name) for name in SCHEMA.names} for row in rows], dtype=object)
        Manifest(table, labels).write(partial / "manifest.parquet")
        return {"digest": sha256_of(partial / "manifest.parquet"), "outputs": {"manifest": "manifest.parquet"}}

    run_once("ingest", root / "ingest", {"rows": repr(rows)}, work)
    return root / "ingest"


def official_csv(files: list[Path], target: Path) -> None:
    """Write an official csv that lists each file as a pre-cut clip; every fourth one is in `val`."""
    lines = ["label,youtube_id,time_start,time_end,split"]
    for number, file in enumerate(files):
        video, start, end = file.stem.rsplit("_", 2)
        lines.append(f"class {number % 3},{video},{int(start)},{int(end)},{'val' if number % 4 == 3 else 'train'}")
    target.write_text("\n".join(lines) + "\n")


def whole_clip_name(file: Path) -> Path:
    """The official file name of a clip of four seconds."""
    return file.with_name(f"{file.stem}_000000_000004{file.suffix}")


@dataclass(frozen=True)
class Staged:
    """Results of the data stages: rows of the clip store, and the reason of each quarantined row by its id."""

    source: Path
    store: Path
    rows: pd.DataFrame
    quarantine: dict[str, str]


def run_data_stages(source: Path, root: Path, crf: int = 12, **limits: Any) -> Staged:
    """Run ingest, validate and extract on the files of `source` that `source/annotations.csv` lists."""
    validation = Validation(max_bad_share=1.0, min_frames=1, min_length_share=0, **limits)
    data = Data(name="some", source=str(source), validation=validation, store=Store(short_side=0, crf=crf))
    ingest(data, root / "generated", root / "ingest")
    validate(data, root / "ingest", root / "validate")
    extract(data, Clip(), root / "ingest", root / "validate", root / "extract", workers=2)
    bad = pd.read_csv(root / "validate" / "quarantine.csv", keep_default_na=False)
    quarantine = dict(zip(bad["id"], bad["reason"], strict=True))
    store = root / "extract" / "store"
    return Staged(source, store, read_manifest(store / "manifest.parquet").rows, quarantine)
