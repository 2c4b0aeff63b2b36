"""What `slowfast run` would do: for each stage whether it would run, and why. Nothing is run or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from slowfast_core.once import NO_RESULT, has_result, read_result, reason_to_run
from slowfast_core.recipe.load import Recipe
from slowfast_core.stage import STAGES, Stage
from slowfast_core.stages.evaluate import evaluate_inputs
from slowfast_core.stages.extract import extract_inputs
from slowfast_core.stages.flow import extracted_already, finetune_branch, output_of, start_weights
from slowfast_core.stages.ingest import ingest_inputs
from slowfast_core.stages.register import register_inputs
from slowfast_core.stages.train import train_inputs
from slowfast_core.stages.validate import validate_inputs
from slowfast_core.tracking.runs import store_name, store_uri
from slowfast_core.workspace import Workspace


class PlannedStage(BaseModel):
    """One row of the plan, as `slowfast run --dry-run --json` prints it."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    stage: str
    status: Literal["would run", "up to date"]
    reason: str  # why it would run; empty where it is up to date


def plan_run(recipe: Recipe, at: Workspace) -> list[PlannedStage]:
    """The stages of the recipe and of its fine-tuning branch, in order. Raises InputError.

    A stage would run where its inputs, its code or a stage before it changed. It may still turn out to be up to date
    when the stage before it runs and gives the same result.
    """
    parts = [recipe.model_copy(update={"finetune": None})]
    if recipe.finetune:
        parts.append(finetune_branch(recipe, at))
    running: dict[Path, str] = {}  # output folder of a stage that would run: its name as a reason
    rows = []
    for part in parts:
        for stage in STAGES:
            reason = _reason(part, stage, at, running)
            if reason:
                own = "" if part is parts[0] else f"{part.name} "
                running.setdefault(output_of(stage.name, part, at), f"{own}{stage.name} runs")
            status: Literal["would run", "up to date"] = "would run" if reason else "up to date"
            rows.append(PlannedStage(recipe=part.name, stage=stage.name, status=status, reason=reason))
    return rows


def _reason(recipe: Recipe, stage: Stage, at: Workspace, running: dict[Path, str]) -> str:
    """Why the stage would run; "" where its result is up to date."""
    output = output_of(stage.name, recipe, at)
    before = [output_of(name, recipe, at) for name in stage.reads]
    if stage.name == "train" and recipe.train.init_from:
        before.append(Path(recipe.train.init_from))
    if output in running:  # both recipes use the data set, and the first one runs the stage
        return ""
    if not has_result(output):
        return NO_RESULT
    for folder in before:
        if folder in running:
            return running[folder]
    return REASONS[stage.name](recipe, at, output)


def _reason_to_ingest(recipe: Recipe, at: Workspace, output: Path) -> str:
    inputs = ingest_inputs(recipe.data, at.source(recipe.data.name))
    return "the synthetic source is not generated" if inputs is None else reason_to_run("ingest", output, inputs)


def _reason_to_validate(recipe: Recipe, at: Workspace, output: Path) -> str:
    ingested = at.data(recipe.data.name, "ingest")
    return reason_to_run("validate", output, validate_inputs(recipe.data, ingested))


def _reason_to_extract(recipe: Recipe, at: Workspace, output: Path) -> str:
    validated = at.data(recipe.data.name, "validate")
    reason = reason_to_run("extract", output, extract_inputs(recipe.data, recipe.clip, validated))
    if reason or extracted_already(recipe, at):
        return reason
    return "its data version is not in the DVC remote"


def _reason_to_train(recipe: Recipe, at: Workspace, output: Path) -> str:
    """With `compute.gpus_per_worker: auto`, a result is up to date whether it was trained with GPUs or without."""
    extracted = at.data(recipe.data.name, "extract")
    with start_weights(recipe, at) as start:
        candidates = [recipe.with_gpus(gpus) for gpus in (0, 1)]
        reasons = [reason_to_run("train", output, train_inputs(each, extracted, start)) for each in candidates]
    return min(reasons, key=len)  # the longer one also names gpus_per_worker


def _reason_to_evaluate(recipe: Recipe, at: Workspace, output: Path) -> str:
    data_version = read_result(at.data(recipe.data.name, "extract")).data_version or ""
    weights = read_result(at.run(recipe.name, "train")).weights_digest or ""
    return reason_to_run("evaluate", output, evaluate_inputs(recipe, data_version, weights))


def _reason_to_register(recipe: Recipe, at: Workspace, output: Path) -> str:
    training, evaluation = at.run(recipe.name, "train"), at.run(recipe.name, "evaluate")
    store = store_name(store_uri(recipe.tracking, at), at)
    return reason_to_run("register", output, register_inputs(recipe, training, evaluation, store))


REASONS: dict[str, Callable[[Recipe, Workspace, Path], str]] = {
    "ingest": _reason_to_ingest,
    "validate": _reason_to_validate,
    "extract": _reason_to_extract,
    "train": _reason_to_train,
    "evaluate": _reason_to_evaluate,
    "register": _reason_to_register,
}
