"""What a task is given on Kubernetes: image, resources, volume, secrets, nodes, retries, time limit, identity."""

from __future__ import annotations

from typing import Any

from pipelines.kubernetes.settings import Cluster, Need
from slowfast_core.errors import InputError
from slowfast_core.ray_jobs.rayjob_settings import NAMESPACE_VARIABLE as NAMESPACE
from slowfast_core.ray_jobs.rayjob_settings import VARIABLE as RAYJOB
from slowfast_core.ray_jobs.rayjob_settings import RayJobSettings, Secret, size_of_workers
from slowfast_core.recipe.load import Recipe
from slowfast_core.stage import STAGES
from slowfast_core.tracking.runs import PIPELINE_VARIABLE

AS_JOBS = tuple(stage.name for stage in STAGES if stage.can_be_job)  # where compute.run_on says so
ON_GPU = tuple(stage.name for stage in STAGES if stage.uses_gpu)
USES = {
    "s3": ("apply_parameters", "ingest", "extract"),
    "mlflow": ("train", "evaluate", "register", "close_runs"),
    "ray": AS_JOBS,
}
# Never cached: they look at the source, the workspace or MLflow; and training, which runs only if it has to.
UNCACHED = ("apply_parameters", "check_training", "train", "reuse_model", "select_model", "close_runs")


