"""The settings of a cluster: one YAML file, which names Kubernetes secrets and never contains their values."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from slowfast_core.documents import read_yaml_file
from slowfast_core.errors import InputError
from slowfast_core.field_errors import input_error
from slowfast_core.ray_jobs.rayjob_settings import Name, RayJobPods, Secret, Toleration
from slowfast_core.recipe.schema import Positive, Section

DEFAULT = Path("cluster.yaml")
PENDING_HOURS = 24  # for which an attempt may wait for a node


class Secrets(Section):
    """Kubernetes secrets; each is passed only to the stages that need it."""

    s3: Secret | None = None
    mlflow: Secret | None = None
    ray: Secret | None = None


class Gpu(Section):
    """The resource name of a GPU, and the labels and taints of the nodes that have one."""

    type: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu"),)


class Volume(Section):
    """The volume with the workspace."""

    claim: Name = "slowfast-data"
    path: str = Field("/data", pattern=r"^/\S+$")
    sub_path: str = ""


class Need(Section):
    """Resources, time limit and retries of a stage. A training pod also gets what the recipe's `compute` asks for."""

    cpu: float = Field(1, gt=0)
    memory_gb: float = Field(2, gt=0)
    hours: float = Field(1, gt=0)
    retries: Positive = 2


NEEDS: dict[str, Need] = {
    "apply_parameters": Need(),
    "ingest": Need(cpu=2, memory_gb=4, hours=48, retries=3),
    "validate": Need(cpu=8, memory_gb=16, hours=24),
    "extract": Need(cpu=16, memory_gb=32, hours=72),
    "check_training": Need(),
    "train": Need(cpu=2, memory_gb=8, hours=240, retries=3),
    "evaluate": Need(cpu=4, memory_gb=16, hours=24),
    "register": Need(memory_gb=4),
    "close_runs": Need(),
}


class Cluster(Section):
    """All settings of a cluster; pipelines/kubernetes/cluster.example.yaml is an example."""

    host: str = Field(pattern=r"^https?://\S+$")  # of the Kubeflow Pipelines API
    ui: str | None = None  # address of the web interface, for links; None: `host`
    namespace: Name = "slowfast"
    service_account: Name = "slowfast-pipeline"
    token_env: str = "SLOWFAST_KFP_TOKEN"
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_seconds: Positive = 30
    image: str
    gpu_image: str | None = None  # for the stages that use GPUs; None: `image`
    pull_secrets: tuple[Name, ...] = ()
    data: Volume = Volume()
    tracking_uri: str | None = None  # MLflow server; None: the recipe's `tracking.uri`, or SQLite on the volume
    gpu: Gpu = Gpu()
    shm_gb: Positive = 8
    user: Positive = 1000
    group: Positive = 1000
    environment: dict[str, str] = Field(default_factory=dict)  # of every stage; secrets are refused
    secrets: Secrets = Secrets()
    rayjob: RayJobPods = RayJobPods()  # for compute.run_on `rayjob`
    stages: dict[str, Need] = Field(default_factory=dict)  # what differs from NEEDS
    backoff_seconds: Positive = 60  # before the first retry of a stage
    backoff_factor: Positive = 2  # by which each further wait is longer; Argo accepts integers only

    @field_validator("image", "gpu_image")
    @classmethod
    def _pinned(cls, image: str | None) -> str | None:
        tag = (image or "").rpartition("/")[2].partition(":")[2]
        if image and "@sha256:" not in image and tag in ("", "latest"):
            raise ValueError(f"{image!r} may change: use a digest (@sha256:...) or a tag other than `latest`")
        return image

    @field_validator("stages", mode="before")
    @classmethod
    def _with_defaults(cls, stages: Any) -> Any:
        """Complete each entry with the defaults of its stage."""
        if not isinstance(stages, dict):
            return stages
        if unknown := [stage for stage in stages if stage not in NEEDS]:
            raise ValueError(f"{unknown[0]!r} is not a stage: use one of {', '.join(NEEDS)}")
        return {
            stage: {**NEEDS[stage].model_dump(), **need} if isinstance(need, dict) else need
            for stage, need in stages.items()
        }

    @field_validator("environment")
    @classmethod
    def _no_secret(cls, environment: dict[str, str]) -> dict[str, str]:
        if secret := [name for name in environment if re.search(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY", name)]:
            raise ValueError(f"{secret[0]!r} is a secret: put the name of a Kubernetes secret under `secrets`")
        return environment

    def need(self, stage: str) -> Need:
        return self.stages.get(stage, NEEDS[stage])

    def retry_window_seconds(self, need: Need) -> int:
        """Time from the start of a stage's first attempt that is enough for all its attempts.

        Argo calls it maxDuration: after it, nothing is retried, and an attempt that is still running is killed.
        """
        attempts = round(3600 * (need.hours + PENDING_HOURS)) * (need.retries + 1)
        waits: list[int] = [self.backoff_seconds * self.backoff_factor**retry for retry in range(need.retries)]
        return attempts + sum(waits)

    @property
    def cacheable(self) -> bool:
        """Whether Kubeflow may cache results: it compares image names, which identify a build only by a digest."""
        return all("@sha256:" in image for image in (self.image, self.gpu_image or self.image))


def load_cluster(path: Path | None, **changes: str | None) -> Cluster:
    """Read the settings of a cluster from `path`, $SLOWFAST_CLUSTER or ./cluster.yaml. Raises InputError."""
    path = path or Path(os.environ.get("SLOWFAST_CLUSTER") or DEFAULT)
    if not path.is_file():
        fix = "copy pipelines/kubernetes/cluster.example.yaml there, or pass another file with --cluster"
        raise InputError("there are no cluster settings", path, fix)
    tree = read_yaml_file(path, "correct the settings")
    if not isinstance(tree, dict):
        fix = "start from pipelines/kubernetes/cluster.example.yaml"
        raise InputError("the cluster settings are not a mapping", path, fix)
    try:
        return Cluster.model_validate(tree | {key: value for key, value in changes.items() if value})
    except ValidationError as error:
        raise input_error(error, path, "correct the settings") from None
