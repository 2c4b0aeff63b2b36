"""The optional components and the examples, which fit one another and the overlays."""

from typing import Any

import jsonschema
import pytest
import yaml
from manifests import MANIFESTS, Document, named, ray_templates, typos, validate
from policies import complaints

EXAMPLES = sorted((MANIFESTS / "examples").iterdir())
WAVE = "argocd.argoproj.io/sync-wave"


def example(name: str) -> list[Document]:
    return list(yaml.safe_load_all((MANIFESTS / "examples" / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_and_a_typo_is_found(path: Any) -> None:
    for document in example(path.name):
        validate(document)
        for broken in typos(document):
            with pytest.raises(jsonschema.ValidationError):
                validate(broken)


def test_no_component_adds_something_to_complain_of(with_components: dict[str, list[Document]]) -> None:
    for component, documents in with_components.items():
        assert complaints(documents) == [], component


def test_every_component_is_in_the_runbook() -> None:
    runbook = (MANIFESTS.parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
    names = [path.name for path in (MANIFESTS / "components").iterdir()]
    assert [name for name in names if f"| `{name}` |" not in runbook] == []


def test_the_queue_of_the_namespace_is_one_of_the_cluster(with_components: dict[str, list[Document]]) -> None:
    documents, cluster = with_components["kueue"], example("kueue.yaml")
    queue = named(cluster, "ClusterQueue", named(documents, "LocalQueue", "slowfast")["spec"]["clusterQueue"])["spec"]
    namespaces = [value for rule in queue["namespaceSelector"]["matchExpressions"] for value in rule["values"]]
    assert named(documents, "LocalQueue", "slowfast")["metadata"]["namespace"] in namespaces
    (group,) = queue["resourceGroups"]
    for flavor in group["flavors"]:
        assert named(cluster, "ResourceFlavor", flavor["name"])
        assert [each["name"] for each in flavor["resources"]] == group["coveredResources"]


def test_the_flavor_for_gpus_is_the_nodes_of_the_gpu_workers(built: dict[str, list[Document]]) -> None:
    worker = ray_templates(named(built["gpu"], "RayCluster", "slowfast"))["gpu"]["spec"]
    flavor = named(example("kueue.yaml"), "ResourceFlavor", "slowfast-gpu")["spec"]
    assert (flavor["nodeLabels"], flavor["tolerations"]) == (worker["nodeSelector"], worker["tolerations"])


def test_priority_classes_exist_where_pods_name_them(with_components: dict[str, list[Document]]) -> None:
    services = [each for each in with_components["kueue"] if each["kind"] in ("Deployment", "StatefulSet")]
    classes = {each["spec"]["template"]["spec"]["priorityClassName"] for each in services}
    assert [named(example("kueue.yaml"), "PriorityClass", name)["value"] for name in classes] == [100000]


def test_kueue_is_not_given_the_standing_cluster(with_components: dict[str, list[Document]]) -> None:
    """Its webhook refuses a RayCluster with a queue and enableInTreeAutoscaling."""
    cluster = named(with_components["kueue"], "RayCluster", "slowfast")
    assert cluster["spec"]["enableInTreeAutoscaling"]
    assert "kueue.x-k8s.io/queue-name" not in cluster["metadata"].get("labels", {})


def _waves(documents: list[Document]) -> dict[tuple[str, str], int]:
    return {
        (each["kind"], each["metadata"]["name"]): int(each["metadata"].get("annotations", {}).get(WAVE, 0))
        for each in documents
    }


def test_argo_cd_waits_for_the_database_and_not_for_the_claim(with_components: dict[str, list[Document]]) -> None:
    wave = _waves(with_components["argo-cd"])
    assert wave["StatefulSet", "mlflow-database"] < wave["Deployment", "mlflow"] < wave["CronJob", "mlflow-backup"]
    assert wave["PersistentVolumeClaim", "slowfast-data"] == wave["RayCluster", "slowfast"]
    claim = named(with_components["argo-cd"], "PersistentVolumeClaim", "slowfast-data")["metadata"]["annotations"]
    assert claim["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"


def test_the_application_names_what_exists_and_numbers_it_last(built: dict[str, list[Document]]) -> None:
    (application,) = example("argo-cd.yaml")
    source = application["spec"]["source"]
    overlay = MANIFESTS.parents[1] / source["path"]
    assert overlay.name in built
    assert [
        part for part in source["kustomize"]["components"] if not (overlay / part / "kustomization.yaml").is_file()
    ] == []
    assert source["kustomize"]["components"][-1].endswith("/argo-cd")
