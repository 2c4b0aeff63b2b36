"""Validates Kubernetes manifests by their schemas, and finds the pods in them."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

Document = dict[str, Any]
Build = Callable[[Path], list[Document]]  # from the folder of a kustomization
MANIFESTS = Path(__file__).resolve().parents[2] / "infra" / "kubernetes"
KUBERNETES = "1.32"
SCHEMAS = Path(__file__).parent / "schemas"


@dataclass(frozen=True)
class Pod:
    where: str
    labels: dict[str, str]
    spec: Document
    stays: bool  # runs until it is deleted

    @property
    def containers(self) -> list[Document]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def validate(document: Document) -> None:
    """Validate by the schema of the kind. Raises jsonschema.ValidationError; unknown fields are errors."""
    schema = SCHEMAS / f"{document['kind'].lower()}.json"
    if not schema.is_file():
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.Draft202012Validator(_strict_schema(schema)).validate(document)
    if document["kind"] == "RayJob":  # whose schema leaves the cluster to this one
        cluster = {**document, "kind": "RayCluster", "spec": document["spec"]["rayClusterSpec"]}
        jsonschema.Draft202012Validator(_strict_schema(SCHEMAS / "raycluster.json")).validate(cluster)
    for template in _templates(document):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def _templates(document: Document) -> list[Document]:
    """The templates of pods in a custom resource; its own schema leaves them to that of Kubernetes."""
    if document["kind"] == "InferenceService":
        return [{"spec": predictor_pod(document)}]
    return list(ray_templates(document).values()) if document["kind"] in ("RayCluster", "RayJob") else []


@cache
def _strict_schema(path: Path) -> Document:
    schema: Document = _strict(json.loads(path.read_text(encoding="utf-8")))
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def _strict(node: Any) -> Any:
    """The schema with unknown fields as errors; an API server would drop them silently."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    strict = {key: _strict(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict):
        strict.setdefault("additionalProperties", False)
    return strict


def ray_templates(document: Document) -> dict[str, Document]:
    """Pod templates of a RayCluster or RayJob, by the name of their group."""
    spec = document["spec"]
    if document["kind"] == "RayJob":
        return {"submitter": spec["submitterPodTemplate"]} | ray_templates(
            {"kind": "RayCluster", "spec": spec["rayClusterSpec"]}
        )
    groups = {group["groupName"]: group["template"] for group in spec.get("workerGroupSpecs", [])}
    return {"head": spec["headGroupSpec"]["template"], **groups}


def predictor_pod(document: Document) -> Document:
    """The part of an InferenceService's predictor that is a pod's specification."""
    fields = ("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "timeout", "canaryTrafficPercent", "labels")
    return {key: value for key, value in document["spec"]["predictor"].items() if key not in (*fields, "annotations")}


def pods(documents: list[Document]) -> Iterator[Pod]:
    for document in documents:
        where, spec = f"{document['kind']}/{document['metadata']['name']}", document.get("spec", {})
        if document["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield _pod(where, spec["template"], document["kind"] != "Job")
        elif document["kind"] == "CronJob":
            yield _pod(where, spec["jobTemplate"]["spec"]["template"], False)
        elif document["kind"] == "InferenceService":
            labels = spec["predictor"].get("labels", {})
            yield _pod(where, {"metadata": {"labels": labels}, "spec": predictor_pod(document)}, True)
        elif document["kind"] in ("RayCluster", "RayJob"):
            stays = document["kind"] == "RayCluster"
            for group, template in ray_templates(document).items():
                yield _pod(f"{where}/{group}", template, stays, _labels_of_kuberay(document["metadata"]["name"], group))


def _pod(where: str, template: Document, stays: bool, added: dict[str, str] | None = None) -> Pod:
    return Pod(where, template.get("metadata", {}).get("labels", {}) | (added or {}), template["spec"], stays)


def _labels_of_kuberay(cluster: str, group: str) -> dict[str, str]:
    """Labels that the KubeRay operator adds to the pods of a cluster."""
    kind = "head" if group == "head" else "worker"
    return {"ray.io/cluster": cluster, "ray.io/is-ray-node": "yes", "ray.io/node-type": kind, "ray.io/group": group}


def named(documents: list[Document], kind: str, name: str) -> Document:
    return next(each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name)


def quantity(text: str) -> float:
    """A number of Kubernetes' notation, such as 500m or 8Gi."""
    number, unit = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", text).groups()  # type: ignore[union-attr]
    factors = {"": 1, "m": 1e-3, "M": 1e6, "G": 1e9, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(number) * factors[unit]


FREE = {
    "labels", "annotations", "matchLabels", "selector", "data", "hard", "requests", "limits", "nodeSelector", "default",
    "defaultRequest", "rayStartParams", "metadata", "nodeLabels",
}  # fmt: skip


def typos(node: Any) -> list[Any]:
    """Copies of the document, each with one misspelt field name; keys that users choose are not changed."""
    if isinstance(node, list):
        return [[*node[:i], each, *node[i + 1 :]] for i, value in enumerate(node) for each in typos(value)]
    if not isinstance(node, dict):
        return []
    broken: list[Any] = []
    for key, value in node.items():
        if key not in ("apiVersion", "kind"):
            broken.append({key + "s" if name == key else name: each for name, each in node.items()})
        if key not in FREE:
            broken += [{**node, key: each} for each in typos(value)]
    return broken
