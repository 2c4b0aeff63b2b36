"""Validates Kubernetes manifests by their schemas, and finds the pods in them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

Document = dict[str, Any]
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
    if document["apiVersion"].startswith("ray.io/"):
        jsonschema.Draft202012Validator(_strict_schema(document["kind"])).validate(document)
        if document["kind"] == "RayJob":  # whose schema leaves the cluster to this one
            cluster = {**document, "kind": "RayCluster", "spec": document["spec"]["rayClusterSpec"]}
            jsonschema.Draft202012Validator(_strict_schema("RayCluster")).validate(cluster)
        for template in ray_templates(document).values():
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@cache
def _strict_schema(kind: str) -> Document:
    schema: Document = _strict(json.loads((SCHEMAS / f"{kind.lower()}.json").read_text(encoding="utf-8")))
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


def pods(documents: list[Document]) -> Iterator[Pod]:
    for document in documents:
        where, spec = f"{document['kind']}/{document['metadata']['name']}", document.get("spec", {})
        if document["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield _pod(where, spec["template"], document["kind"] != "Job")
        elif document["kind"] == "CronJob":
            yield _pod(where, spec["jobTemplate"]["spec"]["template"], False)
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
