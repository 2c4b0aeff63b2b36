"""How much of a pod training takes, by the recipe."""

from __future__ import annotations

import math

from slowfast_core.recipe.schema import Compute

WORKER_GB = 4  # of memory for a training process, besides its frame cache


def size_of_workers(compute: Compute, count: int) -> tuple[int, int]:
    """CPUs and GB of memory of `count` training workers, with their loaders and frame caches."""
    cpus = count * (compute.cpus_per_worker + compute.loader_workers)
    return cpus, math.ceil(count * (WORKER_GB + compute.frame_cache_mb / 1000))
