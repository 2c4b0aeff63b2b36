"""The training stage, and all of Ray Train: workers are placed, watched and restarted by Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.cluster.connection import connected
from slowfast_core.files import copy_whole, write_whole
from slowfast_core.recipe import Recipe, parse_recipe
from slowfast_core.stage import StageResult, finished, key_of_partial, read_result, run_once
from slowfast_core.training.checks import check_data, check_machine, check_start, read_record
from slowfast_core.training.follow import followed, last_metrics
from slowfast_core.training.job import Job, Stopped
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from slowfast_core.tracking.runs import Run

RAY = "ray"  # Ray's own records of the run, below the stage's folder
START = "start.safetensors"  # the weights to start from, there too
# glibc gives large buffers back to the system at every step otherwise, and page faults cost half of the time on CPU.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1)}
GAUGES = {
    "clips_per_second": "Clips trained on a second, by all workers of a training",
    "data_wait": "Share of the time that the workers of a training wait for data",
    "loss": "Mean loss over the last steps of a training",
}
# Settings of `train` that shape no weight: changing one starts no training again.
NOT_IN_THE_WEIGHTS = {
    "init_from",
    "allow_overlap",
    "keep_checkpoints",
    "checkpoint_minutes",
    "max_restarts",
    "max_bad_share",
    "checkpoint_steps",
    "checkpoint_store",
    "checkpoint_endpoint_url",
    "log_samples",
}


def train(recipe: Recipe, extracted: Path, output: Path, at: Workspace, init_from: Path | None = None) -> StageResult:
    """Train on the clip store in `extracted`; `output` gets `model.safetensors` and `checkpoint.json`.

    `init_from` is a checkpoint folder to start from. Killed, the next call goes on from the last checkpoint. Raises
    InputError when recipe, data, start weights and machine do not go together.
    """
    inputs = _inputs(recipe, extracted, init_from)
    parent, data_version = inputs["parent"], inputs["data_version"]

    def work(partial: Path) -> Mapping[str, Any]:
        return _fit(recipe, extracted / "store", partial, at, init_from, parent, data_version)

    return run_once("train", output, inputs, work, keep="checkpoints")


def trained(recipe: Recipe, extracted: Path, output: Path, init_from: Path | None = None) -> StageResult | None:
    """The training in `output` that `train` would find to be of these inputs, so that it had nothing to do."""
    return finished(output, _inputs(recipe, extracted, init_from))


def _inputs(recipe: Recipe, extracted: Path, init_from: Path | None) -> dict[str, Any]:
    """Everything the weights depend on."""
    data_version = read_result(extracted).data_version or ""
    parent = read_record(init_from)["weights_digest"] if init_from else None
    start = recipe.train.model_dump(exclude=NOT_IN_THE_WEIGHTS)
    kept = {"workers", "min_workers", "cpus_per_worker", "gpus_per_worker", "precision", "compile", "deterministic"}
    compute = recipe.compute.model_dump(include=kept)
    inputs: dict[str, Any] = {
        "clip": recipe.clip.model_dump(exclude={"sampling"} if recipe.clip.sampling == "dense" else None),
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
    from slowfast_core.data.manifest import read_manifest
    from slowfast_core.model.weights import load_weights, weights_digest
    from slowfast_core.training.checkpoint_store import fetch_newest
    from slowfast_core.training.overlap import check_overlap, write_learned_from

    check_machine(recipe)
    labels, steps = check_data(recipe, store)
    manifest = read_manifest(store / "manifest.parquet")
    classifier = check_start(recipe, init_from, labels) if init_from else False
    overlap = check_overlap(recipe, manifest, init_from) if init_from else []
    job = Job(recipe, data_version, store, folder, folder / START if init_from else None, classifier)
    job.prepare()
    write_learned_from(folder, manifest, init_from)
    if init_from:  # every worker sees this folder, and a registered model is on disk only for now
        copy_whole(init_from / "model.safetensors", folder / START)
    fetched = fetch_newest(job)
    with _cluster(job):
        run = _open_run(recipe, at, f"{key_of_partial(folder)} {folder}", data_version)
        with run, followed(job.log, steps, run.log_metrics) as notes:
            _run_workers(job)
            job.check()
            if job.stop.exists():
                raise Stopped(folder)
    for left in (RAY, "hosts"):
        shutil.rmtree(folder / left, ignore_errors=True)
    for spent in (folder / START, job.refusal):
        spent.unlink(missing_ok=True)
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
    reached, epochs = last_metrics(job.log), f"{recipe.train.epochs} epochs"
    done = f"loss {reached['loss']:.3f} after {epochs}" if reached else f"{epochs} were done before"
    return {
        "outputs": {"weights": "model.safetensors", "checkpoint": "checkpoint.json"},
        "summary": "; ".join([done, *fetched, *notes, *overlap]),
        "digest": digest,
        "weights_digest": digest,
        "data_version": data_version,
        "metrics": reached,
    }


def _open_run(recipe: Recipe, at: Workspace, key: str, data_version: str) -> Run:
    """The MLflow run of this training: a new one, or the one that was cut off."""
    from slowfast_core.tracking.runs import open_run

    tags = {"slowfast.stage": "train", "slowfast.recipe": recipe.name}
    run = open_run(recipe.tracking, at, f"{recipe.name} train", key, tags)
    run.log_params(clip=recipe.clip, model=recipe.model, train=recipe.train, compute=recipe.compute)
    run.log_dataset(recipe.data.name, data_version, recipe.data.source, "training")
    run.log_data_report(at.data(recipe.data.name, "validate"))
    return run


def _cluster(job: Job) -> AbstractContextManager[Any]:
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    compute = job.recipe.compute
    local = {"num_cpus": compute.workers * compute.cpus_per_worker, "include_dashboard": False}
    variables = KEEP_MEMORY | ({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if compute.deterministic else {})
    return connected(compute.address, local, runtime_env={"env_vars": variables})


def _run_workers(job: Job) -> None:
    """Run the loop on every worker; a worker that dies is replaced and all go on from the last checkpoint."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    compute = job.recipe.compute
    resources: dict[str, float] = {"CPU": compute.cpus_per_worker}
    if compute.gpus_per_worker:
        resources["GPU"] = compute.gpus_per_worker
    least = compute.min_workers or compute.workers
    count = compute.workers if least == compute.workers else (least, compute.workers)
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config=_as_config(job),
        scaling_config=ScalingConfig(
            num_workers=count, use_gpu=bool(compute.gpus_per_worker), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex,  # our checkpoints resume, not Ray's
            storage_path=str(job.folder / RAY),
            failure_config=FailureConfig(
                max_failures=job.recipe.train.max_restarts,
                controller_failure_limit=compute.wait_minutes,  # it waits a minute at a time for its workers
            ),
        ),
    )
    with _stopping_on_sigterm(job):
        trainer.fit()


