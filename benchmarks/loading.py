"""Measures how fast clips and videos load: clip store, originals, a plain decord loop, MMAction2 and PyTorchVideo.

    taskset -c 3 python benchmarks/loading.py [--videos DIR] [--repeats 15] [--only training|views]

Prints two Markdown tables. Training: a 64-frame span (32 frames at stride 2), jitter 256-320, crop 224, flip. Views:
10 clips x 3 crops of 256 per video. Interleaved on one core; medians over many clips, in CPU seconds.

`loaded` is the output of the loader: ours returns uint8 frames, which the device renders; the plain loop returns frames
that are not cropped either; the peers return what their loaders return. `rendered` includes everything on this core:
float32, cropped, resized, normalized. `decoding` is the share of `loaded` that FFmpeg takes to open the same file and
decode the same frames. Originals are generated (H.264, 340x256, 30 fps, 10 s, GOP 250, B-frames), or the
videos of DIR that are about that large.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import decord
import numpy as np
import torch
from originals import CLIP, decord_frames, extracted, usable, write_original
from plain_loading import (
    CROPS,
    PIXELS,
    SIZE,
    all_normalised,
    crop_and_resize,
    cropped,
    one_view,
    torchvideo,
    torchvideo_view,
    whole_pictures,
    whole_views,
)

from slowfast_core.data.loading.dataset import TrainingClips
from slowfast_core.data.loading.render import render
from slowfast_core.data.loading.sampling import (
    Pick,
    clip_indices,
    random_start,
    random_view,
    spatial_views,
    uniform_starts,
)
from slowfast_core.data.manifest import read_manifest
from slowfast_core.data.video.decoding import probe
from slowfast_core.evaluation.scoring import Scorer
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.recipe.load import Recipe, Store, Train, parse_recipe
from slowfast_core.training.ray_workers import KEEP_MEMORY
from slowfast_core.workspace import Workspace

TRAIN, CLIPS = Train(), 10
STORES = {
    "no fast_decode": Store(fast_decode=False),
    "no fast_decode, every 2": Store(fast_decode=False, every=2),
    "the default": Store(),
    "every 2": Store(every=2),
    "320 lines": Store(short_side=320),
}
PLAIN, BY_VIEW, WHOLE = (
    "decord loop, originals",
    "decord, one decode per view, originals",
    "MMAction2's method, originals",
)
TORCHVIDEO = "PyTorchVideo (PyAV), originals"
Stores = dict[str, tuple[Path, Recipe]]
Case = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[], Any] | None]  # load, render, decode only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", choices=["training", "views"])
    parser.add_argument("--workspace", type=Path, help="keep the stores in this folder for the next run")
    options = parser.parse_args()
    if not KEEP_MEMORY.items() <= os.environ.items():  # the settings of our training, for all loaders
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    decord.logging.set_level(decord.logging.QUIET)
    with tempfile.TemporaryDirectory() as scratch:
        at = Workspace.at(options.workspace or Path(scratch))
        generated = [at.root / "originals" / f"v{n}.mp4" for n in range(4)]
        for number, path in enumerate(generated if not options.videos else []):
            if not path.exists():
                write_original(path, number)
        originals = sorted(path for path in options.videos.iterdir() if usable(path)) if options.videos else generated
        stores = {name: extracted(originals, store, at, n) for n, (name, store) in enumerate(STORES.items())}
        if options.only != "views":
            times = measure(partial(training_cases, originals, stores), options.repeats * len(originals))
            table("Training clips", "clips", times, [PLAIN])
        if options.only != "training":
            network = tiny_network(Path(scratch))
            times = measure(partial(view_cases, originals, stores, network), options.repeats)
            table("30 views", "videos", times, [WHOLE, BY_VIEW])


def measure(cases: Callable[[int], Iterable[tuple[str, Case]]], rounds: int) -> dict[str, list[tuple[float, ...]]]:
    """Seconds to load, to render and to only decode, for each case and round; the first round is a warm-up."""
    times: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for number in range(rounds + 1):
        for name, (load, rendered, decode) in cases(number):
            loaded, seconds = timed(load)
            _, more = timed(partial(rendered, loaded))
            only = timed(decode)[1] if decode else 0.0
            if number:
                times[name].append((seconds, more, only, size_of(loaded)))
    return times


def table(title: str, unit: str, times: dict[str, list[tuple[float, ...]]], bases: list[str]) -> None:
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    against = " | ".join(
        f"relative to {base.partition(',')[0]}" if base != BY_VIEW else "relative to one decode per view"
        for base in bases
    )
    print(f"\n| {title} | loaded ({unit}/s) | {against} | rendered ({unit}/s) | {against} | decoding | MB |")
    print("| --- |" + " --- |" * (4 + 2 * len(bases)))
    for name, (load, more, only, size) in medians.items():
        loads = " | ".join(f"{medians[base][0] / load:.2f}" for base in bases)
        alls = " | ".join(f"{sum(medians[base][:2]) / (load + more):.2f}" for base in bases)
        share = f"{100 * only / load:.0f} %" if only else ""
        print(f"| {name} | {1 / load:.2f} | {loads} | {1 / (load + more):.2f} | {alls} | {share} | {size / 1e6:.1f} |")


# ---- training clips


def training_cases(originals: list[Path], stores: Stores, number: int) -> Iterator[tuple[str, Case]]:
    path = originals[number % len(originals)]
    random = np.random.default_rng(number)
    info = probe(path)
    indices = clip_indices(CLIP, random_start(CLIP, info.frames, random), info.frames)
    view = random_view(info.width, info.height, TRAIN.jitter, TRAIN.crop, TRAIN.flip, random)
    start, end = indices[0] / info.fps, (indices[0] + CLIP.span) / info.fps
    plain = partial(decord_frames, path, indices)
    yield PLAIN, (plain, lambda frames: crop_and_resize(frames, view), partial(decode, path, indices))
    yield WHOLE, (lambda: whole_pictures(plain(), view), lambda frames: cropped(frames, view), None)
    yield TORCHVIDEO, (partial(torchvideo, path, start, end), lambda clip: torchvideo_view(clip, view), None)
    for name, (store, recipe) in stores.items():
        manifest = read_manifest(store / "manifest.parquet")
        row = number % len(manifest.rows)
        for planes in (False, True):
            clips = TrainingClips(store, manifest, CLIP.every(recipe.data.store.every), TRAIN, 400, 0, 0, planes=planes)
            taken, _ = clips._draw(Pick(number, row))
            yield (
                f"clip store, {name}, {'planes' if planes else 'RGB'}",
                (
                    partial(clips.__getitem__, (number, row)),
                    lambda samples: render(samples[0].frames, samples[0].view, PIXELS),
                    partial(decode, store / clips.rows[row]["path"], taken),
                ),
            )


# ---- 30 views


def view_cases(originals: list[Path], stores: Stores, network: Path, number: int) -> Iterator[tuple[str, Case]]:
    path = originals[number % len(originals)]
    info = probe(path)
    clips = [clip_indices(CLIP, start, info.frames) for start in uniform_starts(CLIP, info.frames, CLIPS)]
    crops = spatial_views(info.width, info.height, SIZE, CROPS)
    yield WHOLE, (lambda: whole_views(path, clips), all_normalised, None)
    yield BY_VIEW, (lambda: [one_view(path, clip, view) for clip in clips for view in crops], all_normalised, None)
    ours = Scorer(network)
    yield (
        "ours, originals",
        (partial(ours.read, path), partial(rendered, ours), partial(decode, path, [0, clips[-1][-1]])),
    )
    for name, (store, recipe) in stores.items():
        rows = read_manifest(store / "manifest.parquet").rows
        row = rows.iloc[number % len(rows)]
        scorer = Scorer(network, store=recipe.data.store)
        everything = partial(decode, store / row["path"], [0, int(row["frames"]) - 1])
        yield f"clip store, {name}", (partial(scorer.read, store / row["path"]), partial(rendered, scorer), everything)


def rendered(scorer: Scorer, video: Any) -> None:
    for clips_BCTHW in scorer.views(video):
        assert len(clips_BCTHW) == CLIPS


def tiny_network(folder: Path) -> Path:
    """A trained-model folder for the scorer; the network is not run."""
    recipe = parse_recipe(
        {
            "name": "tiny",
            "data": {"name": "tiny"},
            "clip": CLIP.model_dump(),
            "model": {"depth": 18, "width": 8, "classes": 2},
            "evaluate": {"clips": CLIPS, "crops": CROPS, "size": SIZE, "batch_views": CLIPS},
        }
    )
    weights = build_model(recipe.model, recipe.clip).state_dict()
    save_weights(folder / "model.safetensors", weights)
    record = {"labels": ["a", "b"], "weights_digest": weights_digest(weights)}
    (folder / "checkpoint.json").write_text(json.dumps({**json.loads(recipe.to_json()), **record}))
    return folder


# ---- what is loaded


def decode(path: Path, indices: Sequence[int]) -> None:
    """The minimum work of any loader: open the file, seek to the key frame before, decode up to the last frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate = stream.average_rate
        assert rate
        assert stream.time_base
        first, last = min(indices) / rate, max(indices) / rate
        if first:
            container.seek(int(first / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is not None and frame.time + 1e-6 >= last:
                break


def size_of(loaded: Any) -> int:
    """Bytes of the loader's output."""
    if isinstance(loaded, list):
        return sum(size_of(getattr(part, "frames", part)) for part in loaded)
    return int(getattr(loaded, "frames", loaded).nbytes)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds of all threads, which other jobs on the machine do not affect."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


if __name__ == "__main__":
    main()
