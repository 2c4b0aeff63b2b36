"""The DAG, as Kubeflow pipelines: from source videos to a registered model, optionally with a fine-tuning branch.

`place` configures a task for where it runs: nothing on this machine; image, resources and volume on a cluster.
KFP builds a pipeline when it decorates the function, so the helpers are defined first.
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate
from components.extract.component import extract
from components.finetune.component import finetune
from components.ingest.component import ingest
from components.register.component import register
from components.train.component import train
from components.validate.component import validate

Place = Callable[[Any, str], Any]  # (task, stage) -> task


def here(task: Any, stage: str) -> Any:
    return task


def data(recipe: Any, workspace: str, place: Place = here, source: Any = "") -> Any:
    """Add ingest, validate and extract; return the clips. `source`, its version, is a key for Kubeflow's cache."""
    arguments = {"recipe": recipe, "workspace": workspace, "source_version": source}
    ingested = place(ingest(**arguments), "ingest").outputs["manifest"]
    validated = place(validate(**arguments, ingested=ingested), "validate").outputs["manifest"]
    return place(extract(**arguments, validated=validated), "extract").outputs["clips"]


def judge(recipe: Any, workspace: str, clips: Any, model: Any, place: Place = here, versions: Any = "") -> None:
    """Add evaluate and register. `versions` of their inputs and results is a key for Kubeflow's cache."""
    arguments = {"recipe": recipe, "workspace": workspace, "versions": versions}
    report = place(evaluate(**arguments, clips=clips, model=model), "evaluate").outputs["report"]
    place(register(**arguments, model=model, report=report), "register")


@dsl.pipeline(name="slowfast", description="Raw video to a registered SlowFast model")
def classification(recipe: str, workspace: str):  # type: ignore[no-untyped-def]  # kfp reads the annotations
    clips = data(recipe, workspace)
    model = train(recipe=recipe, workspace=workspace, clips=clips).outputs["model"]
    judge(recipe, workspace, clips, model)


@dsl.pipeline(name="slowfast-finetune", description="Raw video to a registered model, and to one fine-tuned from it")
def with_finetuning(recipe: str, finetune_recipe: str, workspace: str):  # type: ignore[no-untyped-def]
    clips = data(recipe, workspace)
    model = train(recipe=recipe, workspace=workspace, clips=clips).outputs["model"]
    judge(recipe, workspace, clips, model)
    branch_clips = data(finetune_recipe, workspace)
    tuned = finetune(recipe=finetune_recipe, workspace=workspace, clips=branch_clips, start=model).outputs["model"]
    judge(finetune_recipe, workspace, branch_clips, tuned)
