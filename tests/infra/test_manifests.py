"""Both overlays are valid for Kubernetes and KubeRay, and misspelt fields are found in documents of every kind."""

from typing import Any

import jsonschema
import pytest
from manifests import Document, named, ray_templates, validate

KINDS = [
    "ConfigMap", "CronJob", "Deployment", "Job", "LimitRange", "Namespace", "NetworkPolicy", "PersistentVolumeClaim",
    "PodDisruptionBudget", "RayCluster", "ResourceQuota", "Role", "RoleBinding", "Service", "ServiceAccount",
    "StatefulSet",
]  # fmt: skip


def test_every_document_is_valid(documents: list[Document]) -> None:
    for document in documents:
        validate(document)


def test_the_overlays_have_documents_of_all_kinds(built: dict[str, list[Document]]) -> None:
    assert sorted({document["kind"] for each in built.values() for document in each}) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_typo_is_found_in_every_kind(kind: str, built: dict[str, list[Document]]) -> None:
    typos = _with_a_typo(next(document for document in built["dev"] if document["kind"] == kind))
    for broken in typos[:: len(typos) // 4 + 1]:
        with pytest.raises(jsonschema.ValidationError):
            validate(broken)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_a_typo_is_found_in_every_field(kind: str, built: dict[str, list[Document]]) -> None:
    for document in built["gpu"] + built["dev"]:
        for broken in _with_a_typo(document) if document["kind"] == kind else []:
            with pytest.raises(jsonschema.ValidationError):
                validate(broken)


def _with_a_typo(node: Any) -> list[Any]:
    """Copies of the document, each with one misspelt field name; keys that users choose are not changed."""
    if isinstance(node, list):
        return [[*node[:i], each, *node[i + 1 :]] for i, value in enumerate(node) for each in _with_a_typo(value)]
    if not isinstance(node, dict):
        return []
    broken: list[Any] = []
    for key, value in node.items():
        if key not in ("apiVersion", "kind"):
            broken.append({key + "s" if name == key else name: each for name, each in node.items()})
        if key not in FREE:
            broken += [{**node, key: each} for each in _with_a_typo(value)]
    return broken


FREE = {
    "labels", "annotations", "matchLabels", "selector", "data", "hard", "requests", "limits", "nodeSelector", "default",
    "defaultRequest", "rayStartParams", "metadata",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "mlflow", ("spec", "replicas"), "two"),
        ("CronJob", "mlflow-backup", ("spec", "concurrencyPolicy"), 1),
        ("NetworkPolicy", "mlflow", ("spec", "ingress"), {}),
        ("RayCluster", "slowfast", ("spec", "enableInTreeAutoscaling"), "yes"),
        ("RayCluster", "slowfast", ("spec", "authOptions", "mode"), "tokens"),
    ],
)
def test_a_wrong_value_is_found(
    kind: str, name: str, path: tuple[str, ...], value: object, documents: list[Document]
) -> None:
    document = named(documents, kind, name)
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


def test_a_raycluster_without_a_template_is_refused(documents: list[Document]) -> None:
    cluster = named(documents, "RayCluster", "slowfast")
    del cluster["spec"]["headGroupSpec"]["template"]
    with pytest.raises(jsonschema.ValidationError):
        validate(cluster)


def test_only_the_gpu_overlay_has_gpu_workers(built: dict[str, list[Document]]) -> None:
    dev, gpu = (ray_templates(named(built[name], "RayCluster", "slowfast")) for name in ("dev", "gpu"))
    assert sorted(dev) == ["decode", "head"]
    assert sorted(gpu) == ["decode", "gpu", "head"]
    limits = gpu["gpu"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "8"
    assert int(limits["cpu"]) / 8 >= 8 + 1, "a worker's cores by the Kinetics recipes, and one for the rest"
