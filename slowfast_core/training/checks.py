"""What is found out before any worker starts: that recipe, data, start weights and machine go together."""

from __future__ import annotations

import os
from pathlib import Path

from slowfast_core.errors import InputError
from slowfast_core.model.folder import load_verified, read_record
from slowfast_core.recipe.load import Recipe
from slowfast_core.training.plan import Plan

SHARED = 2  # workers to a core; more would be slower than fewer


def check_machine(recipe: Recipe) -> None:
    """Raises InputError for workers that this machine has no place for. What a named cluster has is Ray's to know."""
    compute = recipe.compute
    if recipe.train.batch_norm == "sync" and not compute.gpus:
        raise InputError("synchronised batch norm needs GPUs", "train.batch_norm", "take 'groups' on CPUs")
    if compute.address is not None:
        return
    least = compute.min_workers or compute.workers
    if compute.gpus:
        import torch

        wanted, there = least * compute.gpus, torch.cuda.device_count()
        if wanted > there:
            what = f"{wanted} GPUs are asked for ({least} x {compute.gpus}), this machine has {there}"
            mend = "set compute.workers and compute.gpus_per_worker (0: CPU), or compute.address of a cluster"
            raise InputError(what, "compute.gpus_per_worker", mend)
    cores = os.cpu_count() or 1
    if least > SHARED * cores:
        what = f"{least} workers are too many for {cores} cores"
        raise InputError(what, "compute.workers", f"take at most {SHARED * cores}, or compute.address of a cluster")


def check_data(recipe: Recipe, store: Path) -> tuple[list[str], int]:
    """Label names, and steps in all. Raises InputError when the recipe does not fit the data or the workers."""
    from slowfast_core.data.clip_store.optical_flow import flow_file
    from slowfast_core.data.manifest import read_manifest

    manifest = read_manifest(store / "manifest.parquet")
    where = store / "manifest.parquet"
    if (classes := len(manifest.labels)) != recipe.model.classes:
        what = f"the data has {classes} classes, the model {recipe.model.classes}"
        mend = f"set model.classes to {classes}, or name all classes in data.labels"
        raise InputError(what, where, mend)
    if recipe.model.takes_flow and not flow_file(store / manifest.rows["path"].iloc[0]).is_file():
        raise InputError("the clip store has no optical flow", store, "extract with data.store.flow true")
    samples = len(manifest.split("train").rows) * recipe.train.clips_per_video
    if samples < recipe.train.batch:
        raise InputError(
            f"{samples} training samples are fewer than train.batch = {recipe.train.batch}", where, "lower train.batch"
        )
    for workers in {recipe.compute.min_workers or recipe.compute.workers, recipe.compute.workers}:
        parts = workers * recipe.train.accumulate * recipe.train.repeat
        if recipe.train.batch % parts:
            split = f"{workers} workers x {recipe.train.accumulate} parts"
            split += f" x {recipe.train.repeat} clips a draw" if recipe.train.repeat > 1 else ""
            what = f"a batch of {recipe.train.batch} does not divide by {split}"
            raise InputError(what, "train.batch", f"take a multiple of {parts}")
    plan = Plan(recipe.train, recipe.clip, samples // recipe.train.repeat, recipe.seed)
    if plan.samples < plan.largest_batch:
        largest = plan.largest_batch * recipe.train.repeat
        what = f"{samples} training samples are fewer than the largest batch of train.multigrid, {largest}"
        raise InputError(what, where, "lower train.batch, or set train.multigrid to null")
    return list(manifest.labels), plan.steps


def check_start(recipe: Recipe, start: Path, labels: list[str]) -> bool:
    """Whether the classifier of the checkpoint folder `start` is for these labels, and so may be taken over too.

    Raises InputError when the weights are damaged, changed or of another kind of network.
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
