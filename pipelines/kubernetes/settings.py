"""Where the pipeline runs: one small YAML file a cluster, typed; secrets are named in it, never written."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from slowfast_core.documents import read_yaml_file
from slowfast_core.errors import InputError
from slowfast_core.field_errors import input_error
from slowfast_core.ray_jobs.rayjob_settings import Name, RayJobPods, Secret, Toleration
from slowfast_core.recipe.schema import Positive, Section

DEFAULT = Path("cluster.yaml")
PENDING_HOURS = 24  # for which an attempt may wait for a node


class Secrets(Section):
    """Each goes only to the stages that need it."""

    s3: Secret | None = None
    mlflow: Secret | None = None
    ray: Secret | None = None


class Gpu(Section):
    """What a GPU is called here, and the nodes that have one."""

    type: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu"),)


class Volume(Section):
    claim: Name = "slowfast-data"
    path: str = Field("/data", pattern=r"^/\S+$")
    sub_path: str = ""


class Need(Section):
    """What a stage asks for and is limited to. Where training runs in its pod, the recipe's compute says the rest."""

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
    host: str = Field(pattern=r"^https?://\S+$")  # of the Kubeflow Pipelines API
    ui: str | None = None  # where people look; None: the same
    namespace: Name = "slowfast"
    service_account: Name = "slowfast-pipeline"
    token_env: str = "SLOWFAST_KFP_TOKEN"
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_seconds: Positive = 30
    image: str
    gpu_image: str | None = None  # None: the same
    pull_secrets: tuple[Name, ...] = ()
    data: Volume = Volume()
    tracking_uri: str | None = None  # the MLflow that all runs share; None: the recipe's, else SQLite on the volume
    gpu: Gpu = Gpu()
    shm_gb: Positive = 8
    user: Positive = 1000
    group: Positive = 1000
    environment: dict[str, str] = Field(default_factory=dict)  # of every stage; never a secret
    secrets: Secrets = Secrets()
    rayjob: RayJobPods = RayJobPods()  # for stages with compute.run_on `rayjob`
    stages: dict[str, Need] = Field(default_factory=dict)
    backoff_seconds: Positive = 60  # before the first retry of a stage
    backoff_factor: Positive = 2  # by which each further wait is longer; Argo accepts integers only

    @field_validator("image", "gpu_image")
    @classmethod
    def _pinned(cls, image: str | None) -> str | None:
        tag = (image or "").rpartition("/")[2].partition(":")[2]
        if image and "@sha256:" not in image and tag in ("", "latest"):
            raise ValueError(f"{image!r} moves: name a digest (@sha256:...) or a tag other than `latest`")
        return image

    @field_validator("stages")
    @classmethod
    def _known(cls, stages: dict[str, Need]) -> dict[str, Need]:
        if unknown := [stage for stage in stages if stage not in NEEDS]:
            raise ValueError(f"{unknown[0]!r} is not a stage: use one of {', '.join(NEEDS)}")
        return stages

    @field_validator("environment")
    @classmethod
    def _no_secret(cls, environment: dict[str, str]) -> dict[str, str]:
        if secret := [name for name in environment if re.search(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY", name)]:
            raise ValueError(f"{secret[0]!r} is a secret: name it under `secrets`, where no value is written")
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
        """Kubeflow's cache looks at the image's name alone, so only a digest distinguishes builds."""
        return all("@sha256:" in image for image in (self.image, self.gpu_image or self.image))


def load_cluster(path: Path | None, **changes: str | None) -> Cluster:
    """The settings of a cluster, from `path`, $SLOWFAST_CLUSTER or ./cluster.yaml. Raises InputError."""
    path = path or Path(os.environ.get("SLOWFAST_CLUSTER") or DEFAULT)
    if not path.is_file():
        fix = "write it (pipelines/kubernetes/cluster.example.yaml shows how) or name one with --cluster"
        raise InputError("no cluster settings", path, fix)
    tree = read_yaml_file(path, "correct the settings")
    if not isinstance(tree, dict):
        raise InputError("cluster settings are a mapping", path, "see pipelines/kubernetes/cluster.example.yaml")
    try:
        return Cluster.model_validate(tree | {key: value for key, value in changes.items() if value})
    except ValidationError as error:
        raise input_error(error, path, "correct the settings") from None
