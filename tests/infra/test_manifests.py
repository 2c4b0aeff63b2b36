"""Both overlays are valid for Kubernetes and KubeRay, and misspelt fields are found in documents of every kind."""

import jsonschema
import pytest
from manifests import MANIFESTS, Document, named, ray_templates, typos, validate

KINDS = [
    "ConfigMap", "CronJob", "Deployment", "Job", "LimitRange", "Namespace", "NetworkPolicy", "PersistentVolumeClaim",
    "PodDisruptionBudget", "RayCluster", "ResourceQuota", "Role", "RoleBinding", "Service", "ServiceAccount",
    "StatefulSet",
]  # fmt: skip
COMPONENTS = sorted(path.name for path in (MANIFESTS / "components").iterdir())


def test_every_document_is_valid(documents: list[Document]) -> None:
    for document in documents:
        validate(document)


def test_the_overlays_have_documents_of_all_kinds(built: dict[str, list[Document]]) -> None:
    assert sorted({document["kind"] for each in built.values() for document in each}) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_typo_is_found_in_every_kind(kind: str, built: dict[str, list[Document]]) -> None:
    broken_documents = typos(next(document for document in built["dev"] if document["kind"] == kind))
    for broken in broken_documents[:: len(broken_documents) // 4 + 1]:
        with pytest.raises(jsonschema.ValidationError):
            validate(broken)


@pytest.mark.parametrize("component", COMPONENTS)
def test_components_are_valid_and_a_typo_is_found_in_each_of_their_kinds(
    component: str, built: dict[str, list[Document]], with_components: dict[str, list[Document]]
) -> None:
    standard = {(document["kind"], document["metadata"]["name"]) for document in built["gpu"]}
    for document in with_components[component]:
        validate(document)
        if (document["kind"], document["metadata"]["name"]) not in standard:
            for broken in typos(document):
                with pytest.raises(jsonschema.ValidationError):
                    validate(broken)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_a_typo_is_found_in_every_field(kind: str, built: dict[str, list[Document]]) -> None:
    for document in built["gpu"] + built["dev"]:
        for broken in typos(document) if document["kind"] == kind else []:
            with pytest.raises(jsonschema.ValidationError):
                validate(broken)


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
