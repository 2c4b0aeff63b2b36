"""The register stage: registers trained and evaluated weights as a model version, if their lineage is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from slowfast_core.documents import read_json_object
from slowfast_core.errors import InputError
from slowfast_core.model.folder import files_of, load_verified
from slowfast_core.once import StageResult, read_result, run_once
from slowfast_core.recipe.load import Recipe, parse_recipe
from slowfast_core.tracking.failures import mlflow_in_one_line
from slowfast_core.tracking.gate import Evidence
from slowfast_core.tracking.lineage import Environment, Lineage, missing
from slowfast_core.tracking.registry import HEADLINE, Candidate, register_version
from slowfast_core.tracking.runs import read_environment, run_exists, send_unsent, store_name, store_uri
from slowfast_core.workspace import Workspace

TRAINED = ("seed", "clip", "model", "train", "compute")  # sections that the trained weights depend on


def register(recipe: Recipe, training: Path, evaluation: Path, output: Path, at: Workspace) -> StageResult:
    """Register the trained weights as a version of `recipe.register_.model`. Raises InputError for missing lineage."""
    trained, evaluated = read_result(training), read_result(evaluation)
    if trained.weights_digest != evaluated.weights_digest:
        fix = "evaluate this training's checkpoint first"
        raise InputError(f"other weights were evaluated ({evaluated.weights_digest})", evaluation, fix)
    uri = store_uri(recipe.tracking, at)
    recipe = recipe.model_copy(update={"finetune": None})  # the branch is registered as a model of its own

    def work(folder: Path) -> Mapping[str, Any]:
        load_verified(training)
        with mlflow_in_one_line(uri):
            send_unsent(recipe.tracking, at)
            candidate = _candidate(recipe, training, evaluation, uri)
            return register_version(candidate, recipe.register_, folder, uri)

    return run_once("register", output, register_inputs(recipe, training, evaluation, store_name(uri, at)), work)


def register_inputs(recipe: Recipe, training: Path, evaluation: Path, store: str) -> dict[str, Any]:
    """Everything that a version records."""
    evaluated = read_result(evaluation)
    # The checkpoint records the start weights by their digest, so their location does not count.
    return {
        "recipe": json.loads(recipe.starting_from(None).to_json()),
        "uri": store,
        "checkpoint": _read(training / "checkpoint.json"),
        "evaluation": [_read(evaluation / "run.json"), evaluated.metrics, evaluated.data_version],
        "measured": _read(evaluation / "metrics.json"),
        "weights": read_result(training).weights_digest,
    }


def _candidate(recipe: Recipe, training: Path, evaluation: Path, uri: str) -> Candidate:
    evaluated = read_result(evaluation)
    recipe = _as_trained(recipe, training / "checkpoint.json")
    headline = "mAP" if recipe.model.multi_label else HEADLINE[recipe.model.head]
    if headline not in evaluated.metrics:
        raise InputError(f"the evaluation has no metric {headline!r}", evaluation, "evaluate with this recipe's head")
    lineage = collect(recipe, training, evaluation, uri)
    if unknown := missing(lineage):
        fix = f"train and evaluate with this recipe, tracked at {uri}"
        raise InputError(f"lineage is incomplete: {', '.join(unknown)}", training, fix)
    evaluated_on = evaluated.data_version or lineage.data_version
    return Candidate(
        name=recipe.register_.model,
        recipe=recipe.name,
        files=files_of(training),
        lineage=lineage,
        headline=headline,
        evidence=_evidence(evaluation),
        evaluated_on=evaluated_on,
        servable=recipe.model.head == "classify",
    )


def _evidence(evaluation: Path) -> Evidence | None:
    measured = _read(evaluation / "metrics.json")
    names = [field.name for field in fields(Evidence)]
    return Evidence(**{name: measured[name] for name in names}) if measured.keys() >= set(names) else None


def _as_trained(recipe: Recipe, checkpoint: Path) -> Recipe:
    """The recipe with the sections that the weights were trained with, in case the recipe was edited afterwards."""
    trained = _read(checkpoint)
    if absent := [section for section in TRAINED if section not in trained]:
        what = f"the checkpoint does not record {', '.join(absent)}"
        raise InputError(what, checkpoint, "train again with this version of the package")
    sections = {section: trained[section] for section in TRAINED}
    return parse_recipe({**json.loads(recipe.to_json()), **sections}, str(checkpoint))


def collect(recipe: Recipe, training: Path, evaluation: Path, uri: str) -> Lineage:
    """Collect the lineage of the weights; an MLflow run that does not exist at `uri` counts as missing."""
    trained, evaluated = read_result(training), read_result(evaluation)
    checkpoint = _read(training / "checkpoint.json")
    run = checkpoint.get("run_id") or ""
    evaluation_run = _read(evaluation / "run.json").get("run_id") or ""
    recorded = (read_environment(uri, run) if run else None) or Environment()
    return Lineage(
        **recorded.model_dump(),
        recipe=recipe.to_yaml(),
        seed=recipe.seed,
        data_version=trained.data_version or "",
        parent_checkpoint=(checkpoint["parent_checkpoint"] or "none") if "parent_checkpoint" in checkpoint else "",
        weights_digest=trained.weights_digest or "",
        training_run=run if run and run_exists(uri, run) else "",
        evaluation_run=evaluation_run if evaluation_run and run_exists(uri, evaluation_run) else "",
        metrics=evaluated.metrics,
        stage_versions=trained.versions | evaluated.versions,
    )


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path, "no readable JSON", "run the stage that writes it")
