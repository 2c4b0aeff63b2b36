"""The DAG compiled for Kubernetes: the laptop's stages between a first task that takes what operators change and an
exit handler; training stands under the condition that it has something to do.
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
    """A name that Kubernetes takes, of the recipe's."""
    return "slowfast-" + re.sub(r"[^a-z0-9]+", "-", recipe.name.lower()).strip("-")


def auto_gpus(cluster: Cluster) -> int:
    """What `compute.gpus_per_worker: auto` comes to: a cluster that names an image for GPUs has them."""
    return int(cluster.gpu_image is not None)


def build(recipe: Recipe, cluster: Cluster) -> Any:
    """The pipeline as KFP's object, with the recipe as the default of its parameter."""
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
            operators = {"recipe": recipe, "workers": workers, "epochs": epochs}
            task = apply_parameters(**operators, **inputs, cpus=cpus, gpus=gpus, branch=branch is not None)
            ready = place(task, "apply_parameters").outputs
            clips = data(ready["recipe"], at, place, ready["source"])
            model, versions = _trained(ready["recipe"], at, clips, place, expected_version=data_version)
            judge(ready["recipe"], at, clips, model, place, versions)
            if branch:
                on_branch = place.of(branch)
                clips = data(ready["finetune"], at, on_branch, ready["finetune_source"])
                tuned, versions = _trained(ready["finetune"], at, clips, on_branch, start=model)
                judge(ready["finetune"], at, clips, tuned, on_branch, versions)

    flow.__annotations__ = {"recipe": str, "data_version": str, "workers": int, "epochs": int}  # KFP wants types
    flow.__defaults__ = (recipe.to_json(), *(flow.__defaults__ or ()))
    return dsl.pipeline(name=pipeline_name(recipe), description=recipe.description or recipe.name)(flow)


def _trained(recipe: Any, at: str, clips: Any, place: Placement, **arguments: Any) -> tuple[Any, Any]:
    """Training if it has something to do; otherwise the model there is, with the reason. The model and its versions."""
    from kfp import dsl

    from components.check_training.component import check_training
    from components.finetune.component import finetune
    from components.reuse_model.component import reuse_model
    from components.select_model.component import select_model
    from components.train.component import train

    inputs = {"recipe": recipe, "workspace": at}
    seen = place(check_training(**inputs, clips=clips, **arguments), "check_training").outputs
    versioned = {**inputs, "clips": clips, "data_version": seen["data_version"]}
    with dsl.If(seen["train"] == "yes", name="train-what-changed"):
        if "start" in arguments:
            made = place(finetune(**versioned, start=arguments["start"]), "train")
        else:
            made = place(train(**versioned), "train")
    with dsl.Else(name="training-skipped"):
        kept = place(reuse_model(**inputs, reason=seen["reason"]), "reuse_model")
    weights = dsl.OneOf(made.outputs["Output"], kept.output)
    there = place(select_model(**inputs, weights=weights), "select_model").outputs
    return there["model"], there["Output"]


def compile_pipeline(recipe: Recipe, cluster: Cluster, manifest: bool = False) -> str:
    """The YAML that the server takes; with `manifest` the Kubernetes resources Pipeline and PipelineVersion."""
    from importlib.util import find_spec

    from kfp import compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    if not find_spec("kfp.kubernetes"):
        raise InputError("compiling for Kubernetes needs kfp-kubernetes", sys.prefix, "pip install 'slowfast[cluster]'")

    name = pipeline_name(recipe)
    options: dict[str, Any] = {}
    if manifest:
        content = hashlib.sha256(compile_pipeline(recipe, cluster).encode()).hexdigest()
        version = f"{name}-{content[:12]}"  # a PipelineVersion may not change under its name
        named = {"pipeline_name": name, "pipeline_version_name": version, "namespace": cluster.namespace}
        manifest_options = KubernetesManifestOptions(**named, include_pipeline_manifest=True)
        options = {"kubernetes_manifest_format": True, "kubernetes_manifest_options": manifest_options}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(build(recipe, cluster), str(path), **options)
        return path.read_text(encoding="utf-8")
