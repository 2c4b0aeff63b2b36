"""The flow: each stage of a recipe with its inputs and its output in the workspace. The CLI, DVC and KFP all call these.

Heavy libraries are imported by the stage that needs them, so that an unchanged stage answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slowfast_core.data.extraction import extract
from slowfast_core.data.ingestion import ingest
from slowfast_core.data.validation import validate
from slowfast_core.evaluation.evaluate import evaluate
from slowfast_core.recipe import Recipe
from slowfast_core.stage import StageResult
from slowfast_core.tracking.registry import register
from slowfast_core.training.launch import train
from slowfast_core.workspace import Workspace


def run_ingest(recipe: Recipe, at: Workspace) -> StageResult:
    return ingest(recipe.data, at.source(recipe.data.name), at.data(recipe.data.name, "ingest"))


def run_validate(recipe: Recipe, at: Workspace) -> StageResult:
    name = recipe.data.name
    return validate(recipe.data, at.data(name, "ingest"), at.data(name, "validate"))


def run_extract(recipe: Recipe, at: Workspace) -> StageResult:
    name = recipe.data.name
    return extract(recipe.data, recipe.clip, at.data(name, "ingest"), at.data(name, "validate"), at.data(name, "extract"))


def run_train(recipe: Recipe, at: Workspace, init_from: Path | None = None) -> StageResult:
    return train(recipe, at.data(recipe.data.name, "extract"), at.run(recipe.name, "train"), at, init_from)


def run_evaluate(recipe: Recipe, at: Workspace) -> StageResult:
    store, checkpoint = at.data(recipe.data.name, "extract"), at.run(recipe.name, "train")
    return evaluate(recipe, store, checkpoint, at.run(recipe.name, "evaluate"), at)


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
