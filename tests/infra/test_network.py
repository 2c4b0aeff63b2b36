"""Network policies allow only the needed connections; policies, budgets and services select existing pods."""

from typing import Any

import pytest
from manifests import Document, Pod, named, pods
from network import End, matches, reaches

STAGE = {"pipelines.kubeflow.org/v2_component": "true"}  # on the pods of Kubeflow's runs
# The labels of the operator's pod in ray-project/kuberay at v1.7.0 (59d663aeec13760646da3db9c1cf8cfe883e30b7):
# helm-chart/kuberay-operator/templates/deployment.yaml with the default values, and
# ray-operator/config/manager/manager.yaml, which the kustomization of the runbook installs.
OPERATOR_OF_HELM = {
    "app.kubernetes.io/name": "kuberay-operator",
    "app.kubernetes.io/instance": "kuberay-operator",
    "app.kubernetes.io/component": "kuberay-operator",
}
OPERATOR_OF_KUSTOMIZE = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"}
DNS = {"k8s-app": "kube-dns"}
NODE_LOCAL_DNS = {"k8s-app": "node-local-dns"}  # as redirected to by Cilium and GKE Dataplane V2
OPENSHIFT_DNS = {"dns.operator.openshift.io/daemonset-dns": "default"}
ISTIO = {"security.istio.io/tlsMode": "istio"}  # on pods that have its proxy
SUBMITTER = {"batch.kubernetes.io/job-name": "slowfast-train"}  # of a RayJob
NOT_OURS = [STAGE, OPERATOR_OF_HELM, OPERATOR_OF_KUSTOMIZE, DNS, NODE_LOCAL_DNS, OPENSHIFT_DNS, SUBMITTER]

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
    "operator of Helm": End(OPERATOR_OF_HELM, namespace="kuberay-system"),
    "operator of kustomize": End(OPERATOR_OF_KUSTOMIZE, namespace="default"),
    "notebook": End({"notebook-name": "mine", **ISTIO}),
    "gateway": End({"istio": "ingressgateway"}, namespace="istio-system"),
    "istiod": End({"app": "istiod"}, namespace="istio-system"),
    "prometheus": End({"app": "prometheus"}, namespace="monitoring"),
    "kubeflow": End({"app": "ml-pipeline"}, namespace="kubeflow"),
    "dns": End(DNS, namespace="kube-system"),
    "redirected dns": End(NODE_LOCAL_DNS, namespace="kube-system"),
    "dns of the node": End(None, namespace="", address="169.254.20.10"),
    "dns of OpenShift": End(OPENSHIFT_DNS, namespace="openshift-dns"),
    "outside": End(None, namespace="", address="52.1.2.3"),
    "metadata service": End(None, namespace="", address="169.254.169.254"),
}
API_SERVER = (443, 6443, 8443)  # of clouds, of kubeadm, kind and k3d, and of minikube
# "metadata service" on port 53 is Cloud DNS of GKE.
RESOLVERS = [
    ("dns", 53), ("redirected dns", 53), ("dns of the node", 53), ("metadata service", 53), ("dns of OpenShift", 5353),
]  # fmt: skip
ALLOWED = [
    ("stage", "mlflow", 5000), ("worker", "mlflow", 5000), ("mlflow", "database", 5432), ("backup", "database", 5432),
    ("stage", "head", 8265), ("stage", "head of a RayJob", 8265), ("submitter", "head of a RayJob", 8265),
    ("operator of Helm", "head of a RayJob", 8265), ("operator of kustomize", "head of a RayJob", 8265),
    ("worker", "head", 6379),
    ("head", "worker", 40000),
    *((pod, "outside", port) for pod in ("head", "stage") for port in API_SERVER),
    *((pod, server, port) for pod in ("stage", "worker", "mlflow", "submitter") for server, port in RESOLVERS),
    ("prometheus", "worker", 8080), ("stage", "kubeflow", 8887),
]  # fmt: skip
DENIED = [
    ("stage", "database", 5432), ("worker", "database", 5432), ("head", "database", 5432), ("stranger", "mlflow", 5000),
    ("another namespace", "stranger", 80), ("another namespace", "mlflow", 5000), ("another namespace", "head", 8265),
    ("another namespace", "database", 5432),
    ("submitter", "database", 5432), ("submitter", "mlflow", 5000), ("backup", "head", 8265),
    ("stage", "worker", 8266), ("stage", "head", 6379), ("mlflow", "head", 8265), ("worker", "outside", 6443),
    ("mlflow", "outside", 6443), ("database", "outside", 443), ("prometheus", "mlflow", 5000),
    ("worker", "outside", 22),
    ("worker", "outside", 8443), ("mlflow", "outside", 8443), ("stage", "dns of the node", 80),
    ("stage", "metadata service", 80), ("head", "metadata service", 80), ("worker", "metadata service", 988),
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


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [("gateway", "notebook", 8888), ("notebook", "istiod", 15012), ("notebook", "outside", 80)],
)
def test_other_pods_of_a_profile_need_its_component(
    source: str, target: str, port: int, built: dict[str, list[Document]], with_components: dict[str, list[Document]]
) -> None:
    assert not reaches(policies(built["gpu"]), ENDS[source], ENDS[target], port)
    assert reaches(policies(with_components["kubeflow-profile"]), ENDS[source], ENDS[target], port)


