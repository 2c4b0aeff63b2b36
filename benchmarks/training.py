"""Measures the overhead of the training loop: the real loop of one worker compared with the bare step.

    python benchmarks/training.py [--recipe kinetics400/slowfast_4x16_r50] [--batch 4] [--side 112] [--steps 8]
        [--precision bf16] [--peer] [--set SECTION.KEY=VALUE ...]

Prints a Markdown table of medians of interleaved rounds of `--steps` steps in one process, all on the same network:

- *bare*: forward, loss, backward and update on one batch that is already rendered and on the device;
- *rendered*: the same from decoded frames, the output of the loader;
- *loop*: the training loop on such batches, with log, checks and schedule;
- *full*: the training loop with its loader, which decodes clips of a generated store (340x256, 5 s).

Utilization is the FLOPs of a step (two per multiply-add, three times the forward pass) relative to the measured peak of
a matrix product in that precision. Peak memory is that of the GPU, with weights, gradients and momentum. Checkpoints
are timed separately, because they follow the clock: the wait of a step, and the time of the thread that writes.
PyTorchVideo's network (`--peer`) has its original memory layout, plain autocast, and a rendered batch as in *bare*.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from model import processor, theirs
from originals import extracted, write_original
from torch import Tensor, nn
from torch.nn import functional

from slowfast_core.data.loading.dataset import Batch
from slowfast_core.data.loading.render import render_batch
from slowfast_core.model.cost import cost_of
from slowfast_core.model.folding import cpu_has_bf16
from slowfast_core.recipe.load import Recipe, Store, load_recipe
from slowfast_core.training.batch_norm import begin_step
from slowfast_core.training.checkpoint import Saver
from slowfast_core.training.collective import Collective
from slowfast_core.training.job import Job
from slowfast_core.training.loop import Worker
from slowfast_core.training.meter import Meter
from slowfast_core.training.ray_workers import KEEP_MEMORY
from slowfast_core.training.step import AUTOCAST, make_optimizer
from slowfast_core.workspace import Workspace

FULL, LOOP, RENDERED, BARE, PEER = "full", "loop", "rendered", "bare", "PyTorchVideo, bare"
VIDEOS, FRAMES = 4, 150  # generated; the last video is held out
Run = Callable[[], float]  # returns the seconds of its steps


class TimedSaver(Saver):
    """Measures how long the loop waits for a checkpoint, and how long the writing thread takes after that."""

    waited = written = 0.0

    def save(self, state: Mapping[str, Any], best: int | None = None) -> None:
        started = time.perf_counter()
        super().save(state, best)
        saved = time.perf_counter()
        self.wait()  # otherwise the thread would disturb the next measurement
        self.waited, self.written = saved - started, time.perf_counter() - saved


class Trainer:
    """One worker of a real training run, whose parts can be run separately."""

    def __init__(self, recipe: Recipe, store: Path, folder: Path, device: torch.device) -> None:
        self.device = device
        folder.mkdir()
        self.worker = Worker(Job(recipe, "", store, folder, None), Collective(0, 1, folder, 1), device)
        self.saver = self.worker.saver = TimedSaver(folder / "checkpoints", 1)
        self.loader = self.worker.loader
        self.steps = self.worker.plan.ends[0]
        self.ready: list[Batch] = list(islice(self.loader, 2))
        self.data_wait: list[float] = []

    def epoch(self, batches: Iterable[Batch]) -> float:
        """Seconds of an epoch of the real loop, without its checkpoint."""
        worker, log = self.worker, self.worker.job.log
        worker.loader = batches  # type: ignore[assignment]
        worker.meter = Meter(worker.collective, self.device)
        number, _ = worker.plan.position(worker.state.step)
        worker.plan.start(number)
        lines = len(log.read_text().splitlines())
        started = time.perf_counter()
        worker._epoch(number)
        self._synchronise()
        seconds = time.perf_counter() - started - self.saver.waited - self.saver.written
        if batches is self.loader:
            records = [json.loads(line) for line in log.read_text().splitlines()[lines:]]
            self.data_wait.append(statistics.mean(line["data_wait"] for line in records if "data_wait" in line))
        return seconds

    def full(self) -> float:
        return self.epoch(self.loader)

    def loop(self) -> float:
        return self.epoch([self.ready[i % len(self.ready)] for i in range(self.steps)])

    def rendered(self) -> float:
        samples = self.ready[0].samples
        return self._timed(lambda: self.worker.forward(self.worker.parallel, samples).mean)

    def bare(self) -> Run:
        clips_BCTHW, labels_B = self.batch()

        def loss() -> Tensor:
            with self.autocast():
                logits_BA = self.worker.parallel(clips_BCTHW)
            return functional.cross_entropy(logits_BA.float(), labels_B)

        return lambda: self._timed(loss)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Clips `[B, C, T, H, W]`, rendered on the device, and labels `[B]`."""
        samples = self.ready[0].samples
        frames, views = [sample.frames for sample in samples], [sample.view for sample in samples]
        labels_B = torch.tensor([sample.label for sample in samples], device=self.device)
        return render_batch(frames, views, self.worker.model.pixels, self.device), labels_B

    def autocast(self) -> Any:
        dtype = AUTOCAST.get(self.worker.job.recipe.compute.precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def peer(self) -> Run:
        """PyTorchVideo's network with its own optimizer. It modifies its input list, so it gets a copy."""
        clip = self.worker.job.recipe.clip
        clips_BCTHW, labels_B = self.batch()
        clips_BCTHW = clips_BCTHW.contiguous()
        slow = torch.linspace(0, clip.fast_frames - 1, clip.T).long().to(self.device)
        given = [clips_BCTHW.index_select(2, slow), clips_BCTHW]
        network = theirs(clip, self.worker.model.lateral_kernel, clips_BCTHW.shape[-1]).to(self.device).train()
        optimizer = make_optimizer(network, self.worker.train)

        def loss() -> Tensor:
            with self.autocast():
                logits_BA = network(list(given))
            return functional.cross_entropy(logits_BA.float(), labels_B)

        return lambda: self._timed(loss, network, optimizer)

    def _timed(
        self,
        loss: Callable[[], Tensor],
        network: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> float:
        """Seconds of `steps` steps, with the worker's network unless another is given."""
        worker, optimizer = self.worker, optimizer or self.worker.state.optimizer
        self._synchronise()
        started = time.perf_counter()
        for _ in range(self.steps):
            if network is None:
                begin_step(worker.state.network, worker.train, [worker.train.batch])
            optimizer.zero_grad(set_to_none=True)
            loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        self._synchronise()
        return time.perf_counter() - started

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def peak_memory(run: Run, device: torch.device, before: int) -> float:
    """Peak GPU memory (MiB) of a run above `before` bytes. The run is also the warm-up."""
    if device.type != "cuda":
        run()
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def matrix_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of the fastest of several products of square matrices."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=AUTOCAST.get(precision, torch.float32)) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(4):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / 4)
    return 2 * side**3 / best


def measure(trainer: Trainer, rounds: int, peer: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds per step and peak MiB of each variant. Whole loops run first, before rendered batches use memory."""
    runs: dict[str, Run] = {}
    memory: dict[str, float] = {}
    makers: dict[str, Callable[[], Run]] = {
        FULL: lambda: trainer.full,
        LOOP: lambda: trainer.loop,
        RENDERED: lambda: trainer.rendered,
        BARE: trainer.bare,
    }
    for name, make in (makers | ({PEER: trainer.peer} if peer else {})).items():
        before = torch.cuda.memory_allocated() if name == PEER else 0
        runs[name] = make()
        memory[name] = peak_memory(runs[name], trainer.device, before)
    trainer.data_wait.clear()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run() / trainer.steps)
    return {name: statistics.median(values) for name, values in times.items()}, memory


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The named recipe with one worker, and with epochs of at least `--steps` steps for all rounds and the warm-up."""
    clips = -(-options.steps * options.batch // (VIDEOS - 1))
    changes = {
        "train.batch": options.batch,
        "train.crop": options.side,
        "train.jitter": [round(options.side * 256 / 224), round(options.side * 320 / 224)],
        "train.clips_per_video": clips,
        "train.epochs": 2 * options.rounds + 3,
        "train.warmup_epochs": 0,
        "train.learning_rate": 1e-4,
        "train.checkpoint_minutes": 1e9,
        "compute.workers": 1,
        "compute.cpus_per_worker": options.threads,
        "compute.loader_workers": options.loader_workers,
        "compute.precision": options.precision,
    }
    return load_recipe(options.recipe, [f"{key}={value}" for key, value in changes.items()] + options.set)


def main() -> None:
    options = arguments()
    if not KEEP_MEMORY.items() <= os.environ.items():  # the settings of our training, for all variants
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    device, recipe = torch.device(options.device), recipe_of(options)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        videos = [write_original(root / "originals" / f"v{n}.mp4", n, FRAMES) for n in range(VIDEOS)]
        store, _ = extracted(videos, Store(), Workspace.at(root), 0)
        trainer = Trainer(recipe, store, root / "job", device)
        peak = matrix_peak(device, recipe.compute.precision)
        seconds, memory = measure(trainer, options.rounds, options.peer)
    report(options, recipe, trainer, seconds, memory, peak)


def arguments() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="kinetics400/slowfast_4x16_r50")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if cuda else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if cuda else "fp32")
    parser.add_argument("--batch", type=int, default=8 if cuda else 4)
    parser.add_argument("--side", type=int, default=224 if cuda else 112)
    parser.add_argument("--steps", type=int, default=50 if cuda else 8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loader-workers", type=int, default=8 if cuda else 1)
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=cuda)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    if options.device == "cuda" and not cuda:
        parser.error("torch finds no GPU on this machine")
    if options.device == "cpu" and options.precision == "bf16" and not cpu_has_bf16():
        parser.error("this CPU has no instructions for bf16: emulated, a step takes 25 times as long")
    return options


def report(
    options: argparse.Namespace,
    recipe: Recipe,
    trainer: Trainer,
    seconds: dict[str, float],
    memory: dict[str, float],
    peak: float,
) -> None:
    batch, compute, saver = recipe.train.batch, recipe.compute, trainer.saver
    where = torch.cuda.get_device_name() if trainer.device.type == "cuda" else processor()
    flops = 3 * 2e9 * batch * cost_of(recipe.model, recipe.clip, recipe.train.crop).gflops
    print(f"{where}, torch {torch.__version__}, {options.threads} threads, {compute.loader_workers} loader workers")
    print(f"{options.recipe}, {compute.precision}, batch {batch}, {recipe.train.crop}^2;", end=" ")
    print(f"{options.rounds} rounds of {trainer.steps} steps; a matrix product reaches {peak / 1e12:.2f} TFLOP/s\n")
    print("| step | ms | clips/s | relative to bare | utilization | peak memory (MiB) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in (BARE, RENDERED, LOOP, FULL, PEER):
        if took := seconds.get(name):
            figures = f"{1e3 * took:.0f} | {batch / took:.2f} | {took / seconds[BARE]:.3f} | {flops / took / peak:.1%}"
            print(f"| {name} | {figures} | {f'{memory[name]:.0f}' if memory[name] else ''} |")
    loop = (seconds[LOOP] - seconds[RENDERED]) / seconds[BARE]
    interval = 60 * load_recipe(options.recipe).train.checkpoint_minutes
    saving = (saver.waited + saver.written) / interval
    print(f"\nWaiting for data: {statistics.median(trainer.data_wait):.1%} of the full loop.")
    print(f"The loop costs {loop:+.2%} of the bare step; a checkpoint {saver.waited:.2f} s, and {saver.written:.2f} s")
    print(f"of a background thread: every {interval:.0f} s {saving:.2%} at most. Together {loop + saving:+.2%}.")


if __name__ == "__main__":
    main()