@contextmanager
def _stopping_on_sigterm(job: Job) -> Iterator[None]:
    """SIGTERM, as before a preemption, lets the workers save and end after the step they are in."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, lambda *_: job.stop.touch())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_config(job: Job) -> dict[str, Any]:
    init = str(job.init_weights) if job.init_weights else None
    start = {"init": init, "classifier": job.init_classifier}
    paths = {"store": str(job.store), "folder": str(job.folder)}
    return {"recipe": job.recipe.to_json(), "data_version": job.data_version, **paths, **start}


def _ray_worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    from slowfast_core.training.loop import train_worker

    init = Path(config["init"]) if config["init"] else None
    recipe, store, folder = parse_recipe(config["recipe"]), Path(config["store"]), Path(config["folder"])
    job = Job(recipe, config["data_version"], store, folder, init, config["classifier"])
    context = ray.train.get_context()
    rank = context.get_world_rank()
    train_worker(
        job,
        rank,
        context.get_world_size(),
        ray.train.torch.get_device(),
        lambda epoch: ray.train.report({"epoch": epoch}),
        _gauges() if rank == 0 else lambda _: None,
    )


def _gauges() -> Callable[[Mapping[str, float]], None]:
    """Shows what is measured among the metrics that Ray's nodes give to Prometheus."""
    from ray.util.metrics import Gauge

    gauges = {name: Gauge(f"slowfast_{name}", description=said) for name, said in GAUGES.items()}

    def show(measured: Mapping[str, float]) -> None:
        for name, gauge in gauges.items():
            gauge.set(measured[name])

    return show
