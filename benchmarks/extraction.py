"""Measures the cost of GOP, quality and codec of the clip store, and how extraction scales with the cores.

    python benchmarks/extraction.py [--videos FILE...]
    python benchmarks/extraction.py --scaling

The first command prints a Markdown table with one row per encoding of the store: clips/s that one core decodes with
decord, sampled as in training (random starts, 32 frames 2 apart), bytes relative to the source, PSNR against the frames
of the source at the same size, and frames/s of writing. Times are CPU seconds, so that other jobs on the machine matter
little. Without --videos, videos are generated. Rows are measured in turn; values are medians over the rounds. The
second command extracts 200 generated videos with 1, 2 and 4 workers.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from originals import CLIP, decord_frames, write_original

from slowfast_core.data.clip_store.encoding import ClipEncoder
from slowfast_core.data.loading.sampling import clip_indices, random_start
from slowfast_core.data.video.decoding import decode_range, probe
from slowfast_core.recipe.load import Store, load_recipe
from slowfast_core.stages.extract import extract
from slowfast_core.stages.flow import STAGE_FUNCTIONS
from slowfast_core.workspace import Workspace

CLIPS_A_VIDEO = 4  # per round
GOPS = (1, 4, 8, 12, 16, 32, 250)
SCALING = {
    "data.name": "scaling",
    "data.synthetic.train_videos": 23,
    "data.synthetic.val_videos": 2,
    "data.synthetic.size": 192,
}


@dataclass
class Way:
    """One encoding of the store and its measurements."""

    name: str
    store: Store
    preset: str = "veryfast"
    files: list[Path] = field(default_factory=list)
    bytes: int = 0
    writing: float = 0.0  # seconds
    errors: list[float] = field(default_factory=list)  # mean squared error of each video
    clips_a_second: list[float] = field(default_factory=list)  # of each round


def ways() -> Iterator[Way]:
    plain = Store(short_side=0, fast_decode=False)
    for gop in GOPS:
        yield Way(f"H.264, GOP {gop}, CRF {plain.crf}", plain.model_copy(update={"gop": gop}))
    for crf in (12, 23):
        yield Way(f"H.264, GOP {plain.gop}, CRF {crf}", plain.model_copy(update={"crf": crf}))
    for preset in ("ultrafast", "fast"):
        yield Way(f"H.264, GOP {plain.gop}, CRF {plain.crf}, preset {preset}", plain, preset)
    yield Way(f"H.264, GOP {plain.gop}, CRF {plain.crf}, fast_decode (the default)", Store(short_side=0))
    for scale in (2, 3, 5):
        yield Way(f"JPEG frames, scale {scale}", Store(short_side=0, codec="jpeg", jpeg_scale=scale))


def write(way: Way, source: Path, file: Path) -> None:
    info = probe(source)
    frames = list(decode_range(source, 0, info.frames))
    started = time.process_time()
    encoder = ClipEncoder(file, way.store, info.fps, info.frames, way.preset)
    for frame in frames:
        encoder.add(frame)
    encoder.finish()
    way.writing += time.process_time() - started
    stored = decode_range(file, 0, info.frames)
    squared = [np.mean((ours.astype(np.float32) - theirs) ** 2) for ours, theirs in zip(stored, frames, strict=True)]
    way.errors.append(float(np.mean(squared)))
    way.files.append(file)
    way.bytes += file.stat().st_size


def sample(files: list[Path], frames: list[int], seed: int) -> float:
    """Clips decoded per second; a round uses the same clips for every encoding."""
    random = np.random.default_rng(seed)
    started = time.process_time()
    for file, count in zip(files, frames, strict=True):
        for _ in range(CLIPS_A_VIDEO):
            decord_frames(file, clip_indices(CLIP, random_start(CLIP, count, random), count))
    return len(files) * CLIPS_A_VIDEO / (time.process_time() - started)


def compare(videos: list[Path], rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sources = videos or [write_original(Path(folder) / f"original_{number}.mp4", number) for number in range(2)]
        frames = [probe(source).frames for source in sources]
        measured = list(ways())
        for number, source in enumerate(sources):
            for turn, way in enumerate(measured):
                write(way, source, Path(folder) / f"{turn}_{number}.mp4")
        plain = Way("the sources", Store(short_side=0), files=list(sources))
        plain.bytes = sum(source.stat().st_size for source in sources)
        for seed in range(rounds):
            for way in (plain, *measured):
                way.clips_a_second.append(sample(way.files, frames, seed))
    print(f"{len(sources)} videos, {sum(frames)} frames; load {os.getloadavg()[0]:.1f}\n")
    columns = ["store", "clips/s per core", "relative to the sources", "bytes relative to the sources"]
    columns += ["PSNR (dB)", "frames/s written per core"]
    print(f"| {' | '.join(columns)} |")
    print("| --- | --- | --- | --- | --- | --- |")
    for way in (plain, *measured):
        speed, ratio = (statistics.median(rates) for rates in (way.clips_a_second, relative_speeds(way, plain)))
        psnr = f"{np.mean(10 * np.log10(255**2 / np.array(way.errors))):.1f}" if way.errors else ""
        writing = f"{sum(frames) / way.writing:.0f}" if way.writing else ""
        print(f"| {way.name} | {speed:.1f} | {ratio:.2f} | {way.bytes / plain.bytes:.2f} | {psnr} | {writing} |")


def relative_speeds(way: Way, plain: Way) -> list[float]:
    return [ours / theirs for ours, theirs in zip(way.clips_a_second, plain.clips_a_second, strict=True)]


def scaling(rounds: int) -> None:
    recipe = load_recipe("demo", [f"{key}={value}" for key, value in SCALING.items()])
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: []}
    cpu: dict[int, float] = {}
    loads = []
    with tempfile.TemporaryDirectory() as folder:
        at = Workspace.at(folder)
        for stage in ("ingest", "validate"):
            STAGE_FUNCTIONS[stage](recipe, at)
        ingested, validated = (at.data("scaling", stage) for stage in ("ingest", "validate"))
        for turn in range(rounds):
            for workers in seconds:
                loads.append(os.getloadavg()[0])
                before = cpu_seconds()
                output = at.root / f"{workers}_{turn}"
                result = extract(recipe.data, recipe.clip, ingested, validated, output, workers)
                cpu[workers] = cpu_seconds() - before
                seconds[workers].append(result.seconds)
    print(f"{result.summary}; best of {rounds}; load {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores\n")
    print("| workers | seconds | speed-up | of linear | CPU seconds |")
    print("| --- | --- | --- | --- | --- |")
    one_worker = min(seconds[1])
    for workers, taken in seconds.items():
        gain = one_worker / min(taken)
        print(f"| {workers} | {min(taken):.1f} | {gain:.2f} | {100 * gain / workers:.0f} % | {cpu[workers]:.1f} |")


def cpu_seconds() -> float:
    """CPU seconds of this process and of the workers that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, nargs="+", default=[])
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.scaling:
        scaling(options.rounds)
    else:
        compare(options.videos, options.rounds)


if __name__ == "__main__":
    main()
