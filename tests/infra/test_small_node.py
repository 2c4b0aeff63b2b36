"""The dev overlay and the demo fit one node of 4 CPUs and 8 GiB, and the settings for it are those of the overlay."""

import re
from typing import Any

import pytest
import yaml
from manifests import MANIFESTS, Document, named, pods, quantity

from pipelines.kubernetes.compile import compile_pipeline
from pipelines.kubernetes.settings import Cluster, load_cluster
from slowfast_core.recipe.load import load_recipe

CPUS, MEMORY = 4, 8 * 2**30
# What the rest asks for on the same node, in CPUs and bytes.
OTHERS = {
    # manifests/kustomize/env/platform-agnostic of kubeflow/pipelines 2.17.0, with Argo Workflows 4.0.5, and the driver
    # of one task (backend/src/v2/compiler/argocompiler/argo.go).
    "Kubeflow Pipelines": (0.674 + 0.1, 3.12 * 2**30),
    "KubeRay": (0.1, 0.5 * 2**30),  # ray-operator/config/manager/manager.yaml at v1.7.0
    "Kubernetes": (1.1, 0.3 * 2**30),  # kubeadm's control plane, CoreDNS and Calico
}
RUNNER = (4, 16 * 2**30)  # a node with all of that: a virtual machine of GitHub's workflows


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return load_cluster(MANIFESTS / "overlays" / "dev" / "cluster.yaml")


@pytest.fixture(scope="module")
def needs(cluster: Cluster) -> dict[str, tuple[float, float]]:
    """CPUs and bytes of each task of the demo, with the settings of try-on-kind."""
    script = (MANIFESTS / "try-on-kind").read_text(encoding="utf-8")
    recipe, *rest = re.search(r"^recipe=\(([^)]*)\)", script, flags=re.M)[1].split()  # type: ignore[index]
    overrides = re.findall(r"--set (\S+)", " ".join(rest))
    assert len(overrides) == 4
    text = compile_pipeline(load_recipe(recipe, overrides), cluster)
    specification: Any = next(yaml.load_all(text, Loader=yaml.CSafeLoader))
    containers = {name: each["container"] for name, each in specification["deploymentSpec"]["executors"].items()}
    return {name: _need(each["resources"]) for name, each in containers.items()}


def _need(resources: dict[str, str]) -> tuple[float, float]:
    assert resources["resourceCpuRequest"] == resources["resourceCpuLimit"]
    return float(resources["resourceCpuLimit"]), quantity(resources["resourceMemoryLimit"])


def _standing(documents: list[Document]) -> tuple[float, float]:
    """CPUs and bytes that the pods of the overlay ask for all the time."""
    suspended = named(documents, "RayCluster", "slowfast")["spec"]["suspend"]
    asked = [
        container["resources"]["requests"]
        for pod in pods(documents)
        for container in pod.spec["containers"]
        if pod.stays and not (suspended and pod.where.startswith("RayCluster"))
    ]
    return sum(quantity(each["cpu"]) for each in asked), sum(quantity(each["memory"]) for each in asked)


def test_each_stage_fits_next_to_the_overlay(
    needs: dict[str, tuple[float, float]], built: dict[str, list[Document]]
) -> None:
    assert {"exec-train", "exec-extract", "exec-evaluate", "exec-close-runs"} <= set(needs)
    cpus, memory = _standing(built["dev"])
    too_large = {name: need for name, need in needs.items() if cpus + need[0] > CPUS or memory + need[1] > MEMORY}
    assert too_large == {}


def test_all_fits_a_node_with_kubeflow(needs: dict[str, tuple[float, float]], built: dict[str, list[Document]]) -> None:
    parts = [_standing(built["kind"]), *OTHERS.values(), (max(need[0] for need in needs.values()), 0)]
    assert sum(part[0] for part in parts) <= RUNNER[0]
    assert sum(part[1] for part in parts) + max(need[1] for need in needs.values()) <= RUNNER[1]


def test_each_stage_has_the_memory_that_the_demo_was_measured_with(needs: dict[str, tuple[float, float]]) -> None:
    """Peak memory (PSS) of the demo on two cores, in MiB, with half as much again."""
    measured = {"ingest": 107, "validate": 291, "extract": 210, "train": 2363, "evaluate": 381, "register": 326}
    assert [stage for stage, peak in measured.items() if needs[f"exec-{stage}"][1] < 1.5 * peak * 2**20] == []


def test_the_settings_are_those_of_the_overlay(cluster: Cluster, built: dict[str, list[Document]]) -> None:
    documents = built["dev"]
    worker = named(documents, "RayCluster", "slowfast")["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    environment = named(documents, "ConfigMap", "slowfast-environment")["data"]
    assert cluster.image == worker["containers"][0]["image"]
    assert cluster.namespace == documents[0]["metadata"]["name"]
    assert named(documents, "ServiceAccount", cluster.service_account)
    assert named(documents, "PersistentVolumeClaim", cluster.data.claim)
    assert cluster.environment.items() <= environment.items()
    assert cluster.tracking_uri == "http://mlflow:5000"
    assert named(documents, "Service", "mlflow")["spec"]["ports"][0]["port"] == 5000
