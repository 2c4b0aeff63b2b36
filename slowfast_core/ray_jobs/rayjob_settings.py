"""What a Kubernetes cluster gives to the pods of a RayJob. Secrets are named, never written."""

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
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


class Secret(Section):
    """A Kubernetes Secret by name, and which of its keys becomes which environment variable."""

    name: Name
    env: dict[str, str]  # variable: key

    @field_validator("env")
    @classmethod
    def _variables(cls, env: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in env if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name)]:
            raise ValueError(f"{wrong[0]!r} is no name of an environment variable")
        return env


class Toleration(Section):
    key: str
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] | None = "NoSchedule"


class RayJobPods(Section):
    """What the stages in pods of their own have no word for."""

    service_account: Name = "slowfast-services"  # which may nothing: these pods never speak to Kubernetes
    gpus_per_node: Positive = 8
    scratch_gb: Positive = 20
    extract_pods: Positive = 4
    extract_cpus: Positive = 8  # of each
    extract_memory_gb: Positive = 16


class RayJobSettings(RayJobPods):
    namespace: Name = "slowfast"
    image: str
    gpu_image: str | None = None  # None: the same
    claim: Name = "slowfast-data"  # of the workspace's volume
    path: str = "/data"
    sub_path: str = ""
    token_secret: Name = "slowfast-ray-token"
    secrets: tuple[Secret, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    pull_secrets: tuple[Name, ...] = ()
    gpu_type: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = Field(default_factory=dict)  # of GPU workers, as the tolerations
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu"),)
    shm_gb: Positive = 8
    hours: float = Field(240, gt=0)  # that the job may take
    user: Positive = 1000
    group: Positive = 1000

    @classmethod
    def from_environment(cls) -> RayJobSettings:
        """Raises InputError when they are missing or wrong."""
        try:
            return cls.model_validate_json(os.environ.get(VARIABLE) or "")
        except ValidationError as error:
            fix = "compile the pipeline with compute.run_on=rayjob, or set it to JSON with at least an image"
            raise InputError(f"no valid settings for a RayJob: {describe(error)}", f"${VARIABLE}", fix) from None


WORKER_GB = 4  # of memory for a training process, besides its frame cache


def size_of_workers(compute: Compute, count: int) -> tuple[int, int]:
    """CPUs and GB of memory of `count` training workers, with their loaders and frame caches."""
    cpus = count * (compute.cpus_per_worker + compute.loader_workers)
    return cpus, math.ceil(count * (WORKER_GB + compute.frame_cache_mb / 1000))
