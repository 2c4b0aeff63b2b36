"""Everything that a manifest refers to exists in the build, or is created by hand according to the runbook."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from manifests import Document, named, pods, ray_templates
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "docs" / "cluster.md"
KUBERNETES = ROOT / "infra" / "kubernetes"


def secrets_of_the_runbook() -> dict[str, set[str]]:
    """Secrets that the runbook creates, with their keys."""
    made: dict[str, set[str]] = {}
    text = RUNBOOK.read_text(encoding="utf-8").replace("\\\n", " ")
    for name, rest in re.findall(r"create secret generic ([\w.-]+)(.*)", text):
        made[name] = set(re.findall(r"--from-(?:literal|file)=([\w.-]+)=", rest))
    return made


def _mappings(node: Any, *keys: str) -> Iterator[Document]:
    """Every mapping that is the value of one of these keys."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else []:
        if key in keys and isinstance(value, dict):
            yield value
        yield from _mappings(value, *keys)


def test_every_secret_is_created_in_the_runbook(documents: list[Document]) -> None:
    made = secrets_of_the_runbook()
    for reference in _mappings(documents, "secretKeyRef"):
        assert reference["key"] in made[reference["name"]]
    for reference in _mappings(documents, "secretRef"):
        assert reference["name"] in made
    token = named(documents, "RayCluster", "slowfast")["spec"]["authOptions"]["secretName"]
    assert made[token] == {"auth_token"}, "the key that KubeRay reads"
    used = {each["name"] for each in _mappings(documents, "secretKeyRef", "secretRef")} | {token}
    assert used == set(made), "and each created secret is used"


def test_config_maps_claims_and_accounts_exist(documents: list[Document]) -> None:
    existing = {(each["kind"], each["metadata"]["name"]) for each in documents}
    for reference in _mappings(documents, "configMapRef", "configMap", "configMapKeyRef"):
        assert ("ConfigMap", reference["name"]) in existing
    for reference in _mappings(documents, "persistentVolumeClaim"):
        assert ("PersistentVolumeClaim", reference["claimName"]) in existing
    for pod in pods(documents):
        assert ("ServiceAccount", pod.spec["serviceAccountName"]) in existing, pod.where
    for document in documents:
        if document["kind"] == "RoleBinding":
            assert ("Role", document["roleRef"]["name"]) in existing
            assert all((each["kind"], each["name"]) in existing for each in document["subjects"])


def test_mounted_volumes_are_declared(documents: list[Document]) -> None:
    claims = {
        f"{each['kind']}/{each['metadata']['name']}": {
            claim["metadata"]["name"] for claim in each.get("spec", {}).get("volumeClaimTemplates", [])
        }
        for each in documents
    }
    for pod in pods(documents):
        declared = {volume["name"] for volume in pod.spec.get("volumes", [])} | claims.get(pod.where, set())
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", [])}
        assert mounted == declared, pod.where


def test_all_documents_are_in_one_namespace(documents: list[Document]) -> None:
    assert {each["metadata"].get("namespace", "slowfast") for each in documents} == {"slowfast"}


def test_the_manifests_have_the_ray_version_of_the_project(documents: list[Document]) -> None:
    version = named(documents, "RayCluster", "slowfast")["spec"]["rayVersion"]
    pinned = re.findall(r'ray\[\w+\]>=([\d.]+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))  # fmt: skip
    assert {version.rpartition(".")[0]} == set(pinned)


def test_the_server_has_the_mlflow_version_of_the_clients(documents: list[Document]) -> None:
    image = named(documents, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]["image"]
    (pinned,) = re.findall(r'"mlflow>=([\d.]+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert image.rpartition(":v")[2].startswith(f"{pinned}.")


def test_the_quota_allows_the_maximum_number_of_pods(documents: list[Document]) -> None:
    hard = named(documents, "ResourceQuota", "slowfast")["spec"]["hard"]
    cluster = named(documents, "RayCluster", "slowfast")
    most = {group["groupName"]: group["maxReplicas"] for group in cluster["spec"]["workerGroupSpecs"]} | {"head": 1}
    requested = {"cpu": 0.0, "memory": 0.0, "nvidia.com/gpu": 0.0}
    for group, template in ray_templates(cluster).items():
        requests = template["spec"]["containers"][0]["resources"]["requests"]
        for resource in requested:
            requested[resource] += most[group] * _quantity(requests.get(resource, "0"))
    for resource, amount in requested.items():
        assert amount <= _quantity(hard[f"requests.{resource}"]), resource


def _quantity(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


def test_the_metrics_of_the_dashboard_are_exported() -> None:
    """Ray's metrics are found in its code; the others belong to exporters of NVIDIA and Kubernetes, and to training."""
    import ray

    dashboard = json.loads((KUBERNETES / "base" / "dashboard.json").read_text(encoding="utf-8"))
    expressions = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    names = set(re.findall(r"\b(?:ray|DCGM_FI|kube)_\w+", expressions))
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("dashboard/modules/metrics", "dashboard/modules/reporter", "data/_internal/usage")
        for path in (Path(ray.__file__).parent / folder).rglob("*.py")
    )
    others = {
        "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_XID_ERRORS", "kube_job_status_failed",
        "kube_pod_container_status_restarts_total", "kube_cronjob_status_last_successful_time",
        "ray_slowfast_clips_per_second", "ray_slowfast_data_wait",
    }  # fmt: skip
    unknown = {name for name in names - others if name not in source and name.removeprefix("ray_") not in source}
    assert unknown == set()
    assert others <= names


@pytest.mark.parametrize("bucket", ["backups", "missing"])
def test_a_backup_is_uploaded_to_the_bucket_or_its_job_fails(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "mlflow.dump").write_bytes(b"PGDMP" * 1000)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        access = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1"}
        settings = access | {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "SLOWFAST_BUCKET": bucket}
        s3 = boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL"], region_name="us-east-1",
                          aws_access_key_id="x", aws_secret_access_key="y")  # fmt: skip
        s3.create_bucket(Bucket="backups")
        command = [
            sys.executable,
            str(KUBERNETES / "base" / "upload.py"),
            str(tmp_path / "mlflow.dump"),
            "mlflow-backups",
        ]
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=60
        )
        stored = s3.list_objects_v2(Bucket="backups").get("Contents", [])
    finally:
        server.stop()
    if bucket == "missing":
        assert done.returncode != 0
        assert "NoSuchBucket" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"mlflow-backups/\d{4}-\d\d-\d\dT\d{6}Z-mlflow\.dump", stored[0]["Key"])
        assert stored[0]["Size"] == 5000
