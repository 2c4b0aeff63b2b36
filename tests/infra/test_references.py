"""Everything that a manifest refers to exists in the build, or is created by hand according to the runbook."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import mlflow.environment_variables
import pytest
import yaml
from manifests import Build, Document, Pod, named, pods, quantity, ray_templates
from moto.server import ThreadedMotoServer

from slowfast_core.ray_jobs.rayjob_manifest import GRACE_SECONDS
from slowfast_core.training.ray_workers import GAUGES

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


def test_external_secrets_are_those_of_the_runbook(with_components: dict[str, list[Document]]) -> None:
    external = [each for each in with_components["external-secrets"] if each["kind"] == "ExternalSecret"]
    made = {each["spec"]["target"]["name"]: {item["secretKey"] for item in each["spec"]["data"]} for each in external}
    assert made == {name: keys for name, keys in secrets_of_the_runbook().items() if name != "slowfast-object-store"}
    stores = [each["metadata"]["name"] for each in with_components["external-secrets"] if each["kind"] == "SecretStore"]
    assert {each["spec"]["secretStoreRef"]["name"] for each in external} == set(stores)


def test_gpu_uses_the_identity_of_the_cloud_and_no_stored_key(built: dict[str, list[Document]]) -> None:
    documents = built["gpu"]
    keys = [each for each in _mappings(documents, "secretRef") if each["name"] == "slowfast-object-store"]
    assert keys
    assert all(each["optional"] for each in keys), "pods start without it"
    accounts = [each for each in documents if each["kind"] == "ServiceAccount"]
    names = [each["metadata"]["name"] for each in accounts]
    assert all(pod.spec["serviceAccountName"] in names for pod in pods(documents))
    for account in accounts:
        role = account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
        assert re.fullmatch(r"arn:aws:iam::\d{12}:role/\w+", role)


def test_dev_does_not_start_its_object_store_without_keys(built: dict[str, list[Document]]) -> None:
    store = named(built["dev"], "StatefulSet", "object-store")["spec"]["template"]["spec"]["containers"][0]
    assert store["envFrom"] == [{"secretRef": {"name": "slowfast-object-store"}}]
    assert not any(each["metadata"].get("annotations") for each in built["dev"] if each["kind"] == "ServiceAccount")


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


@pytest.mark.parametrize("overlay", ["dev", "gpu"])
def test_one_line_gives_another_namespace(overlay: str, build: Build, tmp_path: Path) -> None:
    """Two teams on one cluster: nothing of the second one names the namespace of the first."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    folder = tmp_path / "kubernetes" / "overlays" / overlay
    kustomization = folder / "kustomization.yaml"
    text = kustomization.read_text(encoding="utf-8")
    assert text.count("namespace: slowfast") == 1
    kustomization.write_text(text.replace("namespace: slowfast", "namespace: team-b"), encoding="utf-8")
    documents = build(folder)
    assert {each["metadata"].get("namespace", "team-b") for each in documents} == {"team-b"}
    assert [each["metadata"]["name"] for each in documents if each["kind"] == "Namespace"] == ["team-b"]
    subjects = [subject for each in documents for subject in each.get("subjects", [])]
    assert {subject["namespace"] for subject in subjects} == {"team-b"}
    assert re.findall(r'namespace"?: "?slowfast|\.slowfast[.:,\s"]', yaml.safe_dump(documents)) == []
    dashboard = json.loads(named(documents, "ConfigMap", "slowfast-dashboard")["data"]["slowfast.json"])
    assert "slowfast" not in json.dumps(dashboard["templating"])


def _immutable(document: Document) -> object:
    """The fields that Kubernetes refuses to change in a document that exists."""
    spec = document.get("spec", {})
    if document["kind"] == "PersistentVolumeClaim":
        return {key: value for key, value in spec.items() if key != "resources"}
    if document["kind"] == "StatefulSet":
        return [spec["selector"], spec["serviceName"], spec["volumeClaimTemplates"]]
    return spec["selector"] if document["kind"] == "Deployment" else document.get("roleRef")


def test_the_runbook_names_what_keeps_one_overlay_from_replacing_the_other(built: dict[str, list[Document]]) -> None:
    dev, gpu = ({(each["kind"], each["metadata"]["name"]): each for each in built[name]} for name in ("dev", "gpu"))
    refused = [name for name in sorted(dev.keys() & gpu) if _immutable(dev[name]) != _immutable(gpu[name])]
    assert refused == [("PersistentVolumeClaim", "slowfast-data")]
    text = " ".join(RUNBOOK.read_text(encoding="utf-8").split())
    assert "`dev` and `gpu` describe the claim `slowfast-data` differently" in text


