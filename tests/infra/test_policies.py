"""No pod runs as root, without limits or probes, with a secret in plain text or with an unpinned image."""

from collections.abc import Callable
from typing import Any

import pytest
from manifests import Document, named, pods
from policies import complaints


def test_the_overlays_comply_with_the_policies(documents: list[Document]) -> None:
    assert complaints(documents) == []


def _server(documents: list[Document]) -> dict[str, Any]:
    container: dict[str, Any] = named(documents, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]
    return container


def _worker(documents: list[Document]) -> dict[str, Any]:
    container: dict[str, Any] = _ray(documents)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    return container


def _ray(documents: list[Document]) -> dict[str, Any]:
    spec: dict[str, Any] = named(documents, "RayCluster", "slowfast")["spec"]
    return spec


def _settings(documents: list[Document]) -> dict[str, Any]:
    data: dict[str, Any] = named(documents, "ConfigMap", "slowfast-environment")["data"]
    return data


VIOLATIONS: list[tuple[str, Callable[[list[Document]], object]]] = [
    ("may run as root", lambda all_: _server(all_)["securityContext"].update(runAsUser=0)),
    ("may run as root", lambda all_: _worker(all_)["securityContext"].update(runAsNonRoot=False)),
    ("may gain privileges", lambda all_: _worker(all_)["securityContext"].update(privileged=True)),
    ("keeps capabilities", lambda all_: _server(all_)["securityContext"].pop("capabilities")),
    ("writes to its image", lambda all_: _server(all_)["securityContext"].update(readOnlyRootFilesystem=False)),
    ("no limits of memory", lambda all_: _worker(all_)["resources"]["limits"].pop("memory")),
    ("no requests of cpu", lambda all_: _server(all_)["resources"].pop("requests")),
    ("no livenessProbe", lambda all_: _worker(all_).pop("livenessProbe")),
    ("no readinessProbe", lambda all_: _server(all_).pop("readinessProbe")),
    ("is not pinned", lambda all_: _server(all_).update(image="ghcr.io/mlflow/mlflow:latest")),
    ("is not pinned", lambda all_: _worker(all_).update(image="registry.example.com:5000/slowfast-cpu")),
    ("is written out", lambda all_: _server(all_)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"})),
    ("is written out", lambda all_: _worker(all_)["env"].append({"name": "RAY_AUTH_TOKEN", "value": "x"})),
    ("a password in", lambda all_: _server(all_)["args"].append("--x=postgresql://mlflow:hunter2@mlflow-database/m")),
    ("PGPASSWORD is written", lambda all_: _settings(all_).update(PGPASSWORD="x")),
    ("open to whoever", lambda all_: _ray(all_).pop("authOptions")),
    ("autoscaler: no limits of cpu", lambda all_: _ray(all_)["autoscalerOptions"].pop("resources")),
    ("for everything", lambda all_: named(all_, "Role", "slowfast-pipeline")["rules"][0].update(verbs=["*"])),
    ("made by hand", lambda all_: all_.append({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("complaint", "violate"), VIOLATIONS, ids=[f"{n}-{each[0]}" for n, each in enumerate(VIOLATIONS)]
)
def test_a_violation_is_found(
    complaint: str, violate: Callable[[list[Document]], object], documents: list[Document]
) -> None:
    violate(documents)
    assert any(complaint in each for each in complaints(documents))


def test_stages_may_only_manage_rayjobs(documents: list[Document]) -> None:
    (binding,) = [each for each in documents if each["kind"] == "RoleBinding"]
    assert [each["name"] for each in binding["subjects"]] == [binding["roleRef"]["name"]] == ["slowfast-pipeline"]
    assert named(documents, "Role", "slowfast-pipeline")["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list", "watch", "delete"]}
    ]


def test_only_the_head_of_the_cluster_has_a_token_of_kubernetes(documents: list[Document]) -> None:
    holders = [pod.where for pod in pods(documents) if pod.spec["automountServiceAccountToken"]]
    assert holders == ["RayCluster/slowfast/head"]


def test_istio_puts_no_proxy_into_a_pod(documents: list[Document]) -> None:
    """Istio's webhook selects pods by this label; an annotation of that name is its older, second choice."""
    assert [pod.where for pod in pods(documents) if pod.labels.get("sidecar.istio.io/inject") != "false"] == []
