"""The RayJob of a stage: a Ray cluster of its own, sized by the recipe, that goes when the job ends or its pod does."""

from __future__ import annotations

import json
import math
import os
from importlib.metadata import version
from typing import Any, Literal

from pydantic import Field, ValidationError

from slowfast_core.cluster.stage_job import StageJob
from slowfast_core.errors import InputError
from slowfast_core.recipe import Recipe
from slowfast_core.sections import Compute, Positive, Section

VARIABLE = "SLOWFAST_RAYJOB"  # environment variable: the settings below, as JSON
WORKER_GB = 4  # of memory for a training process, besides its frame cache
KEPT_SECONDS = 60  # the cluster of a finished job that nobody removes; ours is removed at once


class Toleration(Section):
    key: str = "nvidia.com/gpu"
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] | None = "NoSchedule"


class RayJobSettings(Section):
    """What this Kubernetes cluster gives to the pods of a RayJob. Secrets and ConfigMaps are named, never written."""

    namespace: str = "slowfast"
    image: str
    gpu_image: str | None = None  # None: the same
    service_account: str = "slowfast-services"  # for pods that never speak to Kubernetes
    claim: str = "slowfast-data"  # of the workspace's volume
    path: str = "/data"
    token_secret: str = "slowfast-ray-token"
    config_maps: tuple[str, ...] = ("slowfast-environment",)  # whole, as environment variables
    secrets: tuple[str, ...] = ("slowfast-object-store",)
    pull_secrets: tuple[str, ...] = ()
    gpu_type: str = "nvidia.com/gpu"
    gpus_per_node: Positive = 8
    node_selector: dict[str, str] = Field({})  # of GPU workers
    tolerations: tuple[Toleration, ...] = (Toleration(),)
    shm_gb: Positive = 16
    scratch_gb: Positive = 20
    extract_pods: Positive = 4
    extract_cpus: Positive = 8  # of each
    extract_memory_gb: Positive = 16
    hours: Positive = 240  # that a job may take
    user: Positive = 1000
    group: Positive = 1000

    @classmethod
    def from_environment(cls) -> RayJobSettings:
        """Raises InputError when they are missing or wrong."""
        try:
            return cls.model_validate_json(os.environ.get(VARIABLE) or "")
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")
            mend = "set it to JSON with at least an image"
            raise InputError(f"no settings for a RayJob: {what}", f"${VARIABLE}", mend) from None


def rayjob_of(
    job: StageJob, recipe: Recipe, settings: RayJobSettings, owner: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The resource. `owner` refers to the pod that creates it: with that pod, Kubernetes removes it."""
    gpus = recipe.compute.gpus_per_worker if job.stage == "train" else 0
    image = (settings.gpu_image if gpus else None) or settings.image
    workers = _training(recipe.compute, settings) if job.stage == "train" else _extraction(settings)
    metadata = {
        "name": job.name,
        "namespace": settings.namespace,
        "labels": {"app.kubernetes.io/part-of": "slowfast", "slowfast/stage": job.stage},
        "ownerReferences": [owner] if owner else [],
    }
    spec = {
        "entrypoint": job.entrypoint,
        "runtimeEnvYAML": json.dumps({"env_vars": job.environment}),
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "preRunningDeadlineSeconds": 60 * recipe.compute.wait_minutes,
        "activeDeadlineSeconds": 3600 * settings.hours,
        "backoffLimit": 0,  # a stage that is tried again is tried by the pipeline
        "submitterConfig": {"backoffLimit": 2},
        "submitterPodTemplate": {"spec": _pod("submitter", image, 0.5, 1, settings) | {"restartPolicy": "Never"}},
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            "authOptions": {"mode": "token", "secretName": settings.token_secret},
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # the driver, and no work besides
                "template": _template(_pod("ray-head", image, 2, 8, settings)),
            },
            "workerGroupSpecs": [{"rayStartParams": {}, **workers(image)}],
        },
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _extraction(settings: RayJobSettings) -> Any:
    def group(image: str) -> dict[str, Any]:
        pod = _pod("ray-worker", image, settings.extract_cpus, settings.extract_memory_gb, settings)
        return _group("decode", settings.extract_pods, pod)

    return group


def _training(compute: Compute, settings: RayJobSettings) -> Any:
    """As few pods as the GPUs of a node allow, so that workers of one node reach each other's memory."""
    per_pod = 1
    if compute.gpus_per_worker:
        per_pod = max(min(settings.gpus_per_node // compute.gpus_per_worker, compute.workers), 1)
    cpus = per_pod * (compute.cpus_per_worker + compute.loader_workers)
    memory = settings.shm_gb + math.ceil(per_pod * (WORKER_GB + compute.frame_cache_mb / 1000))

    def group(image: str) -> dict[str, Any]:
        pod = _pod("ray-worker", image, cpus, memory, settings)
        if compute.gpus_per_worker:
            resources = pod["containers"][0]["resources"]
            for part in ("requests", "limits"):
                resources[part] |= {settings.gpu_type: str(per_pod * compute.gpus_per_worker)}
            tolerations = [toleration.model_dump(exclude_none=True) for toleration in settings.tolerations]
            pod |= {"nodeSelector": settings.node_selector, "tolerations": tolerations}
        return _group("train", math.ceil(compute.workers / per_pod), pod)

    return group


def _group(name: str, pods: int, pod: dict[str, Any]) -> dict[str, Any]:
    count = {"replicas": pods, "minReplicas": pods, "maxReplicas": pods}
    return {"groupName": name, **count, "template": _template(pod)}


def _template(pod: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"labels": {"app.kubernetes.io/part-of": "slowfast"}}, "spec": pod}


def _pod(container: str, image: str, cpus: float, memory_gb: int, settings: RayJobSettings) -> dict[str, Any]:
    """The spec of a pod with one container, which may do nothing but work on the volume."""
    size = {"cpu": f"{cpus:g}", "memory": f"{memory_gb}Gi"}
    mounts = {"data": settings.path, "scratch": "/tmp", "shm": "/dev/shm"}
    shm = settings.shm_gb if container == "ray-worker" else 1
    sources = [{"configMapRef": {"name": name}} for name in settings.config_maps]
    return {
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.group,
            "fsGroup": settings.group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": container,
                "image": image,
                "env": [{"name": "HOME", "value": "/tmp"}],
                "envFrom": sources + [{"secretRef": {"name": name}} for name in settings.secrets],
                "resources": {"requests": dict(size), "limits": dict(size)},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
            }
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": settings.claim}},
            {"name": "scratch", "emptyDir": {"sizeLimit": f"{settings.scratch_gb}Gi"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm}Gi"}},
        ],
    }
