"""The training stage, and all of Ray Train: workers are placed, watched and restarted by Ray."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.recipe import Recipe, parse_recipe
from slowfast_core.stage import StageResult, finished, key_of_partial, read_result, run_once
from slowfast_core.training.follow import followed, last_metrics
from slowfast_core.training.job import Job
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from slowfast_core.tracking.runs import Run

RAY = "ray"  # Ray's own records of the run, below the stage's folder
# glibc gives large buffers back to the system at every step otherwise, and page faults cost half of the time on CPU.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1)}


def train(recipe: Recipe, extracted: Path, output: Path, at: Workspace, init_from: Path | None = None) -> StageResult:
    """Train on the clip store in `extracted`; `output` gets `model.safetensors` and `checkpoint.json`.

    `init_from` is the output of another training to start the trunk from. Killed, the next call goes on from the last
    checkpoint. Raises InputError when the data does not fit the recipe.
    """
    inputs = _inputs(recipe, extracted, init_from)
    parent, data_version = inputs["parent"], inputs["data_version"]

    def work(partial: Path) -> Mapping[str, Any]:
        return _fit(recipe, extracted / "store", partial, at, init_from, parent, data_version)

    return run_once("train", output, inputs, work)


def trained(recipe: Recipe, extracted: Path, output: Path, init_from: Path | None = None) -> StageResult | None:
    """The training in `output` that `train` would find to be of these inputs, so that it had nothing to do."""
    return finished(output, _inputs(recipe, extracted, init_from))


def _inputs(recipe: Recipe, extracted: Path, init_from: Path | None) -> dict[str, Any]:
    """Everything the weights depend on."""
    data_version = read_result(extracted).data_version or ""
    parent = read_result(init_from).weights_digest if init_from else None
    start = recipe.train.model_dump(exclude={"init_from", "keep_checkpoints", "checkpoint_minutes", "max_restarts"})
    compute = recipe.compute.model_dump(include={"workers", "cpus_per_worker", "gpus_per_worker", "precision"})
    inputs: dict[str, Any] = {
        "clip": recipe.clip.model_dump(),
        "model": recipe.model.model_dump(),
        "train": start,
        "compute": compute,
    }
    return inputs | {"seed": recipe.seed, "data_version": data_version, "parent": parent}


def _fit(
    recipe: Recipe,
    store: Path,
    folder: Path,
    at: Workspace,
    init_from: Path | None,
    parent: str | None,
    data_version: str,
) -> Mapping[str, Any]:
    from slowfast_core.model.weights import load_weights, weights_digest

    labels, steps = _check_data(recipe, store)
    job = Job(recipe, data_version, store, folder, init_from / "model.safetensors" if init_from else None)
    if job.init_weights:
        _check_start(recipe, job.init_weights)
    run = _open_run(recipe, at, f"{key_of_partial(folder)} {folder}", data_version)
    with run, followed(job.log, recipe.train.epochs * steps, run.log_metrics) as notes:
        _run_workers(job)
    shutil.rmtree(folder / RAY)
    state = load_weights(folder / "model.safetensors")
    digest = weights_digest(state)
    record = {
        **json.loads(recipe.to_json()),
        "labels": labels,
        "data_version": data_version,
        "parent_checkpoint": parent,
        "run_id": run.id,
        "weights_digest": digest,
    }
    write_whole(folder / "checkpoint.json", json.dumps(record, indent=1))
    reached = last_metrics(job.log)
    return {
        "outputs": {"weights": "model.safetensors", "checkpoint": "checkpoint.json"},
        "summary": "; ".join([f"loss {reached['loss']:.3f} after {recipe.train.epochs} epochs", *notes]),
        "digest": digest,
        "weights_digest": digest,
        "data_version": data_version,
        "metrics": reached,
    }


def _check_data(recipe: Recipe, store: Path) -> tuple[list[str], int]:
    """Label names and iterations an epoch. Raises InputError when the recipe does not fit the data."""
    from slowfast_core.data.flow import flow_file
    from slowfast_core.data.manifest import read_manifest

    manifest = read_manifest(store / "manifest.parquet")
    where = store / "manifest.parquet"
    if len(manifest.labels) > recipe.model.classes:
        raise InputError(
            f"the data has {len(manifest.labels)} classes, the model {recipe.model.classes}", where, "set model.classes"
        )
    if recipe.model.takes_flow and not flow_file(store / manifest.rows["path"].iloc[0]).is_file():
        raise InputError("the clip store has no optical flow", store, "extract with data.store.flow true")
    samples = len(manifest.split("train").rows) * recipe.train.clips_per_video
    if samples < recipe.train.batch:
        raise InputError(
            f"{samples} training samples are fewer than train.batch = {recipe.train.batch}", where, "lower train.batch"
        )
    return list(manifest.labels), samples // recipe.train.batch


def _check_start(recipe: Recipe, weights: Path) -> None:
    """Raises InputError, before any worker starts, when the weights are damaged or of another kind of network."""
    import torch

    from slowfast_core.model.build import build_model
    from slowfast_core.model.weights import compare, load_weights

    with torch.device("meta"):
        network = build_model(recipe.model, recipe.clip)
    compare(network, load_weights(weights))


def _open_run(recipe: Recipe, at: Workspace, key: str, data_version: str) -> Run:
    """The MLflow run of this training: a new one, or the one that was cut off."""
    from slowfast_core.tracking.runs import open_run

    tags = {"slowfast.stage": "train", "slowfast.recipe": recipe.name}
    run = open_run(recipe.tracking, at, f"{recipe.name} train", key, tags)
    run.log_params(clip=recipe.clip, model=recipe.model, train=recipe.train, compute=recipe.compute)
    run.log_dataset(recipe.data.name, data_version, recipe.data.source, "training")
    return run


def _run_workers(job: Job) -> None:
    """Run the loop on every worker; a worker that dies is replaced and all go on from the last checkpoint."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    compute = job.recipe.compute
    total = compute.workers * compute.cpus_per_worker
    local = {"num_cpus": total, "include_dashboard": False} if compute.address is None else {}
    address = compute.address or "local"  # None would take any cluster that it finds on this machine
    environment = {"env_vars": KEEP_MEMORY}
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=environment, **local)
    resources: dict[str, float] = {"CPU": compute.cpus_per_worker}
    if compute.gpus_per_worker:
        resources["GPU"] = compute.gpus_per_worker
    try:
        TorchTrainer(
            _ray_worker,
            train_loop_config=_as_config(job),
            scaling_config=ScalingConfig(
                num_workers=compute.workers, use_gpu=bool(compute.gpus_per_worker), resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=uuid.uuid4().hex,  # our checkpoints resume, not Ray's
                storage_path=str(job.folder / RAY),
                failure_config=FailureConfig(max_failures=job.recipe.train.max_restarts),
            ),
        ).fit()
    finally:
        ray.shutdown()


def _as_config(job: Job) -> dict[str, str | None]:
    init = str(job.init_weights) if job.init_weights else None
    paths = {"store": str(job.store), "folder": str(job.folder), "init": init}
    return {"recipe": job.recipe.to_json(), "data_version": job.data_version, **paths}


def _ray_worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    from slowfast_core.training.loop import train_worker

    init = Path(config["init"]) if config["init"] else None
    recipe, store, folder = parse_recipe(config["recipe"]), Path(config["store"]), Path(config["folder"])
    job = Job(recipe, config["data_version"], store, folder, init)
    context = ray.train.get_context()
    train_worker(
        job,
        context.get_world_rank(),
        context.get_world_size(),
        ray.train.torch.get_device(),
        lambda epoch: ray.train.report({"epoch": epoch}),
    )
