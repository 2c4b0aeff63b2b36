"""Runs the training workers with Ray Train, which places, monitors and restarts them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from slowfast_core.parallel.ray_connection import connected
from slowfast_core.recipe.load import parse_recipe
from slowfast_core.stopping import on_sigterm
from slowfast_core.training.job import Job
from slowfast_core.workspace import Workspace

RAY = "ray"  # Ray's records of the run, in the stage's folder
# Without these, glibc returns large buffers to the system at every step, and page faults take half the time on CPU.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1)}
GAUGES = {
    "clips_per_second": "Clips trained per second, over all workers of a training",
    "data_wait": "Share of the time that the workers of a training wait for data",
    "loss": "Mean loss over the last steps of a training",
}


def cluster_of(job: Job, at: Workspace) -> AbstractContextManager[Any]:
    """Connect to the cluster of the recipe or, if it names none, start Ray on this machine."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    compute = job.recipe.compute
    local = {"num_cpus": compute.workers * compute.cpus_per_worker, "include_dashboard": False}
    variables = KEEP_MEMORY | ({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if compute.deterministic else {})
    return connected(compute.address, local, at.root, runtime_env={"env_vars": variables})


def run_workers(job: Job) -> None:
    """Run the training loop on every worker. Ray replaces a worker that dies; all then resume from the checkpoint."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    compute = job.recipe.compute
    resources: dict[str, float] = {"CPU": compute.cpus_per_worker}
    if compute.gpus:
        resources["GPU"] = compute.gpus
    least = compute.min_workers or compute.workers
    count = compute.workers if least == compute.workers else (least, compute.workers)
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config=_as_config(job),
        scaling_config=ScalingConfig(num_workers=count, use_gpu=bool(compute.gpus), resources_per_worker=resources),
        run_config=RunConfig(
            name=uuid.uuid4().hex,  # new each time: training resumes from our checkpoints, not from Ray's
            storage_path=str(job.folder / RAY),
            failure_config=FailureConfig(
                max_failures=job.recipe.train.max_restarts,
                max_preemption_failures=job.recipe.train.max_restarts,
                controller_failure_limit=compute.wait_minutes,  # the controller waits for workers a minute at a time
            ),
        ),
    )
    with on_sigterm(job.stop.touch):  # sent before a preemption: workers save and end after their current step
        trainer.fit()


def _as_config(job: Job) -> dict[str, Any]:
    init = str(job.init_weights) if job.init_weights else None
    start = {"init": init, "classifier": job.init_classifier, "init_digest": job.init_digest}
    paths = {"store": str(job.store), "folder": str(job.folder)}
    return {"recipe": job.recipe.to_json(), "data_version": job.data_version, **paths, **start}


def _ray_worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    from slowfast_core.training.loop import train_worker

    init = Path(config["init"]) if config["init"] else None
    recipe = parse_recipe(config["recipe"])
    start = {"init_classifier": config["classifier"], "init_digest": config["init_digest"]}
    job = Job(recipe, config["data_version"], Path(config["store"]), Path(config["folder"]), init, **start)
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
    """A function that sets the training's gauges among the metrics that Ray exports to Prometheus."""
    from ray.util.metrics import Gauge

    gauges = {name: Gauge(f"slowfast_{name}", description=description) for name, description in GAUGES.items()}

    def update(measured: Mapping[str, float]) -> None:
        for name, gauge in gauges.items():
            gauge.set(measured[name])

    return update
