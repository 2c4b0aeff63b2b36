"""Whether the workers of a training get GPUs, where the recipe says `compute.gpus_per_worker: auto`."""

from __future__ import annotations

from slowfast_core.parallel.ray_connection import connected
from slowfast_core.recipe.schema import Compute


def gpus_found(compute: Compute) -> int:
    """GPUs of this machine, or of the Ray cluster that the recipe names. Raises InputError when that cannot be reached.

    A cluster that starts its GPU nodes on demand shows none: name the number in the recipe there.
    """
    if compute.address is None:
        import torch

        return torch.cuda.device_count()
    with connected(compute.address) as ray:
        return int(ray.cluster_resources().get("GPU", 0))


def gpus_of_a_worker(compute: Compute, found: int) -> int:
    """1 where each worker gets a GPU of its own, else 0: workers shape the weights, so there are not fewer of them."""
    return int(found >= (compute.min_workers or compute.workers))


def unused_gpus(compute: Compute, found: int) -> list[str]:
    """A note on GPUs that are too few for the workers."""
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
