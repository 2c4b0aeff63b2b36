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
    gpus_are = "GPU is" if found == 1 else "GPUs are"
    return [f"{found} {gpus_are} not used: {least} workers need {least}; set compute.workers to at most {found}"]
