"""Resolves `compute.gpus_per_worker: auto` to one GPU per worker, or to CPU."""

from __future__ import annotations

from slowfast_core.parallel.ray_connection import connected
from slowfast_core.recipe.schema import Compute


def gpus_found(compute: Compute) -> int:
    """Number of GPUs of this machine or of the Ray cluster that the recipe names.

    A cluster that starts its GPU nodes on demand reports none: set the number in the recipe there. Raises InputError
    when the cluster cannot be reached.
    """
    if compute.address is None:
        import torch

        return torch.cuda.device_count()
    with connected(compute.address) as ray:
        return int(ray.cluster_resources().get("GPU", 0))


def gpus_of_a_worker(compute: Compute, found: int) -> int:
    """1 if there is a GPU for each worker, else 0: fewer workers would change the trained weights."""
    return int(found >= (compute.min_workers or compute.workers))


def unused_gpus(compute: Compute, found: int) -> list[str]:
    """A note when there are GPUs, but too few for the workers."""
    if not found or gpus_of_a_worker(compute, found):
        return []
    least = compute.min_workers or compute.workers
    are = "GPU is" if found == 1 else "GPUs are"
    return [f"{found} {are} not used, for {least} workers need {least}: set compute.workers to at most {found}"]


def where_training_runs(compute: Compute, found: int) -> str:
    """Whether the workers of a training get GPUs, in one line for people."""
    gpus = gpus_of_a_worker(compute, found) if compute.gpus_per_worker == "auto" else compute.gpus_per_worker
    where = f"on {compute.workers} GPU{'s' * (compute.workers > 1)}" if gpus else "on the CPU"
    setting = f"compute.gpus_per_worker: {compute.gpus_per_worker}, compute.workers: {compute.workers}"
    return "; ".join([f"{where} ({setting})", *unused_gpus(compute, found)])
