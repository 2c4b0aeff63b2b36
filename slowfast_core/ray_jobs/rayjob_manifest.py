"""Builds the RayJob resource of a stage: a new Ray cluster, sized by the recipe, removed with the job or its pod."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from typing import Any

from slowfast_core.ray_jobs.rayjob_settings import RUN_LABEL, RayJobSettings, size_of_workers
from slowfast_core.ray_jobs.stage_job import StageJob
from slowfast_core.recipe.load import Recipe
from slowfast_core.recipe.schema import Compute
from slowfast_core.tracking.runs import PIPELINE_VARIABLE

LABELS = {"app.kubernetes.io/part-of": "slowfast"}
# In a namespace that Istio manages, its proxy would refuse the stage pods, which have none.
NO_ISTIO = {"sidecar.istio.io/inject": "false"}
# By default Ray takes 30 % of a pod's memory for its objects, and slow storage in /tmp if /dev/shm is smaller. Stages
# pass only small objects through Ray; /dev/shm is for the batches of the loaders.
OBJECT_STORE_GB = 1
RAY_START = {"object-store-memory": str(OBJECT_STORE_GB * 10**9)}
QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
KEPT_SECONDS = 60  # until KubeRay removes the cluster of a finished job, if this program has not removed it already
GRACE_SECONDS = 120  # for a stopped job, or a pod of Ray that is deleted or evicted, to finish a step and save


def rayjob_of(
    job: StageJob, recipe: Recipe, settings: RayJobSettings, owner: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the resource. `owner` refers to the pod that creates it: Kubernetes removes the RayJob with that pod."""
    training = job.stage == "train"
    image = (settings.gpu_image if training and recipe.compute.gpus else None) or settings.image
    workers = _training(recipe.compute, image, settings) if training else _extraction(image, settings)
    run = job.environment.get(PIPELINE_VARIABLE)
    variables = job.environment | {"SLOWFAST_IMAGE": image, "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS)}
    labels = {"slowfast/stage": job.stage, RUN_LABEL: run, QUEUE: settings.queue, PRIORITY: settings.priority_class}
    metadata = {
        "name": job.name,
        "namespace": settings.namespace,
        "labels": LABELS | {label: value for label, value in labels.items() if value},
        "ownerReferences": [owner] if owner else [],
    }
    spec = {
        "entrypoint": job.entrypoint,
        "runtimeEnvYAML": json.dumps({"env_vars": variables}),
        "submissionMode": "K8sJobMode",
        "suspend": settings.queue is not None,  # Kueue starts it
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "preRunningDeadlineSeconds": 60 * recipe.compute.wait_minutes,
        "activeDeadlineSeconds": round(3600 * settings.hours),
        "backoffLimit": 0,  # the pipeline retries stages
        "submitterConfig": {"backoffLimit": 2},
        "submitterPodTemplate": _template(_pod("submitter", image, 0.5, 1, settings) | {"restartPolicy": "Never"}),
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            "authOptions": {"mode": "token", "secretName": settings.token_secret},
            "headGroupSpec": {
                # Only the driver runs here.
                "rayStartParams": RAY_START | {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
                "template": _template(_pod("ray-head", image, 2, 8, settings)),
            },
            "workerGroupSpecs": [workers],
        },
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _extraction(image: str, settings: RayJobSettings) -> dict[str, Any]:
    pod = _pod("ray-worker", image, settings.extract_cpus, settings.extract_memory_gb, settings)
    return _group("decode", settings.extract_pods, pod)


def _training(compute: Compute, image: str, settings: RayJobSettings) -> dict[str, Any]:
    """Put as many workers in a pod as a node has GPUs, so that workers on a node share memory."""
    per_pod = 1
    if compute.gpus:
        per_pod = max(min(settings.gpus_per_node // compute.gpus, compute.workers), 1)
    cpus, memory = size_of_workers(compute, per_pod)
    pod = _pod("ray-worker", image, cpus, settings.shm_gb + OBJECT_STORE_GB + memory, settings)
    if compute.gpus:
        resources = pod["containers"][0]["resources"]
        for part in ("requests", "limits"):
            resources[part] |= {settings.gpu_type: str(per_pod * compute.gpus)}
        tolerations = [toleration.model_dump(exclude_none=True) for toleration in settings.tolerations]
        pod |= {"nodeSelector": settings.node_selector, "tolerations": tolerations}
    return _group("train", math.ceil(compute.workers / per_pod), pod)


def _group(name: str, pods: int, pod: dict[str, Any]) -> dict[str, Any]:
    count = {"replicas": pods, "minReplicas": pods, "maxReplicas": pods}
    return {"groupName": name, "rayStartParams": RAY_START, **count, "template": _template(pod)}


def _template(pod: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"labels": LABELS | NO_ISTIO}, "spec": pod}


def _pod(container: str, image: str, cpus: float, memory_gb: int, settings: RayJobSettings) -> dict[str, Any]:
    """Return the spec of a pod with one container, which has no rights except to use the volume."""
    size = {"cpu": f"{cpus:g}", "memory": f"{memory_gb}Gi"}
    shm = OBJECT_STORE_GB + (settings.shm_gb if container == "ray-worker" else 1)
    data = {"subPath": settings.sub_path} if settings.sub_path else {}
    grace = {} if container == "submitter" else {"terminationGracePeriodSeconds": GRACE_SECONDS}
    return {
        **grace,
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
                "env": _environment(settings),
                "resources": {"requests": dict(size), "limits": dict(size)},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "data", "mountPath": settings.path, **data},
                    {"name": "scratch", "mountPath": "/tmp"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": settings.claim}},
            {"name": "scratch", "emptyDir": {"sizeLimit": f"{settings.scratch_gb}Gi"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm}Gi"}},
        ],
    }


def _environment(settings: RayJobSettings) -> list[dict[str, Any]]:
    literal = {"HOME": "/tmp"} | settings.environment
    plain: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in sorted(literal.items())]
    return plain + [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}}
        for secret in settings.secrets
        for variable, key in sorted(secret.env.items())
    ]
