"""Settings of a Kubernetes cluster for the pods of a RayJob. Secrets are only referred to by name."""

from __future__ import annotations

import math
import os
import re
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from slowfast_core.errors import InputError
from slowfast_core.field_errors import describe
from slowfast_core.recipe.schema import Compute, Positive, Section

VARIABLE = "SLOWFAST_RAYJOB"  # environment variable: RayJobSettings as JSON
NAMESPACE_VARIABLE = "SLOWFAST_RAYJOB_NAMESPACE"  # environment variable of the exit handler: where RayJobs may be left
RUN_LABEL = "slowfast/pipeline-run"  # label of a RayJob: the id of the pipeline run that created it
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


class Secret(Section):
    """A Kubernetes Secret whose keys become environment variables."""

    name: Name
    env: dict[str, str]
    """Environment variable -> key of the Secret."""

    @field_validator("env")
    @classmethod
    def _variables(cls, env: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in env if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name)]:
            raise ValueError(f"{wrong[0]!r} is not a valid name of an environment variable")
        return env


class Toleration(Section):
    key: str
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] | None = "NoSchedule"


class RayJobPods(Section):
    """Settings that only RayJobs have, not the pods of other stages."""

    service_account: Name = "slowfast-services"
    """Service account without permissions: these pods never call Kubernetes."""
    gpus_per_node: Positive = 8
    queue: Name | None = None
    """LocalQueue of Kueue, in which RayJobs wait until all their pods fit. null: they start at once."""
    priority_class: Name | None = None
    """WorkloadPriorityClass of Kueue. Only with `queue`."""
    scratch_gb: Positive = 20
    """Size of /tmp in GiB."""
    extract_pods: Positive = 4
    """Worker pods of an extraction."""
    extract_cpus: Positive = 8
    """CPU cores of each of these pods."""
    extract_memory_gb: Positive = 16
    """Memory of each of these pods in GiB."""


class RayJobSettings(RayJobPods):
    """All settings of a RayJob, as in the environment variable SLOWFAST_RAYJOB."""

    namespace: Name = "slowfast"
    image: str
    gpu_image: str | None = None
    """Image of training on GPUs. null: `image`."""
    claim: Name = "slowfast-data"
    """PersistentVolumeClaim of the workspace's volume."""
    path: str = "/data"
    """Mount path of the volume."""
    sub_path: str = ""
    token_secret: Name = "slowfast-ray-token"
    secrets: tuple[Secret, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    pull_secrets: tuple[Name, ...] = ()
    gpu_type: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Node selector of GPU workers."""
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu"),)
    """Tolerations of GPU workers."""
    shm_gb: Positive = 8
    """Shared memory of a worker pod in GiB."""
    hours: float = Field(240, gt=0)
    """Time limit of the job."""
    user: Positive = 1000
    group: Positive = 1000

    @classmethod
    def from_environment(cls) -> RayJobSettings:
        """Read the settings from SLOWFAST_RAYJOB. Raises InputError if they are missing or invalid."""
        try:
            return cls.model_validate_json(os.environ.get(VARIABLE) or "")
        except ValidationError as error:
            fix = "compile the pipeline with compute.run_on=rayjob, or set it to JSON with at least an image"
            raise InputError(f"no valid settings for a RayJob: {describe(error)}", f"${VARIABLE}", fix) from None


WORKER_GB = 4  # memory of a training process without its frame cache
LOADER_GB = 0.5  # memory of a loader process: benchmarks/loader_memory.py measured 0.25 GB; and room for larger videos


def size_of_workers(compute: Compute, count: int) -> tuple[int, int]:
    """Return CPU cores and GB of memory for `count` training workers; their loaders run on the same cores.

    Each loader process, or the worker itself without any, has a frame cache. Shared memory is not included.
    """
    caches_gb = max(compute.loader_workers, 1) * compute.frame_cache_mb / 1000
    memory = count * (WORKER_GB + compute.loader_workers * LOADER_GB + caches_gb)
    return count * compute.cpus_per_worker, math.ceil(memory)
