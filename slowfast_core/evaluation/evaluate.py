"""The evaluation stage: a checkpoint on the held-out split, its metrics, its report, its MLflow run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.progress import progress
from slowfast_core.recipe import Recipe
from slowfast_core.stage import StageResult, key_of_partial, read_result, run_once
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from slowfast_core.data.manifest import Manifest
    from slowfast_core.evaluation.ava import DetectionResult
    from slowfast_core.evaluation.classification import ClassificationResult
    from slowfast_core.evaluation.scoring import Scorer


def evaluate(recipe: Recipe, extracted: Path, training: Path, output: Path, at: Workspace) -> StageResult:
    """Score the `val` split of the clip store with the trained weights; write metrics.json, report.html, run.json."""
    data_version = read_result(extracted).data_version or ""
    digest = read_result(training).weights_digest or ""
    inputs: dict[str, object] = {"evaluate": recipe.evaluate.model_dump(), "precision": recipe.compute.precision}
    inputs |= {"data_version": data_version, "weights": digest}

    def work(partial: Path) -> Mapping[str, Any]:
        result = _evaluate(recipe, extracted / "store", training, partial, data_version, digest)
        run_id = _log(recipe, at, partial, data_version, result.metrics)
        write_whole(partial / "run.json", json.dumps({"run_id": run_id}))
        shown = ", ".join(f"{name} {100 * value:.1f} %" for name, value in result.metrics.items())
        return {
            "outputs": {"report": "report.html", "metrics": "metrics.json"},
            "summary": shown,
            "digest": digest,
            "weights_digest": digest,
            "data_version": data_version,
            "metrics": result.metrics,
        }

    return run_once("evaluate", output, inputs, work)


def _evaluate(
    recipe: Recipe, store: Path, training: Path, folder: Path, data_version: str, digest: str
) -> ClassificationResult | DetectionResult:
    from slowfast_core.data.manifest import read_manifest
    from slowfast_core.evaluation.report import ReportContext, write_classification_report, write_detection_report
    from slowfast_core.evaluation.scoring import Scorer

    manifest = read_manifest(store / "manifest.parquet").split("val")
    if manifest.rows.empty:
        where = store / "manifest.parquet"
        raise InputError("the val split is empty", where, "name validation annotations or a holdout")
    context = ReportContext(recipe=recipe.name, data_version=data_version, weights_digest=digest)
    scorer = Scorer(training, recipe.evaluate, recipe.compute.precision, recipe.data.store)
    result: ClassificationResult | DetectionResult
    if recipe.model.head == "classify":
        result = _classify(scorer, store, manifest, max(recipe.compute.loader_workers, 1))
        write_classification_report(folder / "report.html", context, result)
    else:
        result = _detect(scorer, store, manifest, folder, recipe.evaluate.iou)
        write_detection_report(folder / "report.html", context, result)
    write_whole(folder / "metrics.json", json.dumps(result.metrics, indent=1))
    return result


def _classify(scorer: Scorer, store: Path, manifest: Manifest, readers: int) -> ClassificationResult:
    import numpy as np

    from slowfast_core.evaluation.classification import evaluate_classification

    rows = manifest.rows
    scores = []
    with progress("evaluate", len(rows)) as advance:
        for scores_A in scorer.score_videos([store / path for path in rows["path"]], readers):
            scores.append(scores_A[: len(manifest.labels)])
            advance()
    labels = np.array([labels[0] for labels in rows["labels"]])
    return evaluate_classification(list(rows["id"]), np.stack(scores), labels, manifest.labels)


def _detect(scorer: Scorer, store: Path, manifest: Manifest, folder: Path, iou: float) -> DetectionResult:
    import numpy as np

    from slowfast_core.evaluation.ava import Detections, GroundTruth, evaluate_detections, write_detections

    truth, found = {}, {}
    with progress("evaluate", len(manifest.rows)) as advance:
        for row in manifest.rows.to_dict("records"):
            key = (row["video"], int(row["second"]))
            truth[key] = GroundTruth.of_people(row["boxes"], row["box_labels"])
            kept, scores_KA = scorer.detect(store / row["path"], row["key"], row["boxes"])
            boxes_K4 = np.array([list(row["boxes"][i]) for i in kept]).reshape(-1, 4)
            found[key] = Detections.of_people(boxes_K4, scores_KA[:, : len(manifest.labels)])
            advance()
    write_detections(folder / "detections.csv", found)
    return evaluate_detections(truth, found, manifest.labels, iou=iou)


def _log(recipe: Recipe, at: Workspace, folder: Path, data_version: str, metrics: Mapping[str, float]) -> str:
    from slowfast_core.tracking.runs import open_run

    tags = {"slowfast.stage": "evaluate", "slowfast.recipe": recipe.name}
    key = f"{key_of_partial(folder)} {folder}"
    with open_run(recipe.tracking, at, f"{recipe.name} evaluate", key, tags) as run:
        run.log_params(evaluate=recipe.evaluate, model=recipe.model, clip=recipe.clip)
        run.log_dataset(recipe.data.name, data_version, recipe.data.source, "evaluation")
        run.log_metrics(metrics, 0)
        run.log_artifact(folder / "report.html")
        return run.id
