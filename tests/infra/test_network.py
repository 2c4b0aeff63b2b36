"""Network policies allow only the needed connections; policies, budgets and services select existing pods."""

from typing import Any

import pytest
from manifests import Document, Pod, pods
from network import End, matches, reaches

STAGE = {"pipelines.kubeflow.org/v2_component": "true"}  # on the pods of Kubeflow's runs
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
DNS = {"k8s-app": "kube-dns"}
SUBMITTER = {"batch.kubernetes.io/job-name": "slowfast-train"}  # of a RayJob
NOT_OURS = [STAGE, OPERATOR, DNS, SUBMITTER]

ENDS = {
    "stage": End(STAGE),
    "mlflow": End({"app.kubernetes.io/name": "mlflow"}),
    "database": End({"app.kubernetes.io/name": "mlflow-database"}),
    "backup": End({"app.kubernetes.io/name": "mlflow-backup", "batch.kubernetes.io/job-name": "mlflow-backup-1"}),
    "object-store": End({"app.kubernetes.io/name": "object-store"}),
    "head": End({"ray.io/is-ray-node": "yes", "ray.io/node-type": "head", "ray.io/cluster": "slowfast"}),
    "worker": End({"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker", "ray.io/cluster": "slowfast"}),
    "head of a RayJob": End({"ray.io/is-ray-node": "yes", "ray.io/node-type": "head", "ray.io/cluster": "job-x"}),
    "stranger": End({"app": "stranger"}),
    "another namespace": End({"app": "stranger"}, namespace="default"),
    "submitter": End(SUBMITTER),
    "operator": End(OPERATOR, namespace="kuberay-system"),
    "prometheus": End({"app": "prometheus"}, namespace="monitoring"),
    "kubeflow": End({"app": "ml-pipeline"}, namespace="kubeflow"),
    "dns": End(DNS, namespace="kube-system"),
    "outside": End(None, namespace="", address="52.1.2.3"),
    "metadata service": End(None, namespace="", address="169.254.169.254"),
}
ALLOWED = [
    ("stage", "mlflow", 5000), ("worker", "mlflow", 5000), ("mlflow", "database", 5432), ("backup", "database", 5432),
    ("stage", "head", 8265), ("stage", "head of a RayJob", 8265), ("operator", "head of a RayJob", 8265),
    ("submitter", "head of a RayJob", 8265), ("worker", "head", 6379),
    ("head", "worker", 40000), ("head", "outside", 6443), ("stage", "outside", 6443),
    ("prometheus", "worker", 8080), ("stage", "kubeflow", 8887), ("worker", "dns", 53), ("mlflow", "dns", 53),
]  # fmt: skip
DENIED = [
    ("stage", "database", 5432), ("worker", "database", 5432), ("head", "database", 5432), ("stranger", "mlflow", 5000),
    ("another namespace", "stranger", 80), ("another namespace", "mlflow", 5000), ("another namespace", "head", 8265),
    ("another namespace", "database", 5432),
    ("submitter", "database", 5432), ("submitter", "mlflow", 5000), ("backup", "head", 8265),
    ("stage", "worker", 8266), ("stage", "head", 6379), ("mlflow", "head", 8265), ("worker", "outside", 6443),
    ("mlflow", "outside", 6443), ("database", "outside", 443), ("prometheus", "mlflow", 5000),
    ("worker", "outside", 22),
    ("stage", "metadata service", 443), ("worker", "metadata service", 443), ("mlflow", "metadata service", 80),
]  # fmt: skip
BUCKET = {"dev": [(each, "object-store", 8333) for each in ("stage", "worker", "mlflow", "backup")],
          "gpu": [(each, "outside", 443) for each in ("stage", "worker", "mlflow", "backup")]}  # fmt: skip


def policies(documents: list[Document]) -> list[Document]:
    return [each for each in documents if each["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("overlay", ["dev", "gpu"])
def test_needed_connections_are_allowed(overlay: str, built: dict[str, list[Document]]) -> None:
    rules = policies(built[overlay])
    denied = [way for way in ALLOWED + BUCKET[overlay] if not reaches(rules, ENDS[way[0]], ENDS[way[1]], way[2])]
    assert denied == []


@pytest.mark.parametrize("overlay", ["dev", "gpu"])
def test_other_connections_are_denied(overlay: str, built: dict[str, list[Document]]) -> None:
    rules = policies(built[overlay])
    assert [way for way in DENIED if reaches(rules, ENDS[way[0]], ENDS[way[1]], way[2])] == []
    if overlay == "dev":
        assert not reaches(rules, ENDS["stranger"], ENDS["object-store"], 8333)
        assert not reaches(rules, ENDS["worker"], ENDS["outside"], 443), "the store of dev is inside"


def test_without_the_default_denial_connections_are_allowed(documents: list[Document]) -> None:
    rules = [each for each in policies(documents) if each["metadata"]["name"] != "default-deny"]
    assert reaches(rules, ENDS["another namespace"], ENDS["stranger"], 80), "so the tests above do depend on it"


def _selected(selector: Document, present: list[dict[str, str]]) -> bool:
    return any(matches(selector, labels) for labels in present)


def test_every_policy_selects_pods_that_exist(documents: list[Document]) -> None:
    ours = [pod.labels for pod in pods(documents)]
    for policy in policies(documents):
        name, spec = policy["metadata"]["name"], policy["spec"]
        assert _selected(spec["podSelector"], [*ours, STAGE, SUBMITTER]), name
        for rule in spec.get("ingress", []) + spec.get("egress", []):
            for peer in rule.get("from", []) + rule.get("to", []):
                assert "podSelector" not in peer or _selected(peer["podSelector"], ours + NOT_OURS), f"{name}: {peer}"


def test_every_value_in_an_expression_is_the_name_of_a_pod(documents: list[Document]) -> None:
    names = {pod.labels.get("app.kubernetes.io/name") for pod in pods(documents)}
    text = [rule for policy in policies(documents) for rule in _expressions(policy)]
    assert {value for rule in text if rule["operator"] == "In" for value in rule["values"]} <= names


def _expressions(node: Any) -> list[Document]:
    if isinstance(node, list):
        return [each for child in node for each in _expressions(child)]
    if not isinstance(node, dict):
        return []
    return node.get("matchExpressions", []) + [each for child in node.values() for each in _expressions(child)]


def test_allowed_ports_are_ports_of_a_container(documents: list[Document]) -> None:
    everything = list(pods(documents))
    for policy in policies(documents):
        selected = [pod for pod in everything if matches(policy["spec"]["podSelector"], pod.labels)]
        for rule in policy["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                assert port["port"] in _ports(selected).values(), f"{policy['metadata']['name']}: {port}"


def test_services_and_budgets_select_pods(documents: list[Document]) -> None:
    everything = list(pods(documents))
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Service":
            chosen = [pod for pod in everything if document["spec"]["selector"].items() <= pod.labels.items()]
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= set(_ports(chosen)), name
        if document["kind"] == "PodDisruptionBudget":
            assert _selected(document["spec"]["selector"], [pod.labels for pod in everything]), name


def _ports(selected: list[Pod]) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for pod in selected
        for container in pod.containers
        for port in container.get("ports", [])
    }
