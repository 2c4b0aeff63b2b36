"""Evaluates network policies: the part of the rules of Kubernetes that our policies use."""

import ipaddress
from dataclasses import dataclass

from manifests import Document


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, by its labels and namespace, or an address outside the cluster without labels."""

    labels: dict[str, str] | None
    namespace: str = "slowfast"
    address: str = ""


def reaches(policies: list[Document], source: End, target: End, port: int) -> bool:
    """Whether policies on both sides allow a connection; a policy applies to the pods of its own namespace."""
    return _allows(policies, source, target, port, "Egress") and _allows(policies, target, source, port, "Ingress")


def _allows(policies: list[Document], own: End, other: End, port: int, way: str) -> bool:
    if own.labels is None:
        return True
    direction, peers = way.lower(), "to" if way == "Egress" else "from"
    here = [each["spec"] for each in policies if each["metadata"]["namespace"] == own.namespace]
    bound = [spec for spec in here if way in spec["policyTypes"] and matches(spec["podSelector"], own.labels)]
    return not bound or any(
        _includes_any(rule.get(peers, []), other, own.namespace) and _has_port(rule, port)
        for spec in bound
        for rule in spec.get(direction, [])
    )


def _has_port(rule: Document, port: int) -> bool:
    return "ports" not in rule or any(each["port"] == port for each in rule["ports"])


def _includes_any(peers: list[Document], end: End, namespace: str) -> bool:
    return not peers or any(_matches_end(peer, end, namespace) for peer in peers)


def _matches_end(peer: Document, end: End, namespace: str) -> bool:
    """Whether a rule of a policy in `namespace` means this end."""
    if "ipBlock" in peer:
        return end.labels is None and _within(end.address, peer["ipBlock"])
    if end.labels is None:
        return False
    if "namespaceSelector" not in peer:
        return end.namespace == namespace and matches(peer["podSelector"], end.labels)
    home = {"kubernetes.io/metadata.name": end.namespace}
    return matches(peer["namespaceSelector"], home) and matches(peer.get("podSelector", {}), end.labels)


def _within(address: str, block: Document) -> bool:
    """For addresses outside the cluster and of its nodes; those of pods are matched by their labels alone."""
    number = ipaddress.ip_address(address)
    excluded = any(number in ipaddress.ip_network(each) for each in block.get("except", []))
    return number in ipaddress.ip_network(block["cidr"]) and not excluded


def matches(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector matches; supports the operators that our policies use."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        values = rule.get("values", labels.values())  # without values, the key must exist
        if (labels.get(rule["key"]) in values) != {"In": True, "Exists": True, "NotIn": False}[rule["operator"]]:
            return False
    return True
