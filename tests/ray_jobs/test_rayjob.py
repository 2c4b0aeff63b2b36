"""A stage as a RayJob: the resource, and its life cycle in the Kubernetes API."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_api import KubernetesApi
from manifests import validate
from policies import complaints

from components.close_runs.report import close_and_report
from slowfast_core import once as stage_module
from slowfast_core.errors import InputError
from slowfast_core.once import run_once
from slowfast_core.ray_jobs.dispatch import run_stage
from slowfast_core.ray_jobs.rayjob import GONE_SECONDS, run_rayjob
from slowfast_core.ray_jobs.rayjob_manifest import GRACE_SECONDS, rayjob_of
from slowfast_core.ray_jobs.rayjob_settings import VARIABLE, RayJobSettings
from slowfast_core.ray_jobs.stage_job import StageJob
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.stages.train import train_inputs
from slowfast_core.workspace import Workspace

SETTINGS = {
    "image": "registry.example/slowfast-cpu@sha256:" + "1" * 64,
    "gpu_image": "registry.example/slowfast-gpu@sha256:" + "2" * 64,
    "node_selector": {"nvidia.com/gpu.present": "true"},
    "secrets": [{"name": "store", "env": {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}}],
    "environment": {"AWS_REGION": "eu-central-1"},
    "pull_secrets": ["registry"],
    "sub_path": "videos",
}
AUTO = "compute.gpus_per_worker=auto"
POD = {"KFP_POD_NAME": "slowfast-train-1", "KFP_POD_UID": "8d6b5b1e-0000-4000-8000-000000000001"}
ACCESS = Path(__file__).resolve().parents[2] / "infra" / "kubernetes" / "base" / "access.yaml"


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi() as server:
        yield server


@pytest.fixture
def in_pod(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KubernetesApi:
    """The environment of the pod of a pipeline's stage."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setenv(VARIABLE, json.dumps(SETTINGS))
    for name, value in POD.items():
        monkeypatch.setenv(name, value)
    return api


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    folder = tmp_path / "slowfast-train-0123456789ab"
    folder.mkdir()
    return StageJob(folder.name, "train", folder)


def _recipe(*overrides: str) -> Recipe:
    return load_recipe("kinetics400/slowfast_8x8_r50", overrides)


def _resource(job: StageJob, *overrides: str, **settings: Any) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b", "controller": True}
    return rayjob_of(job, _recipe(*overrides), RayJobSettings.model_validate(SETTINGS | settings), owner)


def _workers(resource: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    (group,) = resource["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return group["replicas"], group["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("stage", ["train", "extract"])
@pytest.mark.parametrize("gpus", [0, 1])
def test_the_resource_is_valid_and_complies_with_the_policies(job: StageJob, stage: str, gpus: int) -> None:
    job = StageJob(job.name, stage, job.folder)
    resource = _resource(job, f"compute.gpus_per_worker={gpus}")
    validate(resource)
    assert complaints([resource]) == []


@pytest.mark.parametrize(
    "path",
    [
        "spec.shutdownAfterJobFinishes",
        "spec.rayClusterSpec.headGroupSpec",
        "spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas",
        "spec.rayClusterSpec.headGroupSpec.template.spec.serviceAccountName",
        "spec.submitterPodTemplate.spec.containers.0.volumeMounts.0.mountPath",
        "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.securityContext.runAsNonRoot",
    ],
)
def test_a_typo_in_a_field_name_is_found_by_the_schema(job: StageJob, path: str) -> None:
    resource = copy.deepcopy(_resource(job))
    *parents, last = path.split(".")
    node: Any = resource
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    node[last + "s"] = node.pop(last)
    with pytest.raises(jsonschema.ValidationError, match=last):
        validate(resource)


def test_resources_of_training_follow_the_recipe(job: StageJob) -> None:
    compute = ("train.batch=64", "compute.workers=16", "compute.gpus_per_worker=1", "compute.cpus_per_worker=4")
    resource = _resource(job, *compute, "compute.loader_workers=6", "compute.frame_cache_mb=2000", shm_gb=32)
    pods, container = _workers(resource)
    assert pods == 2
    # 8 workers with 6 loaders each: 0.5 GB and a frame cache of 2 GB for each loader, 32 GB of shared memory, 1 GB for
    # the objects of Ray
    assert container["resources"]["limits"] == {"cpu": "32", "memory": "185Gi", "nvidia.com/gpu": "8"}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["image"] == SETTINGS["gpu_image"]
    spec = resource["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert spec["nodeSelector"] == SETTINGS["node_selector"]
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "33Gi"}} in spec["volumes"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "slowfast-data"}} in spec["volumes"]

    pods, container = _workers(_resource(job, "train.batch=66", "compute.workers=3", "compute.gpus_per_worker=0"))
    assert (pods, container["image"]) == (3, SETTINGS["image"])