def test_the_component_of_profiles_opens_nothing_of_ours(with_components: dict[str, list[Document]]) -> None:
    rules = policies(with_components["kubeflow-profile"])
    ways = [*DENIED, ("notebook", "mlflow", 5000), ("notebook", "database", 5432), ("gateway", "mlflow", 5000)]
    assert [way for way in ways if reaches(rules, ENDS[way[0]], ENDS[way[1]], way[2])] == []


KUBEFLOW = {"application-crd-id": "kubeflow-pipelines"}  # on its pods, in manifests/kustomize/env/platform-agnostic
IN_KUBEFLOW = {
    "api": End({"app": "ml-pipeline", **KUBEFLOW}, namespace="kubeflow"),
    "mysql": End({"app": "mysql", **KUBEFLOW}, namespace="kubeflow"),
    "stage": End(STAGE, namespace="kubeflow"),
    "mlflow": End({"app.kubernetes.io/name": "mlflow"}, namespace="kubeflow"),
    "database": End({"app.kubernetes.io/name": "mlflow-database"}, namespace="kubeflow"),
    "outside": ENDS["outside"],
}


def test_a_standalone_kubeflow_keeps_working_in_the_namespace_of_the_overlay(built: dict[str, list[Document]]) -> None:
    rules = policies(built["kind"])
    ways = [
        ("api", "mysql", 3306), ("api", "outside", 443), ("outside", "api", 8888), ("stage", "api", 8887),
        ("stage", "mlflow", 5000), ("stage", "outside", 6443),
    ]  # fmt: skip
    assert [way for way in ways if not reaches(rules, IN_KUBEFLOW[way[0]], IN_KUBEFLOW[way[1]], way[2])] == []
    shut = [("stage", "database", 5432), ("api", "database", 5432), ("api", "mlflow", 5000)]
    assert [way for way in shut if reaches(rules, IN_KUBEFLOW[way[0]], IN_KUBEFLOW[way[1]], way[2])] == []
    without = [each for each in rules if each["metadata"]["name"] != "kubeflow-pipelines"]
    assert not reaches(without, IN_KUBEFLOW["api"], IN_KUBEFLOW["mysql"], 3306)


def test_predictors_are_reached_by_the_gateway_and_reach_mlflow(with_components: dict[str, list[Document]]) -> None:
    rules = policies(with_components["kserve"])
    (predictor,) = [pod for pod in pods(with_components["kserve"]) if pod.where == "InferenceService/slowfast"]
    serving = End(predictor.labels)
    assert reaches(rules, ENDS["gateway"], serving, 8080)
    assert reaches(rules, serving, ENDS["mlflow"], 5000)
    assert not reaches(rules, ENDS["another namespace"], serving, 8080)
    assert not reaches(rules, serving, ENDS["database"], 5432)
    assert not reaches(policies(with_components["cilium"]), serving, ENDS["mlflow"], 5000), "only with the component"


def test_cilium_lets_the_same_pods_reach_the_api_server(with_components: dict[str, list[Document]]) -> None:
    """Cilium applies an ipBlock neither to nodes nor to the API server, whose address is that of a node."""
    documents = with_components["cilium"]
    by_address = [
        policy["spec"]["podSelector"]
        for policy in policies(documents)
        for rule in policy["spec"].get("egress", [])
        if {"protocol": "TCP", "port": 6443} in rule.get("ports", [])
    ]
    rules = named(documents, "CiliumNetworkPolicy", "nodes")["specs"]
    by_entity = [rule["endpointSelector"] for rule in rules if {"toEntities": ["kube-apiserver"]} in rule["egress"]]
    assert STAGE in [selector["matchLabels"] for selector in by_entity]
    assert sorted(map(str, by_entity)) == sorted(map(str, by_address))


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
