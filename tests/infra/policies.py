"""Security policies for our pods; `complaints` lists the violations."""

import re
from collections.abc import Iterator

from manifests import Document, Pod, pods

SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|(^|_)KEY(_|$)|CREDENTIAL", re.I)
INLINE = re.compile(r"://[^/\s:@$]+:[^/\s@$]+@")  # a password in a URI
IMAGE = re.compile(r"^(?P<name>[^@]+?)(:(?P<tag>[^:/@]+))?(?P<digest>@sha256:[0-9a-f]{64})?$")


def complaints(documents: list[Document]) -> list[str]:
    found = [complaint for pod in pods(documents) for complaint in _of_pod(pod)]
    return found + [complaint for document in documents for complaint in _of_document(document)]


def _of_pod(pod: Pod) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(name):
            yield f"{pod.where}: {name}"
    if any("hostPath" in volume for volume in pod.spec.get("volumes", [])):
        yield f"{pod.where}: mounts the node's files"
    for container in pod.containers:
        where = f"{pod.where}/{container['name']}"
        yield from _rights(where, pod.spec.get("securityContext", {}) | container.get("securityContext", {}))
        yield from _resources(where, container)
        yield from _image(where, container["image"])
        yield from _secrets(where, container)
    for container in pod.spec["containers"] if pod.stays else []:
        for probe in {"readinessProbe", "livenessProbe"} - set(container):
            yield f"{pod.where}/{container['name']}: no {probe}"


def _rights(where: str, context: Document) -> Iterator[str]:
    if not context.get("runAsNonRoot") or context.get("runAsUser") == 0:
        yield f"{where}: may run as root"
    if context.get("privileged") or context.get("allowPrivilegeEscalation", True):
        yield f"{where}: may gain privileges"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where}: keeps capabilities"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"{where}: no seccomp profile"
    if not context.get("readOnlyRootFilesystem"):
        yield f"{where}: writes to its image"


def _resources(where: str, container: Document) -> Iterator[str]:
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            if resource not in container.get("resources", {}).get(kind, {}):
                yield f"{where}: no {kind} of {resource}"


def _image(where: str, image: str) -> Iterator[str]:
    parts = IMAGE.match(image)
    if not parts or not (parts["tag"] or parts["digest"]) or parts["tag"] == "latest":
        yield f"{where}: image {image} is not pinned"


def _secrets(where: str, container: Document) -> Iterator[str]:
    for variable in container.get("env", []):
        if SECRET.search(variable["name"]) and "value" in variable:
            yield f"{where}: {variable['name']} is written out"
    for text in [*container.get("command", []), *container.get("args", [])]:
        if INLINE.search(text):
            yield f"{where}: a password in {text}"


def _of_document(document: Document) -> Iterator[str]:
    where = f"{document['kind']}/{document['metadata']['name']}"
    if document["kind"] == "Secret":
        yield f"{where}: secrets are made by hand, not kept here"
    if document["kind"] == "ConfigMap":
        for key, value in document.get("data", {}).items():
            if SECRET.search(key) or INLINE.search(value):
                yield f"{where}: {key} is written out"
    if document["kind"] in ("RayCluster", "RayJob"):
        cluster = document["spec"].get("rayClusterSpec", document["spec"])
        if cluster.get("authOptions", {}).get("mode") != "token":
            yield f"{where}: open to whoever reaches it"
        if cluster.get("enableInTreeAutoscaling"):
            options = cluster.get("autoscalerOptions", {})
            rights = options.get("securityContext", {}) | {"readOnlyRootFilesystem": True}  # writes Ray's logs
            yield from _rights(f"{where}/autoscaler", rights)
            yield from _resources(f"{where}/autoscaler", options)
    for rule in document.get("rules", []):
        if "*" in rule["verbs"] + rule["resources"] + rule["apiGroups"]:
            yield f"{where}: a rule for everything"
    if document["kind"] in ("ClusterRole", "ClusterRoleBinding"):
        yield f"{where}: reaches beyond the namespace"
