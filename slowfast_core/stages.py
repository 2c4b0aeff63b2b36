"""The flow: each stage of a recipe, with its inputs and its output in the workspace. CLI, DVC and KFP all call these.

Heavy libraries are imported by the stage that needs them, so that an unchanged stage answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from slowfast_core.data.extraction import extract
from slowfast_core.data.ingestion import ingest
from slowfast_core.data.validation import validate
from slowfast_core.errors import InputError
from slowfast_core.evaluation.evaluate import evaluate
from slowfast_core.recipe import Recipe
from slowfast_core.stage import StageResult
from slowfast_core.tracking.registry import register
from slowfast_core.training.launch import train, trained
from slowfast_core.workspace import Workspace


def run_ingest(recipe: Recipe, at: Workspace) -> StageResult:
    return ingest(recipe.data, at.source(recipe.data.name), at.data(recipe.data.name, "ingest"))


def run_validate(recipe: Recipe, at: Workspace) -> StageResult:
    name = recipe.data.name
    return validate(recipe.data, at.data(name, "ingest"), at.data(name, "validate"))


def run_extract(recipe: Recipe, at: Workspace) -> StageResult:
    """The clip store, and its version in the workspace's DVC remote; under `dvc repro` DVC itself sees to that."""
    name = recipe.data.name
    output = at.data(name, "extract")
    result = extract(recipe.data, recipe.clip, at.data(name, "ingest"), at.data(name, "validate"), output)
    if "DVC_STAGE" not in os.environ and not (output / "store.dvc").exists():
        from slowfast_core.data.versions import track

        track(output / "store", at.root / "data", at.dvc_remote)
    return result


def run_train(recipe: Recipe, at: Workspace) -> StageResult:
    return train(recipe, at.data(recipe.data.name, "extract"), at.run(recipe.name, "train"), at, _start(recipe))


def trained_already(recipe: Recipe, at: Workspace) -> StageResult | None:
    """The result with which `run_train` would find nothing to do."""
    return trained(recipe, at.data(recipe.data.name, "extract"), at.run(recipe.name, "train"), _start(recipe))


def _start(recipe: Recipe) -> Path | None:
    return Path(recipe.train.init_from).resolve() if recipe.train.init_from else None


def run_evaluate(recipe: Recipe, at: Workspace) -> StageResult:
    store, training = at.data(recipe.data.name, "extract"), at.run(recipe.name, "train")
    return evaluate(recipe, store, training, at.run(recipe.name, "evaluate"), at)


def run_register(recipe: Recipe, at: Workspace) -> StageResult:
    training, evaluation = at.run(recipe.name, "train"), at.run(recipe.name, "evaluate")
    return register(recipe, training, evaluation, at.run(recipe.name, "register"), at)


STAGES: dict[str, Callable[[Recipe, Workspace], StageResult]] = {
    "ingest": run_ingest,
    "validate": run_validate,
    "extract": run_extract,
    "train": run_train,
    "evaluate": run_evaluate,
    "register": run_register,
}


def finetune_branch(recipe: Recipe, at: Workspace) -> Recipe:
    """The recipe of the branch, starting from what this recipe trains in the workspace."""
    if recipe.finetune is None:
        raise InputError("the recipe has no finetune branch", recipe.name, "add `finetune:` or leave --finetune out")
    train = recipe.finetune.train.model_copy(update={"init_from": str(at.run(recipe.name, "train"))})
    return recipe.finetune.model_copy(update={"train": train})
