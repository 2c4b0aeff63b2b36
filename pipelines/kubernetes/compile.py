"""Compiles the DAG for Kubernetes.

The stages are the same as on a laptop. In addition, the first task applies the run's parameters, training runs only if
it is not up to date, and an exit handler closes MLflow runs.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from pipelines.kubernetes.placement import Placement
from pipelines.kubernetes.settings import Cluster
from slowfast_core.credentials import without_credentials
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Recipe


def pipeline_name(recipe: Recipe) -> str:
    """Return the recipe's name as a valid Kubernetes name."""
    return "slowfast-" + re.sub(r"[^a-z0-9]+", "-", recipe.name.lower()).strip("-")


def auto_gpus(cluster: Cluster) -> int:
    """Return the value of `compute.gpus_per_worker: auto`: 1 if the cluster settings have a GPU image, else 0."""
    return int(cluster.gpu_image is not None)


def build(recipe: Recipe, cluster: Cluster) -> Any:
    """Return KFP's pipeline object; the recipe is the default value of its parameter `recipe`."""
    from kfp import dsl

    from components.apply_parameters.component import apply_parameters
    from components.close_runs.component import close_runs
    from pipelines.dag import data, judge

    recipe = recipe.with_gpus(auto_gpus(cluster))
    place, branch = Placement(recipe, cluster), recipe.finetune
    at, uri = cluster.data.path, without_credentials(cluster.tracking_uri or recipe.tracking.uri or "")
    cpus, gpus = place.training_pod
    inputs = {"workspace": at, "tracking_uri": uri}
    experiments = sorted({one.tracking.experiment for one in (recipe, branch) if one})

    def flow(recipe: str, data_version: str = "", workers: int = 0, epochs: int = 0):  # type: ignore[no-untyped-def]
        with dsl.ExitHandler(place(close_runs(**inputs, experiments=experiments), "close_runs"), name="flow"):
            parameters = {"recipe": recipe, "workers": workers, "epochs": epochs}
            task = apply_parameters(**parameters, **inputs, cpus=cpus, gpus=gpus, branch=branch is not None)
            ready = place(task, "apply_parameters").outputs
            clips = data(ready["recipe"], at, place, ready["source"])
            model, versions = _trained(ready["recipe"], at, clips, place, expected_version=data_version)
            judge(ready["recipe"], at, clips, model, place, versions)
            if branch:
                on_branch = place.of(branch)
                clips = data(ready["finetune"], at, on_branch, ready["finetune_source"])
                tuned, versions = _trained(ready["finetune"], at, clips, on_branch, start=model)
                judge(ready["finetune"], at, clips, tuned, on_branch, versions)

    # KFP needs types; `from __future__ import annotations` leaves only their names.
    flow.__annotations__ = {"recipe": str, "data_version": str, "workers": int, "epochs": int}
    flow.__defaults__ = (recipe.to_json(), *(flow.__defaults__ or ()))
    return dsl.pipeline(name=pipeline_name(recipe), description=recipe.description or recipe.name)(flow)


def _trained(recipe: Any, at: str, clips: Any, place: Placement, **arguments: Any) -> tuple[Any, Any]:
    """Add training, which is skipped with a reason if it is up to date. Returns the model and its versions."""
    from kfp import dsl

    from components.check_training.component import check_training
    from components.finetune.component import finetune
    from components.reuse_model.component import reuse_model
    from components.select_model.component import select_model
    from components.train.component import train

    inputs = {"recipe": recipe, "workspace": at}
    checked = place(check_training(**inputs, clips=clips, **arguments), "check_training").outputs
    versioned = {**inputs, "clips": clips, "data_version": checked["data_version"]}
    with dsl.If(checked["train"] == "yes", name="training-needed"):
        if "start" in arguments:
            trained = place(finetune(**versioned, start=arguments["start"]), "train")
        else:
            trained = place(train(**versioned), "train")
    with dsl.Else(name="training-skipped"):
        reused = place(reuse_model(**inputs, reason=checked["reason"]), "reuse_model")
    weights = dsl.OneOf(trained.outputs["Output"], reused.output)
    selected = place(select_model(**inputs, weights=weights), "select_model").outputs
    return selected["model"], selected["Output"]


def compile_pipeline(recipe: Recipe, cluster: Cluster, manifest: bool = False) -> str:
    """Compile to the YAML of the KFP server, or to the Kubernetes resources Pipeline and PipelineVersion (`manifest`).

    Raises InputError if kfp-kubernetes is not installed.
    """
    from importlib.util import find_spec

    from kfp import compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    if not find_spec("kfp.kubernetes"):
        raise InputError("compiling for Kubernetes needs kfp-kubernetes", sys.prefix, "pip install 'slowfast[cluster]'")

    name = pipeline_name(recipe)
    options: dict[str, Any] = {}
    if manifest:
        content = hashlib.sha256(compile_pipeline(recipe, cluster).encode()).hexdigest()
        version = f"{name}-{content[:12]}"  # Kubernetes does not allow a PipelineVersion to change
        named = {"pipeline_name": name, "pipeline_version_name": version, "namespace": cluster.namespace}
        manifest_options = KubernetesManifestOptions(**named, include_pipeline_manifest=True)
        options = {"kubernetes_manifest_format": True, "kubernetes_manifest_options": manifest_options}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(build(recipe, cluster), str(path), **options)
        return path.read_text(encoding="utf-8")