class Placement:
    """Called with each task of one recipe."""

    def __init__(self, recipe: Recipe, cluster: Cluster) -> None:
        self.recipe = recipe
        self.cluster = cluster

    def of(self, branch: Recipe) -> Placement:
        return Placement(branch, self.cluster)

    @property
    def training_pod(self) -> tuple[int, int]:
        """CPUs and GPUs of the workers in the training pod; (0, 0) where a Ray cluster has them."""
        compute = self.recipe.compute
        if compute.address or compute.run_on != "here":
            return 0, 0
        return compute.workers * compute.cpus_per_worker, compute.workers * compute.gpus

    def __call__(self, task: Any, stage: str) -> Any:
        need = self.need("check_training" if stage in ("reuse_model", "select_model") else stage)
        self._size(task, need)
        self._attach(task, stage)
        gpus = self._gpus(stage)
        if gpus:
            self._on_gpus(task, gpus)
        task.set_container_image(image := (gpus and self.cluster.gpu_image) or self.cluster.image)
        task.set_env_variable("SLOWFAST_IMAGE", image)
        for name, value in sorted(self.cluster.environment.items()):
            task.set_env_variable(name, value)
        if stage == "close_runs" and self._creates_rayjobs:
            task.set_env_variable(NAMESPACE, self.cluster.namespace)
        if stage in AS_JOBS and self.recipe.compute.run_on == "rayjob":
            task.set_env_variable(RAYJOB, self._rayjob(stage, need).model_dump_json())
        task.set_caching_options(self.cluster.cacheable and stage not in UNCACHED)
        return task

    @property
    def _creates_rayjobs(self) -> bool:
        branches = [branch for branch in (self.recipe, self.recipe.finetune) if branch]
        return any(branch.compute.run_on == "rayjob" for branch in branches)

    def need(self, stage: str) -> Need:
        need = self.cluster.need(stage)
        if stage in AS_JOBS and self.recipe.compute.run_on != "here":
            return Need(hours=need.hours, retries=need.retries)  # it only waits for its job
        cpus, _ = self.training_pod
        if stage != "train" or not cpus:
            return need
        self._check_node()
        cpus, memory = size_of_workers(self.recipe.compute, self.recipe.compute.workers)
        memory += self.cluster.shm_gb  # shared memory counts as memory of the pod
        return need.model_copy(update={"cpu": need.cpu + cpus, "memory_gb": need.memory_gb + memory})

    def _check_node(self) -> None:
        """Raise InputError if the training pod asks for more GPUs than a node has: it would wait forever."""
        _, gpus = self.training_pod
        if gpus > (of_node := self.cluster.rayjob.gpus_per_node):
            what = f"training asks for {gpus} GPUs in one pod, and a node has {of_node} (rayjob.gpus_per_node)"
            fix = "set compute.run_on=rayjob, which spreads the workers over nodes"
            raise InputError(what, self.recipe.name, fix)

    def _gpus(self, stage: str) -> int:
        if stage not in ON_GPU or not self.recipe.compute.gpus:
            return 0
        return self.training_pod[1] if stage == "train" else 1

    def _size(self, task: Any, need: Need) -> None:
        from kfp import kubernetes

        cpu, memory = f"{need.cpu:g}", _memory(need.memory_gb)
        task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
        task.set_retry(
            need.retries,
            backoff_duration=f"{self.cluster.backoff_seconds}s",
            backoff_factor=self.cluster.backoff_factor,
            backoff_max_duration=f"{self.cluster.retry_window_seconds(need)}s",
        )
        kubernetes.set_timeout(task, round(3600 * need.hours))

    def _attach(self, task: Any, stage: str) -> None:
        from kfp import kubernetes

        cluster = self.cluster
        kubernetes.mount_pvc(task, cluster.data.claim, cluster.data.path, cluster.data.sub_path)
        if stage in ON_GPU:  # workers hand batches over in shared memory, of which a pod has 64 MB
            kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=f"{cluster.shm_gb}G")
        for secret in self._secrets(stage).values():
            keys = {key: variable for variable, key in sorted(secret.env.items())}
            kubernetes.use_secret_as_env(task, secret.name, keys)
        kubernetes.use_field_path_as_env(task, PIPELINE_VARIABLE, "metadata.labels['pipeline/runid']")
        kubernetes.set_security_context(
            task, run_as_user=cluster.user, run_as_group=cluster.group, run_as_non_root=True
        )
        if cluster.pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))

    def _secrets(self, stage: str) -> dict[str, Secret]:
        """By what they are for."""
        uses = {kind for kind, stages in USES.items() if stage in stages}
        if stage == "train" and (self.recipe.train.checkpoint_store or "").startswith("s3://"):
            uses.add("s3")
        if stage == "check_training" and (self.recipe.train.init_from or "").startswith("models:"):
            uses.add("mlflow")
        named = {kind: getattr(self.cluster.secrets, kind) for kind in USES if kind in uses}
        return {kind: secret for kind, secret in named.items() if secret}

    def _rayjob(self, stage: str, need: Need) -> RayJobSettings:
        """The pods of its RayJob get what its own pod would."""
        cluster, secrets = self.cluster, self._secrets(stage)
        if not (token := secrets.pop("ray", None)):
            fix = "name the Secret with its token (pipelines/kubernetes/cluster.example.yaml shows how)"
            raise InputError("a RayJob needs secrets.ray", "cluster settings", fix)
        alike = {"namespace", "image", "gpu_image", "environment", "pull_secrets", "shm_gb", "user", "group"}
        given = cluster.model_dump(include=alike) | cluster.rayjob.model_dump() | cluster.data.model_dump()
        gpu = cluster.gpu.model_dump(include={"node_selector", "tolerations"}) | {"gpu_type": cluster.gpu.type}
        more = {"token_secret": token.name, "secrets": tuple(secrets.values()), "hours": need.hours}
        return RayJobSettings(**given, **gpu, **more)

    def _on_gpus(self, task: Any, count: int) -> None:
        from kfp import kubernetes

        gpu = self.cluster.gpu
        task.set_accelerator_type(gpu.type).set_accelerator_limit(count)
        for label, value in sorted(gpu.node_selector.items()):
            kubernetes.add_node_selector(task, label, value)
        for toleration in gpu.tolerations:
            kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))


def _memory(gigabytes: float) -> str:
    """The quantity in whole units, since KFP accepts no fractions."""
    return f"{gigabytes:g}G" if gigabytes == round(gigabytes) else f"{round(1000 * gigabytes)}M"
