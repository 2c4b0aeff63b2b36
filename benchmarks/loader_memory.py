"""Measures the memory of the processes that load clips for one GPU, as in training.

    python benchmarks/loader_memory.py [--loaders N] [--batch N]

Loads clips of 32 frames from a store of 320 lines, as the Kinetics recipes do. Prints the private memory of a loader
process and of the main process without a network, and the shared memory of the batches in flight.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from torch.utils.data import DataLoader

from slowfast_core.data.loading.dataset import Batch, TrainingClips, training_loader
from slowfast_core.data.loading.sampling import Pick
from slowfast_core.data.manifest import read_manifest
from slowfast_core.recipe.load import load_recipe
from slowfast_core.stages.flow import STAGE_FUNCTIONS
from slowfast_core.workspace import Workspace

RECIPE = "kinetics400/slowfast_8x8_r50"
VIDEOS = {
    "data.name": "memory",
    "data.source": "synthetic",
    "data.synthetic.train_videos": 4,
    "data.synthetic.val_videos": 1,
    "data.synthetic.size": 320,
    "data.synthetic.seconds": 10,
    "data.synthetic.fps": 30,
    "model.classes": 8,
}
STEPS = 60


def main() -> None:
    options = _options()
    recipe = load_recipe(RECIPE, [f"{key}={value}" for key, value in VIDEOS.items()])
    with tempfile.TemporaryDirectory() as folder:
        at = Workspace(Path(folder))
        for stage in ("ingest", "validate", "extract"):
            STAGE_FUNCTIONS[stage](recipe, at)
        store = at.data("memory", "extract") / "store"
        clips = TrainingClips.of(recipe, store, read_manifest(store / "manifest.parquet").split("train"), planes=True)
        picks = [Pick(0, draw % len(clips.rows)) for draw in range(STEPS * options.batch)]
        batches = [picks[start : start + options.batch] for start in range(0, len(picks), options.batch)]
        _measure(training_loader(clips, batches, options.loaders), options)


def _measure(loader: DataLoader[Batch], options: argparse.Namespace) -> None:
    private, batch_bytes = 0, 0
    for step, batch in enumerate(loader):
        batch_bytes = max(batch_bytes, sum(sample.frames.nbytes for sample in batch.samples))
        if step % 10 == 5:
            time.sleep(2)  # as long as a slow step: the loaders fill their queues
            children = psutil.Process().children(recursive=True)
            private = max([private, *(process.memory_full_info().uss for process in children)])
    own = psutil.Process().memory_full_info().uss
    in_flight = batch_bytes * options.loaders * (loader.prefetch_factor or 1)
    print(f"{options.loaders} loaders, batch {options.batch}, 32 frames of 320 lines")
    print(f"a loader process: {private / 1e6:,.0f} MB; the main process without network: {own / 1e6:,.0f} MB")
    print(f"batches in flight: at most {in_flight / 1e6:,.0f} MB of shared memory")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loaders", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    main()
