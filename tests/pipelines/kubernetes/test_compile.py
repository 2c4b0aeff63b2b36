"""The pipeline compiled for Kubernetes, parsed by its schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import kubernetes
from kfp.pipeline_spec import pipeline_spec_pb2
from manifests import validate
from policies import complaints

from pipelines.kubernetes.compile import compile_pipeline
from pipelines.kubernetes.settings import load_cluster
from slowfast_core.errors import InputError
from slowfast_core.ray_jobs.rayjob_manifest import rayjob_of
from slowfast_core.ray_jobs.rayjob_settings import VARIABLE, RayJobSettings
from slowfast_core.ray_jobs.stage_job import StageJob
from slowfast_core.recipe.load import load_recipe

HERE = Path(__file__).parent
CLUSTER = load_cluster(HERE / "cluster.yaml")
CPU, GPU = CLUSTER.image, CLUSTER.gpu_image
ON_GPUS = ("compute.workers=2", "compute.gpus_per_worker=1", "compute.cpus_per_worker=4", "compute.loader_workers=3")
Config = kubernetes.kubernetes_executor_config_pb2.KubernetesExecutorConfig


def compiled(*overrides: str) -> tuple[Any, dict[str, Any]]:
    """The pipeline specification and the Kubernetes configuration of each container; unknown fields are errors."""
    text = compile_pipeline(load_recipe(str(HERE.parent / "tiny.yaml"), overrides), CLUSTER)
    spec, platform = yaml.load_all(text, Loader=yaml.CSafeLoader)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    return parsed, {name: json_format.ParseDict(config, Config()) for name, config in executors.items()}


@pytest.fixture(scope="module")
def one() -> tuple[Any, dict[str, Any]]:
    return compiled("finetune=null", *ON_GPUS)


@pytest.fixture(scope="module")
def both() -> tuple[Any, dict[str, Any]]:
    return compiled()


def containers(spec: Any) -> dict[str, Any]:
    executors = json_format.MessageToDict(spec.deployment_spec)["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}


def tasks(spec: Any) -> dict[str, Any]:
    """Every task that runs a container, by the name of its component."""
    dags = [spec.root, *spec.components.values()]
    found = [task for dag in dags for task in dag.dag.tasks.values()]
    leaves = {name for name, component in spec.components.items() if component.executor_label}
    return {task.component_ref.name: task for task in found if task.component_ref.name in leaves}


def test_compiling_in_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    manifests = compile_pipeline(load_recipe(str(HERE.parent / "tiny.yaml"), ON_GPUS), CLUSTER)
    output = tmp_path / "pipeline.yaml"
    settings = [part for setting in ON_GPUS for part in ("--set", setting)]
    options = ["--cluster", HERE / "cluster.yaml", "--output", output, *settings]
    slowfast = Path(sys.executable).with_name("slowfast")
    command = [str(part) for part in (slowfast, "pipeline", "compile", HERE.parent / "tiny.yaml", *options)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert output.read_bytes() == manifests.encode()


def test_each_task_reads_the_artifacts_of_its_own_branch(both: tuple[Any, dict[str, Any]]) -> None:
    spec, _ = both
    read = {
        (task, name): source(artifact)
        for component in (spec.root, *spec.components.values())
        for task, item in component.dag.tasks.items()
        for name, artifact in item.inputs.artifacts.items()
        if not name.startswith("pipelinechannel--")  # passed through a condition
    }
    assert read == {
        ("validate", "ingested"): "ingest-manifest",
        ("extract", "validated"): "validate-manifest",
        ("check-training", "clips"): "extract-clips",
        ("train", "clips"): "extract-clips",
        ("evaluate", "clips"): "extract-clips",
        ("evaluate", "model"): "select-model-model",
        ("register", "model"): "select-model-model",
        ("register", "report"): "evaluate-report",
        ("validate-2", "ingested"): "ingest-2-manifest",
        ("extract-2", "validated"): "validate-2-manifest",
        ("check-training-2", "clips"): "extract-2-clips",
        ("check-training-2", "start"): "select-model-model",
        ("finetune", "clips"): "extract-2-clips",
        ("finetune", "start"): "select-model-model",
        ("evaluate-2", "clips"): "extract-2-clips",
        ("evaluate-2", "model"): "select-model-2-model",
        ("register-2", "model"): "select-model-2-model",
        ("register-2", "report"): "evaluate-2-report",
    }


def source(artifact: Any) -> str:
    """`producer-output` of an input artifact."""
    if passed := artifact.component_input_artifact:
        return str(passed).removeprefix("pipelinechannel--")
    output = artifact.task_output_artifact
    return f"{output.producer_task}-{output.output_artifact_key}"


def test_every_task_has_image_resources_retry_and_time_limit(both: tuple[Any, dict[str, Any]]) -> None:
    spec, kubernetes_of = both
    images, found = containers(spec), tasks(spec)
    assert len(found) == len(images) == len(kubernetes_of) == 20
    for component in found:
        name = component.removeprefix("comp-")
        resources = images[name]["resources"]
        assert images[name]["image"] in (CPU, GPU)
        assert float(resources["resourceCpuLimit"]) > 0
        assert resources["resourceCpuRequest"] == resources["resourceCpuLimit"]
        assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"]
        assert resources["resourceMemoryLimit"].endswith("G")
        assert kubernetes_of[f"exec-{name}"].active_deadline_seconds >= 3600


def test_argo_retries_each_stage_as_often_as_the_settings_say(both: tuple[Any, dict[str, Any]]) -> None:
    """KFP compiles backoff_max_duration to Argo's backoff.maxDuration: a window from the start of the first attempt.

    After it, Argo retries nothing and ends the attempt that is running. It parses the factor as an integer.
    """
    spec, kubernetes_of = both
    for name, task in tasks(spec).items():
        policy, attempt = task.retry_policy, kubernetes_of[name.replace("comp-", "exec-")].active_deadline_seconds
        assert policy.max_retry_count >= 1
        assert policy.backoff_factor == int(policy.backoff_factor) >= 1
        waits = [
            policy.backoff_duration.seconds * policy.backoff_factor**retry for retry in range(policy.max_retry_count)
        ]
        assert policy.backoff_max_duration.seconds >= (policy.max_retry_count + 1) * attempt + sum(waits)


@pytest.mark.parametrize("factor", ["1.5", "0"])
def test_a_backoff_factor_that_argo_cannot_parse_is_refused(factor: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text((HERE / "cluster.yaml").read_text() + f"\nbackoff_factor: {factor}\n")
    with pytest.raises(InputError, match="backoff_factor"):
        load_cluster(path)


def test_the_exit_handler_knows_where_rayjobs_may_be_left(both: tuple[Any, dict[str, Any]]) -> None:
    def variables(spec: Any) -> dict[str, str]:
        container = json_format.MessageToDict(spec.deployment_spec)["executors"]["exec-close-runs"]["container"]
        return {each["name"]: each["value"] for each in container["env"]}

    spec, _ = compiled("finetune.compute.run_on=rayjob")
    assert variables(spec)["SLOWFAST_RAYJOB_NAMESPACE"] == CLUSTER.namespace
    assert "SLOWFAST_RAYJOB_NAMESPACE" not in variables(both[0])


def test_every_pod_is_non_root_with_the_volume_and_without_plain_secrets(both: tuple[Any, dict[str, Any]]) -> None:
    spec, kubernetes_of = both
    for config in kubernetes_of.values():
        assert config.security_context.run_as_non_root
        assert (config.security_context.run_as_user, config.security_context.run_as_group) == (1000, 1000)
        (mount,) = config.pvc_mount
        assert (mount.constant, mount.mount_path) == ("videos", "/data")
        (run,) = config.field_path_as_env
        assert (run.name, run.field_path) == ("SLOWFAST_PIPELINE_RUN", "metadata.labels['pipeline/runid']")
        assert [secret.secret_name for secret in config.image_pull_secret] == ["registry"]
    literal = {item["name"] for container in containers(spec).values() for item in container["env"]}
    assert literal == {"SLOWFAST_IMAGE", "AWS_ENDPOINT_URL"}


def test_only_stages_that_need_a_secret_get_it(both: tuple[Any, dict[str, Any]]) -> None:
    _, kubernetes_of = both
    given = {
        name.removeprefix("exec-"): {
            (secret.secret_name, key.secret_key, key.env_var)
            for secret in config.secret_as_env
            for key in secret.key_to_env
        }
        for name, config in kubernetes_of.items()
    }
    s3 = {("store", "id", "AWS_ACCESS_KEY_ID"), ("store", "key", "AWS_SECRET_ACCESS_KEY")}
    mlflow, ray = {("mlflow", "token", "MLFLOW_TRACKING_TOKEN")}, {("ray", "auth_token", "RAY_AUTH_TOKEN")}
    assert given["apply-parameters"] == given["ingest"] == given["ingest-2"] == s3
    assert given["extract"] == s3 | ray
    assert given["train"] == given["finetune"] == mlflow | ray
    assert given["evaluate"] == given["register"] == given["close-runs"] == mlflow
    assert given["validate"] == given["check-training"] == given["reuse-model"] == given["select-model"] == set()


def test_checkpoints_in_a_bucket_need_its_secret() -> None:
    _, kubernetes_of = compiled("finetune=null", "train.checkpoint_store=s3://bucket/checkpoints")
    assert "store" in {secret.secret_name for secret in kubernetes_of["exec-train"].secret_as_env}


def test_check_training_gets_the_secret_of_the_registry_for_registered_start_weights() -> None:
    _, kubernetes_of = compiled("finetune=null", "train.init_from=models:/kinetics@champion")
    assert {secret.secret_name for secret in kubernetes_of["exec-check-training"].secret_as_env} == {"mlflow"}


def test_training_gets_the_gpus_of_the_recipe_and_the_nodes_that_have_them(one: tuple[Any, dict[str, Any]]) -> None:
    spec, kubernetes_of = one
    images = containers(spec)
    with_gpu = {name: item for name, item in images.items() if "accelerator" in item["resources"]}
    counts = {name: item["resources"]["accelerator"]["resourceCount"] for name, item in with_gpu.items()}
    assert counts == {"train": "2", "evaluate": "1"}
    assert {item["image"] for item in with_gpu.values()} == {GPU}
    assert {images[name]["image"] for name in images.keys() - with_gpu.keys()} == {CPU}
    assert images["train"]["resources"]["resourceCpuLimit"] == "10"  # 2 workers x 4 CPUs + 2
    # 2 workers x (4 GB + 3 loaders x (0.5 GB + the cache of 100 MB)) + 8 GB of shared memory + 8
    assert images["train"]["resources"]["resourceMemoryLimit"] == "28G"
    for name, config in kubernetes_of.items():
        on_gpu = name.removeprefix("exec-") in with_gpu
        assert dict(config.node_selector.labels) == ({"accelerator": "h100"} if on_gpu else {})
        assert [toleration.key for toleration in config.tolerations] == (["nvidia.com/gpu"] if on_gpu else [])
        shm = [(mount.mount_path, mount.medium, mount.size_limit) for mount in config.empty_dir_mounts]
        assert shm == ([("/dev/shm", "Memory", "8G")] if on_gpu else [])


@pytest.mark.parametrize("gpu_image", [GPU, pytest.param(None, marks=pytest.mark.exhaustive)])
def test_auto_uses_gpus_if_the_cluster_has_a_gpu_image(gpu_image: str | None) -> None:
    """Resolved in the pods and in their recipe, also for the branch, so that no pod decides at run time."""
    auto = ("compute.gpus_per_worker=auto", "finetune.compute.gpus_per_worker=auto")
    cluster = CLUSTER.model_copy(update={"gpu_image": gpu_image})
    written = [override.replace("auto", str(int(gpu_image is not None))) for override in auto]
    tiny = str(HERE.parent / "tiny.yaml")
    text, by_hand = (compile_pipeline(load_recipe(tiny, each), cluster) for each in (auto, written))
    assert text == by_hand
    assert ("resourceCount" in text) == (gpu_image is not None)


def test_with_a_ray_cluster_the_pod_needs_no_gpus() -> None:
    spec, _ = compiled("finetune=null", *ON_GPUS, "compute.address=slowfast-head-svc:6379")
    train = containers(spec)["train"]["resources"]
    assert "accelerator" not in train
    assert (train["resourceCpuLimit"], train["resourceMemoryLimit"]) == ("2", "8G")


@pytest.mark.parametrize("where", [["rayjob"], ["jobs", "compute.jobs_address=http://slowfast-head-svc:8265"]])
def test_the_pod_of_a_job_needs_few_resources(where: list[str]) -> None:
    spec, kubernetes_of = compiled("finetune=null", *ON_GPUS, f"compute.run_on={where[0]}", *where[1:])
    for stage in ("extract", "train"):
        resources = containers(spec)[stage]["resources"]
        assert "accelerator" not in resources
        assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("1", "2G")
        assert "ray" in [secret.secret_name for secret in kubernetes_of[f"exec-{stage}"].secret_as_env]
    assert kubernetes_of["exec-train"].active_deadline_seconds == 240 * 3600
    configured = {name for name, item in containers(spec).items() if VARIABLE in {each["name"] for each in item["env"]}}
    assert configured == ({"extract", "train"} if where == ["rayjob"] else set())


def test_the_rayjob_of_a_compiled_stage_is_valid_for_kuberay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    overrides = ("finetune=null", *ON_GPUS, "compute.run_on=rayjob")
    spec, _ = compiled(*overrides)
    recipe = load_recipe(str(HERE.parent / "tiny.yaml"), overrides)
    for stage, secret in (("extract", "store"), ("train", "mlflow")):
        (value,) = (each["value"] for each in containers(spec)[stage]["env"] if each["name"] == VARIABLE)
        monkeypatch.setenv(VARIABLE, value)
        settings = RayJobSettings.from_environment()
        resource = rayjob_of(StageJob(f"slowfast-{stage}-1", stage, tmp_path), recipe, settings)
        validate(resource)
        assert complaints([resource]) == []
        assert [each.name for each in settings.secrets] == [secret]
        assert resource["metadata"]["namespace"] == "videos"
        assert resource["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "ray"}
    (group,) = resource["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    assert pod["containers"][0]["image"] == GPU
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["nodeSelector"] == {"accelerator": "h100"}


def test_a_rayjob_needs_a_token() -> None:
    secrets = CLUSTER.secrets.model_copy(update={"ray": None})
    recipe = load_recipe(str(HERE.parent / "tiny.yaml"), ["compute.run_on=rayjob"])
    with pytest.raises(InputError, match=r"secrets\.ray"):
        compile_pipeline(recipe, CLUSTER.model_copy(update={"secrets": secrets}))


def test_settings_override_the_resources_of_a_stage(one: tuple[Any, dict[str, Any]]) -> None:
    spec, kubernetes_of = one
    assert containers(spec)["evaluate"]["resources"]["resourceMemoryLimit"] == "24G"
    assert tasks(spec)["comp-evaluate"].retry_policy.max_retry_count == 1
    assert kubernetes_of["exec-evaluate"].active_deadline_seconds == 6 * 3600


def test_training_is_conditional_and_the_exit_handler_runs_last(one: tuple[Any, dict[str, Any]]) -> None:
    spec, _ = one
    parents = {
        task: (name, item.trigger_policy.condition)
        for name, component in spec.components.items()
        for item in component.dag.tasks.values()
        for task in spec.components[item.component_ref.name].dag.tasks
    }
    train, reuse = parents["train"], parents["reuse-model"]
    assert train[0] == reuse[0]
    assert train[0].startswith("comp-condition-branches-")
    assert train[1] == "inputs.parameter_values['pipelinechannel--check-training-train'] == 'yes'"
    assert reuse[1] == f"!({train[1]})"
    close = spec.root.dag.tasks["close-runs"]
    assert list(close.dependent_tasks) == ["exit-handler-1"]
    all_upstream = pipeline_spec_pb2.PipelineTaskSpec.TriggerPolicy.TriggerStrategy.ALL_UPSTREAM_TASKS_COMPLETED
    assert close.trigger_policy.strategy == all_upstream
    assert set(spec.root.dag.tasks) == {"close-runs", "exit-handler-1"}


def test_the_exit_handler_gets_every_experiment() -> None:
    spec, _ = compiled("finetune.tracking.experiment=actors")
    experiments = spec.root.dag.tasks["close-runs"].inputs.parameters["experiments"]
    assert json_format.MessageToDict(experiments.runtime_value.constant) == ["actors", "slowfast"]


def test_operators_can_change_four_parameters(one: tuple[Any, dict[str, Any]]) -> None:
    parameters = one[0].root.input_definitions.parameters
    assert set(parameters) == {"recipe", "data_version", "workers", "epochs"}
    assert all(parameter.is_optional for parameter in parameters.values())
    assert json.loads(parameters["recipe"].default_value.string_value)["name"] == "tiny"


def test_caching_depends_on_the_source_the_data_and_the_image(one: tuple[Any, dict[str, Any]]) -> None:
    spec, _ = one
    found = tasks(spec)
    cached = {name.removeprefix("comp-") for name, task in found.items() if task.caching_options.enable_cache}
    assert cached == {"ingest", "validate", "extract", "evaluate", "register"}

    def source(task: str, parameter: str) -> str:
        return found[f"comp-{task}"].inputs.parameters[parameter].task_output_parameter.output_parameter_key

    assert {source(stage, "source_version") for stage in ("ingest", "validate", "extract")} == {"source"}
    versions = [found[f"comp-{stage}"].inputs.parameters["versions"] for stage in ("evaluate", "register")]
    assert {each.task_output_parameter.producer_task for each in versions} == {"select-model"}
    assert (
        "check-training-data_version" in found["comp-train"].inputs.parameters["data_version"].component_input_parameter
    )
    assert source("select-model", "weights").startswith("pipelinechannel--condition-branches-")


def test_nothing_is_cached_without_the_digest_of_the_image() -> None:
    recipe = load_recipe(str(HERE.parent / "tiny.yaml"), ["finetune=null"])
    text = compile_pipeline(recipe, CLUSTER.model_copy(update={"image": "slowfast-cpu:0.1.0"}))
    assert "enableCache" not in text


def test_manifests_are_a_pipeline_and_a_version_named_by_their_content() -> None:
    recipe = load_recipe(str(HERE.parent / "tiny.yaml"), ["finetune=null"])
    names = []
    for epochs in (2, 2, 3):
        changed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": epochs})})
        text = compile_pipeline(changed, CLUSTER, manifest=True)
        pipeline, version = yaml.load_all(text, Loader=yaml.CSafeLoader)
        assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
        assert {item["apiVersion"] for item in (pipeline, version)} == {"pipelines.kubeflow.org/v2beta1"}
        assert {item["metadata"]["namespace"] for item in (pipeline, version)} == {"videos"}
        assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "slowfast-tiny"
        json_format.ParseDict(version["spec"]["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(version["spec"]["platformSpec"], pipeline_spec_pb2.PlatformSpec())
        names.append(version["metadata"]["name"])
    assert names[0] == names[1] != names[2]


def test_the_example_of_the_settings_is_valid() -> None:
    assert load_cluster(HERE.parents[2] / "pipelines" / "kubernetes" / "cluster.example.yaml").cacheable
