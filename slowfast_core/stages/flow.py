"""Runs each stage of a recipe with its inputs and outputs in the workspace; called by the CLI, DVC and KFP.

Each stage imports heavy libraries only when it needs them, so that a stage that is up to date returns at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast_core.data.versions.remote import Address
from slowfast_core.data.versions.track import is_tracked, track
from slowfast_core.errors import InputError
from slowfast_core.model.folder import checkpoint_of
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Recipe
from slowfast_core.stage import STAGE_BY_NAME
from slowfast_core.stages.evaluate import evaluate
from slowfast_core.stages.extract import extract, extracted
from slowfast_core.stages.ingest import ingest
from slowfast_core.stages.register import register
from slowfast_core.stages.train import train, trained
from slowfast_core.stages.validate import validate
from slowfast_core.workspace import Workspace


def output_of(stage: str, recipe: Recipe, at: Workspace) -> Path:
    """The folder of the stage's result, which recipes with the same data set share for the stages of the data."""
    of_data = STAGE_BY_NAME[stage].belongs_to == "data set"
    return at.data(recipe.data.name, stage) if of_data else at.run(recipe.name, stage)


def inputs_of(stage: str, recipe: Recipe, at: Workspace) -> list[Path]:
    """The folders of the workspace whose results the stage reads."""
    folders = [output_of(name, recipe, at) for name in STAGE_BY_NAME[stage].reads]
    start = recipe.train.init_from
    if stage == "train" and start and Path(start).is_relative_to(at.root):
        folders.append(Path(start))
    return folders


def run_ingest(recipe: Recipe, at: Workspace) -> StageResult:
    return ingest(recipe.data, at.source(recipe.data.name), at.data(recipe.data.name, "ingest"))


def run_validate(recipe: Recipe, at: Workspace) -> StageResult:
    name = recipe.data.name
    return validate(recipe.data, at.data(name, "ingest"), at.data(name, "validate"))


def run_extract(recipe: Recipe, at: Workspace) -> StageResult:
    """Write the clip store and push its version to the DVC remote; under `dvc repro`, DVC itself does the latter."""
    name = recipe.data.name
    output = at.data(name, "extract")
    ingested, validated, cluster = at.data(name, "ingest"), at.data(name, "validate"), recipe.compute.address
    result = extract(recipe.data, recipe.clip, ingested, validated, output, cluster=cluster)
    if not _is_kept(recipe, at, result):
        remote = Address(recipe.data.remote, recipe.data.remote_endpoint_url)
        track(output / "store", at.below("data"), at.dvc_remote, remote)
    return result


def extracted_already(recipe: Recipe, at: Workspace) -> StageResult | None:
    """The result of extract if it is up to date, so that `run_extract` would not run; otherwise None."""
    name = recipe.data.name
    result = extracted(recipe.data, recipe.clip, at.data(name, "validate"), at.data(name, "extract"))
    return result if result and _is_kept(recipe, at, result) else None


def _is_kept(recipe: Recipe, at: Workspace, result: StageResult) -> bool:
    """Whether the store's version is in the DVC remote, or DVC itself manages it."""
    if "DVC_STAGE" in os.environ:
        return True
    store = at.data(recipe.data.name, "extract") / "store"
    remote = Address(recipe.data.remote, recipe.data.remote_endpoint_url)
    return is_tracked(store, str(result.data_version), at.below("data"), remote)


def run_train(recipe: Recipe, at: Workspace) -> StageResult:
    with start_weights(recipe, at) as start:
        return train(recipe, at.data(recipe.data.name, "extract"), at.run(recipe.name, "train"), at, start)


def trained_already(recipe: Recipe, at: Workspace) -> StageResult | None:
    """The result with which `run_train` would find nothing to do."""
    with start_weights(recipe, at) as start:
        return trained(recipe, at.data(recipe.data.name, "extract"), at.run(recipe.name, "train"), start)


@contextmanager
def start_weights(recipe: Recipe, at: Workspace) -> Iterator[Path | None]:
    """The checkpoint folder that training starts from, if it starts from one."""
    if recipe.train.init_from is None:
        yield None
        return
    with checkpoint_of(recipe.train.init_from, at, recipe.tracking.uri) as start:
        yield start


def run_evaluate(recipe: Recipe, at: Workspace) -> StageResult:
    store, training = at.data(recipe.data.name, "extract"), at.run(recipe.name, "train")
    return evaluate(recipe, store, training, at.run(recipe.name, "evaluate"), at)


def run_register(recipe: Recipe, at: Workspace) -> StageResult:
    training, evaluation = at.run(recipe.name, "train"), at.run(recipe.name, "evaluate")
    return register(recipe, training, evaluation, at.run(recipe.name, "register"), at)


STAGE_FUNCTIONS: dict[str, Callable[[Recipe, Workspace], StageResult]] = {
    "ingest": run_ingest,
    "validate": run_validate,
    "extract": run_extract,
    "train": run_train,
    "evaluate": run_evaluate,
    "register": run_register,
}
ALREADY = {"extract": extracted_already, "train": trained_already}  # for the stages that can run as jobs


def finetune_branch(recipe: Recipe, at: Workspace) -> Recipe:
    """The recipe of the finetune branch; without `train.init_from` it starts from this recipe's trained model."""
    if recipe.finetune is None:
        raise InputError("the recipe has no finetune branch", recipe.name, "add `finetune:` or omit --finetune")
    return recipe.finetune.starting_from(recipe.finetune.train.init_from or str(at.run(recipe.name, "train")))
