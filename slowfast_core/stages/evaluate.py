"""The evaluation stage: scores a trained model on the held-out split.

It writes the predictions, the metrics and the report that are computed from them, and an MLflow run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.once import StageResult, read_result, run_once
from slowfast_core.progress import progress
from slowfast_core.recipe.load import Evaluate, Recipe
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from slowfast_core.data.manifest import Manifest
    from slowfast_core.evaluation.measure import Measured
    from slowfast_core.evaluation.predictions import Origin, Predictions, Protocol
    from slowfast_core.evaluation.scoring import Scorer
    from slowfast_core.tracking.runs import Run

SHARDS = "shards"  # folder of finished rows, while the stage runs


def evaluate(recipe: Recipe, extracted: Path, training: Path, output: Path, at: Workspace) -> StageResult:
    """Score the `val` split of the clip store with the trained weights.

    Writes predictions.parquet, metrics.json, report.html, timings.parquet and run.json, and for detection the official
    detections.csv. A killed evaluation continues after the rows that it has written.
    """
    data_version = read_result(extracted).data_version or ""
    digest = read_result(training).weights_digest or ""

    def work(partial: Path) -> Mapping[str, Any]:
        with _open_run(recipe, at, partial, data_version) as run:
            measured = _evaluate(recipe, extracted / "store", training, partial, data_version, digest)
            run.rest.add(measured.metrics, 0)
            run.rest.files.append(partial / "report.html")
        write_whole(partial / "run.json", json.dumps({"run_id": run.id}))
        shutil.rmtree(partial / SHARDS)
        summary = ", ".join(f"{name} {100 * value:.1f} %" for name, value in measured.result.metrics.items())
        return {
            "outputs": {"report": "report.html", "metrics": "metrics.json", "predictions": "predictions.parquet"},
            "summary": summary,
            "digest": digest,
            "weights_digest": digest,
            "data_version": data_version,
            "versions": read_result(extracted).versions | read_result(training).versions,
            "metrics": measured.metrics,
        }

    return run_once("evaluate", output, evaluate_inputs(recipe, data_version, digest), work)


def evaluate_inputs(recipe: Recipe, data_version: str, weights: str) -> dict[str, Any]:
    """Everything the scores depend on."""
    settings = {"evaluate": recipe.evaluate.inputs(), "precision": recipe.compute.precision}
    return {**settings, "data_version": data_version, "weights": weights}


def _evaluate(recipe: Recipe, store: Path, training: Path, folder: Path, data_version: str, digest: str) -> Measured:
    from slowfast_core.data.manifest import read_manifest
    from slowfast_core.evaluation.ava import write_detections
    from slowfast_core.evaluation.measure import detections_of
    from slowfast_core.evaluation.predictions import Origin
    from slowfast_core.evaluation.report import write_results
    from slowfast_core.evaluation.scoring import Scorer

    manifest = read_manifest(store / "manifest.parquet").split("val")
    if manifest.rows.empty:
        where = store / "manifest.parquet"
        raise InputError("the val split is empty", where, "set validation annotations or data.holdout")
    test = recipe.evaluate
    if recipe.model.head == "detect":
        column = column_to_score(manifest, test, store)
        test = test.model_copy(update={"boxes": "predicted" if column == "proposals" else "truth"})
    origin = Origin(
        recipe=recipe.name,
        data_version=data_version,
        weights_digest=digest,
        protocol=_protocol(recipe),
        labels=manifest.labels,
        evaluate=test,
    )
    scorer = Scorer(training, test, recipe.compute.precision, recipe.data.store)
    readers = max(recipe.compute.loader_workers, 1)
    predictions = _predict(scorer, store, manifest, origin, folder, readers)
    if origin.protocol == "detection":
        write_detections(folder / "detections.csv", detections_of(predictions)[1])
    return write_results(folder, predictions)


def _protocol(recipe: Recipe) -> Protocol:
    if recipe.model.multi_label:
        return "multi_label"
    return "classification" if recipe.model.head == "classify" else "detection"


def _predict(
    scorer: Scorer, store: Path, manifest: Manifest, origin: Origin, folder: Path, readers: int
) -> Predictions:
    """Score all rows of the manifest that a killed evaluation has not scored yet; write predictions and timings."""
    from slowfast_core.evaluation.predictions import PREDICTIONS, TIMINGS, Predictions, write_predictions, write_timings
    from slowfast_core.evaluation.shards import Shards

    with Shards(folder / SHARDS, origin.schema) as shards, progress("evaluate", len(manifest.rows)) as advance:
        advance(shards.finished)
        rest = manifest.rows.iloc[shards.finished :]
        scored = _detected if origin.protocol == "detection" else _classified
        for row in scored(scorer, store, rest, origin, readers):
            shards.append(row)
            advance()
    table = shards.table()
    predictions = Predictions(origin, table.select(origin.schema.names))
    write_predictions(folder / PREDICTIONS, predictions)
    write_timings(folder / TIMINGS, table)
    return predictions


def _classified(
    scorer: Scorer, store: Path, rows: pd.DataFrame, origin: Origin, readers: int
) -> Iterator[dict[str, Any]]:
    """Rows of the predictions, with their seconds."""
    all_scored = scorer.score_videos([store / path for path in rows["path"]], readers)
    for row, scored in zip(rows.to_dict("records"), all_scored, strict=True):
        yield {
            "id": row["id"],
            "video": row["video"],
            "labels": row["labels"],
            "scores": scored.scores[: len(origin.labels)],  # a model may have more outputs than the data has classes
            "decode_seconds": scored.decode_seconds,
            "inference_seconds": scored.inference_seconds,
        }


def _detected(
    scorer: Scorer, store: Path, rows: pd.DataFrame, origin: Origin, _readers: int
) -> Iterator[dict[str, Any]]:
    """Rows of the predictions, with their seconds."""
    column = "proposals" if origin.evaluate.boxes == "predicted" else "boxes"
    for row in rows.to_dict("records"):
        boxes = [list(box)[:4] for box in row[column]]
        scored = scorer.detect(store / row["path"], row["key"], boxes) if boxes else None
        yield {
            "id": row["id"],
            "video": row["video"],
            "second": int(row["second"]),
            "boxes": [boxes[n] for n in scored.boxes] if scored else [],
            "scores": list(scored.scores[:, : len(origin.labels)]) if scored else [],
            "true_boxes": [list(box) for box in row["boxes"]],
            "true_labels": [list(labels) for labels in row["box_labels"]],
            "decode_seconds": scored.decode_seconds if scored else 0.0,
            "inference_seconds": scored.inference_seconds if scored else 0.0,
        }


def column_to_score(manifest: Manifest, test: Evaluate, where: Path) -> Literal["boxes", "proposals"]:
    """The column of the manifest that `test.boxes` selects. Raises InputError when the data has no such boxes."""
    predicted = bool(manifest.rows["proposals"].notna().any())
    if test.boxes == "predicted" and not predicted:
        fix = "set data.person_boxes.val, then ingest and extract again"
        raise InputError("the data has no predicted boxes", where, fix)
    return "proposals" if predicted and test.boxes != "truth" else "boxes"


def _open_run(recipe: Recipe, at: Workspace, folder: Path, data_version: str) -> Run:
    """Open the MLflow run; called before scoring, so that no work is lost if MLflow does not answer.

    Raises InputError when MLflow cannot be used.
    """
    from slowfast_core.tracking.continued import open_run_of
    from slowfast_core.tracking.failures import mlflow_in_one_line

    tags = {"slowfast.stage": "evaluate", "slowfast.recipe": recipe.name}
    run = open_run_of(folder, recipe.tracking, at, f"{recipe.name} evaluate", tags)
    with mlflow_in_one_line(run.uri):
        run.log_params(evaluate=recipe.evaluate, model=recipe.model, clip=recipe.clip)
        run.log_dataset(recipe.data.name, data_version, recipe.data.source, "evaluation")
    return run
