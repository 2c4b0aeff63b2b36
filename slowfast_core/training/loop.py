"""The training loop of one worker, from its first batch (or its last checkpoint) to the final weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slowfast_core.data.loading import Batch, EpochBatches, Sample, TrainingClips, training_loader
from slowfast_core.data.manifest import read_manifest
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import load_weights, save_weights, start_from
from slowfast_core.recipe import Recipe
from slowfast_core.training.bad_clips import BadClips
from slowfast_core.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from slowfast_core.training.job import Job
from slowfast_core.training.meter import Meter
from slowfast_core.training.schedule import learning_rate
from slowfast_core.training.step import Outcome, forward_loss, make_optimizer

LOG_STEPS = 10  # steps that a line of the log tells of; the last of an epoch of fewer


class Log:
    """JSON lines, written by rank 0, that the driver shows and sends to MLflow."""

    def __init__(self, path: Path, enabled: bool) -> None:
        self.path, self.enabled = path, enabled

    def __call__(self, **fields: object) -> None:
        if self.enabled:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")


def train_worker(job: Job, rank: int, workers: int, device: torch.device, epoch_done: Callable[[int], None]) -> None:
    recipe = job.recipe
    torch.set_num_threads(recipe.compute.cpus_per_worker)
    log = Log(job.log, rank == 0)
    clips = _training_clips(job, device)
    batches = EpochBatches(len(clips), recipe.train.batch // recipe.train.repeat, recipe.seed, rank, workers)
    bad, blank = BadClips(len(clips.rows), recipe.train.max_bad_share, workers, device), clips.blank()
    network = _start_network(job, log).to(device)
    optimizer = make_optimizer(network, recipe.train)
    step = _resume(job, network, optimizer, log)
    parallel = nn.parallel.DistributedDataParallel(network) if workers > 1 else network
    loader = training_loader(clips, batches, recipe.compute.loader_workers, pin=device.type == "cuda")
    meter = Meter(workers, device)
    last_save = time.monotonic()
    while step < recipe.train.epochs * batches.steps:
        epoch, done = divmod(step, batches.steps)
        batches.start(epoch, done)
        for batch in loader:
            # Dropout is a function of (seed, step, rank), so a resumed run draws what an unbroken one would.
            torch.manual_seed((recipe.seed * 1_000_003 + step) * 1_009 + rank)
            rate = learning_rate(recipe.train, step / batches.steps)
            meter.add(_update(parallel, optimizer, batch, blank, recipe, device, rate), len(batch.samples))
            bad.add(batch.bad)
            step += 1
            last_of_epoch = step % batches.steps == 0
            if last_of_epoch or step % LOG_STEPS == 0:
                _tell(bad, clips, log)
                counts = {"bad_clips": len(bad.known)} if bad.known else {}
                log(step=step, epoch=step / batches.steps, learning_rate=rate, **meter.read(), **counts)
                if bad.too_many:
                    log(stopped=[clips.rows[row]["path"] for row in bad.known], of=len(clips.rows))
                    return
            if rank == 0 and (last_of_epoch or time.monotonic() - last_save > recipe.train.checkpoint_minutes * 60):
                _save(job, step, network, optimizer)
                last_save = time.monotonic()
        epoch_done(epoch)
    if rank == 0:
        save_weights(job.folder / "model.safetensors", network.state_dict())


def _training_clips(job: Job, device: torch.device) -> TrainingClips:
    recipe = job.recipe
    return TrainingClips(
        job.store,
        read_manifest(job.store / "manifest.parquet").split("train"),
        recipe.clip.every(recipe.data.store.every),
        recipe.train,
        recipe.model.classes,
        recipe.seed,
        recipe.compute.frame_cache_mb,
        recipe.model.takes_flow,
        planes=device.type == "cuda",
    )


def _start_network(job: Job, log: Log) -> nn.Module:
    torch.manual_seed(job.recipe.seed)
    network = build_model(job.recipe.model, job.recipe.clip)
    if job.init_weights:
        report = start_from(network, load_weights(job.init_weights))
        log(note=f"start weights: {report}")
    return network


def _resume(job: Job, network: nn.Module, optimizer: torch.optim.Optimizer, log: Log) -> int:
    """Load the newest whole checkpoint, if there is one; return the step to go on with."""
    path, torn = newest_checkpoint(job.folder / "checkpoints")
    for broken in torn:
        log(note=f"checkpoint {broken.name} is torn and was passed over")
    if path is None:
        return 0
    state: dict[str, Any] = load_checkpoint(path)
    network.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    log(note=f"resumed from checkpoint {path.name}")
    return int(state["step"])


def _save(job: Job, step: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = {
        "step": step,
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "recipe": job.recipe.to_json(),
        "data_version": job.data_version,
    }
    save_checkpoint(job.folder / "checkpoints", state, job.recipe.train.keep_checkpoints)


def _tell(bad: BadClips, clips: TrainingClips, log: Log) -> None:
    if news := [clips.rows[row]["path"] for row in bad.gather()]:
        log(note=f"{len(news)} clips do not decode and are left out: {', '.join(news)}")


def _update(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    blank: Sample,
    recipe: Recipe,
    device: torch.device,
    rate: float,
) -> Outcome:
    """A worker none of whose clips decode takes part with `blank`, which changes neither loss nor statistics."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    network.train(bool(batch.samples))
    optimizer.zero_grad(set_to_none=True)
    samples = batch.samples or [blank]
    outcome = forward_loss(network, samples, recipe.train, recipe.model, device, recipe.compute.precision)
    if not batch.samples:
        outcome = Outcome(outcome.loss * 0, outcome.right * 0, 0)
    outcome.loss.backward()  # type: ignore[no-untyped-call]
    if recipe.train.clip_gradient:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.train.clip_gradient)
    optimizer.step()
    return outcome
