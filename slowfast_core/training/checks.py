"""Checks before any worker starts: the recipe must fit the machine, the data and the start weights."""

from __future__ import annotations

import os
from pathlib import Path

from slowfast_core.errors import InputError
from slowfast_core.model.folder import load_verified, read_record
from slowfast_core.recipe.load import Recipe
from slowfast_core.training.plan import Plan

WORKERS_PER_CORE = 2  # more workers would train slower than fewer


def check_machine(recipe: Recipe) -> None:
    """Raises InputError when this machine lacks the GPUs or cores for the workers. Ray checks a named cluster."""
    compute = recipe.compute
    if recipe.train.batch_norm == "sync" and not compute.gpus:
        raise InputError("synchronised batch norm needs GPUs", "train.batch_norm", "use 'groups' on CPUs")
    if compute.address is not None:
        return
    least = compute.min_workers or compute.workers
    if compute.gpus:
        import torch

        required = least * compute.gpus
        available = torch.cuda.device_count()
        if required > available:
            what = f"{required} GPUs are required ({least} x {compute.gpus}), but this machine has {available}"
            fix = "change compute.workers or compute.gpus_per_worker (0: CPU), or set compute.address of a cluster"
            raise InputError(what, "compute.gpus_per_worker", fix)
    cores = os.cpu_count() or 1
    if least > WORKERS_PER_CORE * cores:
        what = f"{least} workers are too many for {cores} cores"
        fix = f"use at most {WORKERS_PER_CORE * cores}, or set compute.address of a cluster"
        raise InputError(what, "compute.workers", fix)


def check_data(recipe: Recipe, store: Path) -> tuple[list[str], int]:
    """Return the label names and the number of steps. Raises InputError when the recipe does not fit the data."""
    from slowfast_core.data.clip_store.optical_flow import flow_file
    from slowfast_core.data.manifest import read_manifest

    manifest = read_manifest(store / "manifest.parquet")
    where = store / "manifest.parquet"
    if (classes := len(manifest.labels)) != recipe.model.classes:
        what = f"the data has {classes} classes, the model {recipe.model.classes}"
        fix = f"set model.classes to {classes}, or list all classes in data.labels"
        raise InputError(what, where, fix)
    if recipe.model.takes_flow and not flow_file(store / manifest.rows["path"].iloc[0]).is_file():
        raise InputError("the clip store has no optical flow", store, "set data.store.flow to true and extract again")
    samples = len(manifest.split("train").rows) * recipe.train.clips_per_video
    if samples < recipe.train.batch:
        raise InputError(
            f"{samples} training samples are fewer than train.batch = {recipe.train.batch}", where, "lower train.batch"
        )
    for workers in {recipe.compute.min_workers or recipe.compute.workers, recipe.compute.workers}:
        parts = workers * recipe.train.accumulate * recipe.train.repeat
        if recipe.train.batch % parts:
            split = f"{workers} workers x {recipe.train.accumulate} parts"
            split += f" x {recipe.train.repeat} clips per draw" if recipe.train.repeat > 1 else ""
            what = f"a batch of {recipe.train.batch} is not divisible by {split}"
            raise InputError(what, "train.batch", f"use a multiple of {parts}")
    plan = Plan(recipe.train, recipe.clip, samples // recipe.train.repeat, recipe.seed)
    if plan.samples < plan.largest_batch:
        largest = plan.largest_batch * recipe.train.repeat
        what = f"{samples} training samples are fewer than the largest batch of train.multigrid, {largest}"
        raise InputError(what, where, "lower train.batch, or set train.multigrid to null")
    return list(manifest.labels), plan.steps


def check_start(recipe: Recipe, start: Path, labels: list[str]) -> bool:
    """Whether the model in the folder `start` has the same head and labels, so that its classifier can be reused.

    Raises InputError when the weights are damaged, were changed or belong to another kind of network.
    """
    import torch

    from slowfast_core.model.build import build_model
    from slowfast_core.model.weights import compare

    with torch.device("meta"):
        network = build_model(recipe.model, recipe.clip)
    record = read_record(start)
    same_head = record.get("model", {}).get("head") == recipe.model.head
    same_classes = same_head and record.get("labels") == labels
    compare(network, load_verified(start), same_classes)
    return same_classes