def test_the_rayjob_is_deleted_with_its_owner_and_limited_in_time(job: StageJob) -> None:
    resource = _resource(job)
    (owner,) = resource["metadata"]["ownerReferences"]
    assert owner["kind"] == "Pod"
    assert resource["spec"]["shutdownAfterJobFinishes"]
    assert resource["spec"]["backoffLimit"] == 0
    assert resource["spec"]["activeDeadlineSeconds"] == 240 * 3600


def test_the_pods_of_ray_have_time_to_save_a_checkpoint(job: StageJob) -> None:
    """Kubernetes' default is 30 seconds, Ray's for a stopped job 3. A retried stage waits for the earlier pods."""
    spec = _resource(job)["spec"]
    cluster = spec["rayClusterSpec"]
    templates = [group["template"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]
    assert [each["spec"]["terminationGracePeriodSeconds"] for each in templates] == [GRACE_SECONDS, GRACE_SECONDS]
    assert json.loads(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == str(GRACE_SECONDS)
    assert GONE_SECONDS > GRACE_SECONDS


def test_the_objects_of_ray_fit_into_shared_memory(job: StageJob) -> None:
    """Otherwise Ray keeps its objects in /tmp, which is slow."""
    for stage in ("train", "extract"):
        cluster = _resource(StageJob(job.name, stage, job.folder))["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            (shm,) = [volume for volume in group["template"]["spec"]["volumes"] if volume["name"] == "shm"]
            room = int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
            assert int(group["rayStartParams"]["object-store-memory"]) < room


def test_a_rayjob_waits_in_the_queue_of_the_settings(job: StageJob) -> None:
    waiting = _resource(job, queue="slowfast", priority_class="slowfast-training")
    validate(waiting)
    labels = waiting["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "slowfast"
    assert labels["kueue.x-k8s.io/priority-class"] == "slowfast-training"
    assert waiting["spec"]["suspend"]
    assert waiting["spec"]["shutdownAfterJobFinishes"]  # KubeRay suspends no other RayJob
    at_once = _resource(job)
    assert not at_once["spec"]["suspend"]
    assert not [label for label in at_once["metadata"]["labels"] if label.startswith("kueue")]


def test_istio_leaves_every_pod_alone(job: StageJob) -> None:
    spec = _resource(job)["spec"]
    cluster = spec["rayClusterSpec"]
    templates = [spec["submitterPodTemplate"], cluster["headGroupSpec"]["template"]]
    templates += [group["template"] for group in cluster["workerGroupSpecs"]]
    assert {each["metadata"]["labels"]["sidecar.istio.io/inject"] for each in templates} == {"false"}


def test_the_pods_get_secrets_by_reference_and_the_volume(job: StageJob) -> None:
    _, container = _workers(_resource(job))
    plain = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert plain == {"HOME": "/tmp", "AWS_REGION": "eu-central-1"}
    named = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each}
    assert named["AWS_ACCESS_KEY_ID"] == {"name": "store", "key": "id"}
    assert {"name": "data", "mountPath": "/data", "subPath": "videos"} in container["volumeMounts"]


def _end_jobs(status: str, message: str = "") -> Callable[[KubernetesApi, str], None]:
    """Simulates an operator: each job runs briefly and ends with this status."""

    def operate(api: KubernetesApi, name: str) -> None:
        api.set_status(name, jobDeploymentStatus="Initializing")
        api.set_status(name, jobDeploymentStatus="Running", jobStatus="RUNNING")
        ended = "Complete" if status == "SUCCEEDED" else "Failed"
        api.set_status(name, jobDeploymentStatus=ended, jobStatus=status, message=message)

    return operate


@pytest.mark.parametrize("ends_early", [False, True])
def test_a_rayjob_is_created_watched_and_deleted(in_pod: KubernetesApi, job: StageJob, ends_early: bool) -> None:
    in_pod.on_create, in_pod.watch_ends_early = _end_jobs("SUCCEEDED"), ends_early
    assert run_rayjob(job, _recipe()) == ""
    assert in_pod.jobs == {}
    assert [call for call in in_pod.calls if call.startswith(("create", "delete"))] == ["create", f"delete {job.name}"]
    documents = yaml.safe_load_all(ACCESS.read_text(encoding="utf-8"))
    (rule,) = next(each for each in documents if each["kind"] == "Role")["rules"]
    assert (rule["apiGroups"], rule["resources"]) == (["ray.io"], ["rayjobs"])
    assert {call.split()[0] for call in in_pod.calls} <= set(rule["verbs"])


def test_a_failed_job_reports_its_message_and_is_deleted(in_pod: KubernetesApi, job: StageJob) -> None:
    in_pod.on_create = _end_jobs("FAILED", "Job entrypoint command failed with exit code 1")
    assert run_rayjob(job, _recipe()) == "failed: Job entrypoint command failed with exit code 1"
    assert in_pod.jobs == {}


def test_a_job_rejected_by_kuberay_reports_the_reason_and_is_deleted(in_pod: KubernetesApi, job: StageJob) -> None:
    status = {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "no such field"}
    in_pod.on_create = lambda api, name: api.set_status(name, **status)
    assert run_rayjob(job, _recipe()) == "validationfailed: ValidationFailed no such field"
    assert in_pod.jobs == {}


def test_a_job_deleted_by_others_has_failed(in_pod: KubernetesApi, job: StageJob) -> None:
    in_pod.on_create = lambda api, name: api.delete(name)
    assert run_rayjob(job, _recipe()) == "its RayJob was removed"


def test_the_job_of_a_crashed_pod_is_replaced(in_pod: KubernetesApi, job: StageJob) -> None:
    left = _resource(job)
    assert in_pod.create(left)[0] == 201
    in_pod.on_create = _end_jobs("SUCCEEDED")
    assert run_rayjob(job, _recipe()) == ""
    changes = [call for call in in_pod.calls if call.startswith(("create", "delete"))]
    assert changes == [f"delete {job.name}", "create", f"delete {job.name}"]
    assert in_pod.jobs == {}


@pytest.mark.parametrize(
    ("rejection", "message"),
    [
        ((403, "forbidden"), "403 Forbidden.*give the service account the verbs on rayjobs"),
        ((404, "no such resource"), "does not know RayJobs.*install the KubeRay operator"),
        ((422, "invalid"), "422"),
    ],
)
def test_errors_of_kubernetes_are_reported_in_one_line(
    in_pod: KubernetesApi, job: StageJob, rejection: tuple[int, str], message: str
) -> None:
    in_pod.rejection = rejection
    with pytest.raises(InputError, match=message) as caught:
        run_rayjob(job, _recipe())
    assert "\n" not in str(caught.value)


def test_a_wrong_token_and_missing_settings_are_reported(
    in_pod: KubernetesApi, job: StageJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(in_pod.kubeconfig(tmp_path / "other", "wrong")))
    with pytest.raises(InputError, match="401"):
        run_rayjob(job, _recipe())
    monkeypatch.setenv(VARIABLE, "{}")
    with pytest.raises(InputError, match=r"\bimage: "):
        run_rayjob(job, _recipe())


@pytest.mark.parametrize("gpu_image", [True, False])
def test_auto_is_resolved_before_the_resources_of_the_pods(
    in_pod: KubernetesApi,
    tiny_recipe: Path,
    tiny_workspace: Callable[[Path], Workspace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu_image: bool,
) -> None:
    settings = SETTINGS | ({} if gpu_image else {"gpu_image": None})
    monkeypatch.setenv(VARIABLE, json.dumps(settings))
    at, created = tiny_workspace(tmp_path / "at"), []

    def operate(api: KubernetesApi, name: str) -> None:
        created.append((copy.deepcopy(api.jobs[name]), json.loads((at.root / "jobs" / name / "job.json").read_text())))
        _end_jobs("FAILED", "seen")(api, name)

    in_pod.on_create = operate
    with pytest.raises(RuntimeError, match="seen"):
        run_stage("train", load_recipe(str(tiny_recipe), ["compute.run_on=rayjob", AUTO]), at)
    (resource, job) = created[0]
    _, container = _workers(resource)
    assert container["resources"]["limits"].get("nvidia.com/gpu") == ("2" if gpu_image else None)
    assert container["image"] == settings["gpu_image" if gpu_image else "image"]
    assert job["recipe"]["compute"]["gpus_per_worker"] == int(gpu_image)


def test_an_up_to_date_stage_starts_no_cluster(
    in_pod: KubernetesApi, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    at = tiny_workspace(tmp_path / "at")
    recipe = load_recipe(str(tiny_recipe), ["compute.run_on=rayjob"])
    on_this_machine = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"run_on": "here"})})
    extracted = run_stage("extract", on_this_machine, at)
    inputs = train_inputs(recipe, at.data(recipe.data.name, "extract"), None)
    run_once("train", at.run(recipe.name, "train"), inputs, lambda _: {"weights_digest": "w"})
    assert run_stage("extract", recipe, at).digest == extracted.digest
    assert run_stage("train", recipe, at).weights_digest == "w"
    assert in_pod.calls == []


def _start(recipe: Path, at: Workspace) -> subprocess.Popen[str]:
    code = "from pipelines.cli.main import main; main()"
    options = ["train", str(recipe), "--workspace", str(at.root), "--set", "compute.run_on=rayjob"]
    return subprocess.Popen([sys.executable, "-c", code, *options], stderr=subprocess.PIPE, text=True)


def _wait_for_job(api: KubernetesApi, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not api.jobs:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_cancelled_or_crashed_stage_leaves_no_job(
    in_pod: KubernetesApi, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    at = tiny_workspace(tmp_path / "at")
    in_pod.on_create = lambda api, name: api.set_status(name, jobDeploymentStatus="Running", jobStatus="RUNNING")
    process = _start(tiny_recipe, at)
    _wait_for_job(in_pod, process)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert in_pod.jobs == {}

    crashed = _start(tiny_recipe, at)
    _wait_for_job(in_pod, crashed)
    crashed.kill()
    crashed.communicate()
    assert in_pod.jobs
    in_pod.delete_pod(POD["KFP_POD_UID"])
    assert in_pod.jobs == {}
    assert not at.run("tiny", "train").exists()


def test_the_exit_handler_deletes_what_a_killed_stage_left(
    in_pod: KubernetesApi,
    job: StageJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pod that is killed for memory cannot delete its RayJob, and Argo keeps the failed pod that owns it."""
    for run in ("ours", "theirs"):
        monkeypatch.setenv("SLOWFAST_PIPELINE_RUN", run)
        resource = _resource(StageJob(f"slowfast-train-{run}", "train", job.folder))
        assert in_pod.create(resource)[0] == 201
    monkeypatch.setenv("SLOWFAST_PIPELINE_RUN", "ours")
    monkeypatch.setenv("SLOWFAST_RAYJOB_NAMESPACE", "slowfast")
    unusable = "sqlite:////proc/no-folder/mlflow.db"  # MLflow may be what failed
    with pytest.raises(InputError, match="MLflow cannot use the store"):
        close_and_report(str(tmp_path), unusable, ["slowfast"], "FAILED", "")
    report = capsys.readouterr().out
    assert "RayJob slowfast-train-ours was left behind and is deleted." in report
    assert list(in_pod.jobs) == ["slowfast-train-theirs"]
    in_pod.rejection = (403, "Forbidden")
    assert "could not be deleted: Kubernetes refused a RayJob: 403" in close_and_report(
        str(tmp_path), "", [], "FAILED", ""
    )


def test_a_job_that_no_process_follows_stops_itself(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    at = tiny_workspace(tmp_path / "at")
    recipe = load_recipe(str(tiny_recipe), ["train.epochs=5000", "train.warmup_epochs=1"])
    job = StageJob.write("train", recipe, at, patience=1)
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    process = subprocess.run(
        [sys.executable, *job.entrypoint.split()[1:]], env=environment, stderr=subprocess.PIPE, text=True, timeout=120
    )
    assert process.returncode in (143, -15, 15)  # ours, the default, and that of Ray while it starts
    assert "no process has followed this job" in process.stderr
    assert not (job.folder / "result.json").exists()


def test_a_cluster_with_other_code_refuses_the_job(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    """Results of another code version would be outdated in every run."""
    at = tiny_workspace(tmp_path / "at")
    job = StageJob.write("extract", load_recipe(str(tiny_recipe)), at)
    order = json.loads((job.folder / "job.json").read_text())
    (job.folder / "job.json").write_text(json.dumps({**order, "version": order["version"] + 1}))
    command = [sys.executable, *job.entrypoint.split()[1:]]
    ran = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    expected = f"the cluster has version {order['version']} of extract, asked for {order['version'] + 1}"
    assert expected in ran.stderr
    with pytest.raises(InputError, match=expected):
        job.result("")


def test_a_new_code_version_gives_another_job(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, recipe = tiny_workspace(tmp_path / "at"), load_recipe(str(tiny_recipe))
    before = StageJob.write("extract", recipe, at)
    assert StageJob.write("extract", recipe, at) == before
    (tmp_path / "next.yaml").write_text("extract: 1000")
    monkeypatch.setattr(stage_module, "VERSIONS", tmp_path / "next.yaml")
    assert StageJob.write("extract", recipe, at).name != before.name