def test_the_manifests_have_the_ray_version_of_the_project(documents: list[Document]) -> None:
    version = named(documents, "RayCluster", "slowfast")["spec"]["rayVersion"]
    pinned = re.findall(r'ray\[\w+\]>=([\d.]+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))  # fmt: skip
    assert {version.rpartition(".")[0]} == set(pinned)


def test_the_server_has_the_mlflow_version_of_the_clients(documents: list[Document]) -> None:
    image = named(documents, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]["image"]
    (pinned,) = re.findall(r'"mlflow>=([\d.]+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert image.rpartition(":v")[2].startswith(f"{pinned}.")


def test_postgresql_is_the_same_build_everywhere(built: dict[str, list[Document]]) -> None:
    """A digest, since Docker's official images are built again under the same tag."""
    images = {
        container["image"]
        for documents in built.values()
        for pod in pods(documents)
        for container in pod.containers
        if "postgres" in container["image"]
    }
    (image,) = images
    assert re.fullmatch(r"docker\.io/library/postgres@sha256:[0-9a-f]{64}", image)


def test_the_server_of_mlflow_fits_its_memory(documents: list[Document]) -> None:
    """MLflow 3.17 with two workers and no requests: 0.6 GiB, and 1.9 GiB with the processes of its job queue."""
    container = named(documents, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]
    environment = named(documents, "ConfigMap", "slowfast-environment")["data"]
    assert {"configMapRef": {"name": "slowfast-environment"}} in container["envFrom"]
    variable = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
    assert environment[variable] == "false"
    assert hasattr(mlflow.environment_variables, variable), "the installed MLflow reads it"
    assert "--workers=2" in container["args"]
    assert quantity(container["resources"]["requests"]["memory"]) >= 2**30


def test_rays_object_store_fits_into_shared_memory(documents: list[Document], monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ray's own rule. A store that is larger than /dev/shm goes to /tmp, on disk."""
    from ray._private import utils

    for group, template in ray_templates(named(documents, "RayCluster", "slowfast")).items():
        memory = quantity(template["spec"]["containers"][0]["resources"]["limits"]["memory"])
        (shm,) = [each["emptyDir"] for each in template["spec"]["volumes"] if each["name"] == "shm"]
        size = quantity(shm["sizeLimit"])
        monkeypatch.setattr(utils, "get_shared_memory_bytes", lambda size=size: size)
        assert utils.resolve_object_store_memory(int(memory)) <= size, group


def test_every_pod_of_the_ray_cluster_has_the_time_of_a_rayjob_to_save(documents: list[Document]) -> None:
    templates = ray_templates(named(documents, "RayCluster", "slowfast"))
    grace = {group: template["spec"].get("terminationGracePeriodSeconds") for group, template in templates.items()}
    assert grace == dict.fromkeys(templates, GRACE_SECONDS)


def test_the_standing_head_has_the_memory_of_several_jobs(built: dict[str, list[Document]]) -> None:
    head = ray_templates(named(built["gpu"], "RayCluster", "slowfast"))["head"]["spec"]["containers"][0]
    assert quantity(head["resources"]["requests"]["memory"]) >= 8 * 2**30


def test_the_quota_allows_the_maximum_number_of_pods(documents: list[Document]) -> None:
    hard = named(documents, "ResourceQuota", "slowfast")["spec"]["hard"]
    cluster = named(documents, "RayCluster", "slowfast")
    most = {group["groupName"]: group["maxReplicas"] for group in cluster["spec"]["workerGroupSpecs"]} | {"head": 1}
    requested = {"cpu": 0.0, "memory": 0.0, "nvidia.com/gpu": 0.0}
    for group, template in ray_templates(cluster).items():
        requests = template["spec"]["containers"][0]["resources"]["requests"]
        for resource in requested:
            requested[resource] += most[group] * quantity(requests.get(resource, "0"))
    for resource, amount in requested.items():
        assert amount <= quantity(hard[f"requests.{resource}"]), resource


EXPORTED = {  # by NVIDIA's exporter, by kube-state-metrics, and by Ray's C++ code
    "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_XID_ERRORS", "kube_job_status_failed",
    "kube_pod_container_status_restarts_total", "kube_pod_start_time", "kube_cronjob_status_last_successful_time",
    *(f"ray_slowfast_{name}" for name in GAUGES),
}  # fmt: skip


def _rays_own() -> set[str]:
    """Words in Ray's code for metrics, among them the name of every metric, with and without its prefix."""
    import ray

    folders = ("dashboard/modules/metrics", "dashboard/modules/reporter", "data/_internal/usage")
    files = [path for folder in folders for path in (Path(ray.__file__).parent / folder).rglob("*.py")]
    words = {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    return words | {f"ray_{word}" for word in words}


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_someone_exports(
    with_components: dict[str, list[Document]],
) -> None:
    dashboard = json.loads((KUBERNETES / "base" / "dashboard.json").read_text(encoding="utf-8"))
    (group,) = named(with_components["monitoring"], "PrometheusRule", "slowfast")["spec"]["groups"]
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = [rule["expr"] for rule in group["rules"]]
    exported = EXPORTED | _rays_own()
    asked: set[str] = set()
    for expression in panels + alerts:
        used = set(re.findall(r"\b(?:ray|DCGM_FI|kube)_\w+", expression)) - {"ray_io_cluster", "ray_train_run_name"}
        assert used, expression
        assert used <= exported, expression
        asked |= used
    assert asked >= EXPORTED
    assert len(alerts) == 4


def test_alerts_fire_when_they_should(with_components: dict[str, list[Document]], tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        pytest.skip("no promtool: Debian has it in the package prometheus")
    rules = named(with_components["monitoring"], "PrometheusRule", "slowfast")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    shutil.copy(Path(__file__).parent / "rules_test.yaml", tmp_path)
    command = ["promtool", "test", "rules", str(tmp_path / "rules_test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def _ports(pod: Pod) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in pod.containers[0]["ports"]}


def test_prometheus_is_sent_to_a_port_that_the_policies_open(with_components: dict[str, list[Document]]) -> None:
    documents = with_components["monitoring"]
    (endpoint,) = named(documents, "PodMonitor", "ray")["spec"]["podMetricsEndpoints"]
    ray_pods = [pod for pod in pods(documents) if "ray.io/is-ray-node" in pod.labels]
    ports = {_ports(pod)[endpoint["port"]] for pod in ray_pods}
    opened = [rule["ports"] for rule in named(documents, "NetworkPolicy", "ray")["spec"]["ingress"] if "ports" in rule]
    assert [{"protocol": "TCP", "port": port} for port in ports] in opened
    assert "prometheus.io" not in yaml.safe_dump(documents), "the Prometheus Operator ignores these annotations"


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
