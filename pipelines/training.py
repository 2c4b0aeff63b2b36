"""The DAG: data to a registered model, and from its checkpoint the fine-tuning branch to another one.

KFP builds a pipeline while it decorates it, so the parts stand before the wholes.
"""

from kfp import dsl

from components.evaluate.component import evaluate
from components.extract.component import extract
from components.finetune.component import finetune
from components.ingest.component import ingest
from components.register.component import register
from components.train.component import train
from components.validate.component import validate


def _data(recipe: str, workspace: str):  # type: ignore[no-untyped-def]
    ingested = ingest(recipe=recipe, workspace=workspace).outputs["manifest"]
    validated = validate(recipe=recipe, workspace=workspace, ingested=ingested).outputs["manifest"]
    return extract(recipe=recipe, workspace=workspace, validated=validated).outputs["clips"]


def _judge(recipe: str, workspace: str, clips, model) -> None:  # type: ignore[no-untyped-def]
    evaluated = evaluate(recipe=recipe, workspace=workspace, clips=clips, model=model)
    register(recipe=recipe, workspace=workspace, model=model, report=evaluated.outputs["report"])


@dsl.pipeline(name="slowfast", description="Raw video to a registered SlowFast model")
def classification(recipe: str, workspace: str):  # type: ignore[no-untyped-def]  # kfp reads the annotations
    clips = _data(recipe, workspace)
    model = train(recipe=recipe, workspace=workspace, clips=clips).outputs["model"]
    _judge(recipe, workspace, clips, model)


@dsl.pipeline(name="slowfast-finetune", description="Raw video to a registered model, and to one fine-tuned from it")
def with_finetuning(recipe: str, finetune_recipe: str, workspace: str):  # type: ignore[no-untyped-def]
    clips = _data(recipe, workspace)
    model = train(recipe=recipe, workspace=workspace, clips=clips).outputs["model"]
    _judge(recipe, workspace, clips, model)
    branch_clips = _data(finetune_recipe, workspace)
    tuned = finetune(recipe=finetune_recipe, workspace=workspace, clips=branch_clips, start=model).outputs["model"]
    _judge(finetune_recipe, workspace, branch_clips, tuned)
