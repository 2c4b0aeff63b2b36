"""What each task of a compiled pipeline asks of the cluster, read from the compiled YAML itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict


class TaskNeeds(BaseModel):
    """One row of `slowfast pipeline compile --explain`."""

    model_config = ConfigDict(frozen=True)

    task: str
    image: str
    cpu: str
    memory: str
    gpu: int
    attempts: int  # the first one and the retries
    hours: float  # time limit of an attempt
    cached: bool  # whether Kubeflow may reuse an earlier result
    secrets: tuple[str, ...]


def explain(compiled: str) -> list[TaskNeeds]:
    """The needs of every task, in the order in which the tasks run."""
    spec, platform = yaml.safe_load_all(compiled)
    containers = spec["deploymentSpec"]["executors"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    rows = []
    for task in _tasks(spec, spec["root"]):
        executor = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        container, pod = containers[executor]["container"], pods[executor]
        resources = container["resources"]
        rows.append(
            TaskNeeds(
                task=task["taskInfo"]["name"],
                image=container["image"],
                cpu=resources["resourceCpuLimit"],
                memory=resources["resourceMemoryLimit"],
                gpu=int(resources.get("accelerator", {}).get("resourceCount", 0)),
                attempts=1 + int(task["retryPolicy"]["maxRetryCount"]),
                hours=int(pod["activeDeadlineSeconds"]) / 3600,
                cached=task["cachingOptions"].get("enableCache", False),
                secrets=tuple(secret["secretName"] for secret in pod.get("secretAsEnv", ())),
            )
        )
    return rows


def _tasks(spec: dict[str, Any], component: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The tasks that run a container, each after those it depends on."""
    waiting = dict(component["dag"]["tasks"])
    while waiting:
        ready = [name for name, task in waiting.items() if not set(task.get("dependentTasks", ())) & waiting.keys()]
        for name in ready:
            task = waiting.pop(name)
            inner = spec["components"][task["componentRef"]["name"]]
            if "dag" in inner:
                yield from _tasks(spec, inner)
            else:
                yield task
