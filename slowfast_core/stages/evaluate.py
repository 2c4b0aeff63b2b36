"""The evaluation stage: scores a trained model on the held-out split; writes metrics, a report and an MLflow run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.once import StageResult, read_result, run_once
from slowfast_core.progress import progress
from slowfast_core.recipe.load import Evaluate, Recipe
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slowfast_core.data.manifest import Manifest
    from slowfast_core.evaluation.ava import DetectionResult
    from slowfast_core.evaluation.classification import ClassificationResult
    from slowfast_core.evaluation.multi_label import MultiLabelResult
    from slowfast_core.evaluation.scoring import Scorer
    from slowfast_core.tracking.runs import Run


def evaluate(recipe: Recipe, extracted: Path, training: Path, output: Path, at: Workspace) -> StageResult:
    """Score the `val` split of the clip store with the trained weights; write metrics.json, report.html, run.json."""
    data_version = read_result(extracted).data_version or ""
    digest = read_result(training).weights_digest or ""

    def work(partial: Path) -> Mapping[str, Any]:
        with _open_run(recipe, at, partial, data_version) as run:
            result = _evaluate(recipe, extracted / "store", training, partial, data_version, digest)
            run.rest.add(result.metrics, 0)
            run.rest.files.append(partial / "report.html")
        write_whole(partial / "run.json", json.dumps({"run_id": run.id}))
        summary = ", ".join(f"{name} {100 * value:.1f} %" for name, value in result.metrics.items())
        return {
            "outputs": {"report": "report.html", "metrics": "metrics.json"},
            "summary": summary,
            "digest": digest,
            "weights_digest": digest,
            "data_version": data_version,
            "versions": read_result(extracted).versions | read_result(training).versions,
            "metrics": result.metrics,
        }

    return run_once("evaluate", output, evaluate_inputs(recipe, data_version, digest), work)


def evaluate_inputs(recipe: Recipe, data_version: str, weights: str) -> dict[str, Any]:
    """Everything the scores depend on."""
    settings = {"evaluate": recipe.evaluate.inputs(), "precision": recipe.compute.precision}
    return {**settings, "data_version": data_version, "weights": weights}


def _evaluate(
    recipe: Recipe, store: Path, training: Path, folder: Path, data_version: str, digest: str
) -> ClassificationResult | MultiLabelResult | DetectionResult:
    from slowfast_core.data.manifest import read_manifest
    from slowfast_core.evaluation.report import (
        ReportContext,
        write_classification_report,
        write_detection_report,
        write_multi_label_report,
    )
    from slowfast_core.evaluation.scoring import Scorer

    manifest = read_manifest(store / "manifest.parquet").split("val")
    if manifest.rows.empty:
        where = store / "manifest.parquet"
        raise InputError("the val split is empty", where, "set validation annotations or data.holdout")
    context = ReportContext(recipe=recipe.name, data_version=data_version, weights_digest=digest)
    scorer = Scorer(training, recipe.evaluate, recipe.compute.precision, recipe.data.store)
    readers = max(recipe.compute.loader_workers, 1)
    result: ClassificationResult | MultiLabelResult | DetectionResult
    if recipe.model.multi_label:
        result = _classify_multi_label(scorer, store, manifest, readers)
        write_multi_label_report(folder / "report.html", context, result)
    elif recipe.model.head == "classify":
        result = _classify(scorer, store, manifest, readers)
        write_classification_report(folder / "report.html", context, result)
    else:
        result, boxes = _detect(scorer, store, manifest, folder, recipe.evaluate)
        write_detection_report(
            folder / "report.html",
            replace(context, facts=(("boxes", boxes), ("protocol", recipe.evaluate.protocol))),
            result,
        )
    write_whole(folder / "metrics.json", json.dumps({**result.metrics, **asdict(result.evidence)}, indent=1))
    return result


def _classify(scorer: Scorer, store: Path, manifest: Manifest, readers: int) -> ClassificationResult:
    import numpy as np

    from slowfast_core.evaluation.classification import evaluate_classification

    labels = np.array([labels[0] for labels in manifest.rows["labels"]])
    scores = _score_all(scorer, store, manifest, readers)
    return evaluate_classification(list(manifest.rows["id"]), scores, labels, manifest.labels)


def _classify_multi_label(scorer: Scorer, store: Path, manifest: Manifest, readers: int) -> MultiLabelResult:
    from slowfast_core.evaluation.multi_label import evaluate_multi_label

    rows = manifest.rows
    return evaluate_multi_label(
        list(rows["id"]), _score_all(scorer, store, manifest, readers), list(rows["labels"]), manifest.labels
    )


def _score_all(scorer: Scorer, store: Path, manifest: Manifest, readers: int) -> NDArray[np.float32]:
    """Scores `[videos, classes]`."""
    import numpy as np

    scores = []
    with progress("evaluate", len(manifest.rows)) as advance:
        for scores_A in scorer.score_videos([store / path for path in manifest.rows["path"]], readers):
            scores.append(scores_A[: len(manifest.labels)])
            advance()
    return np.stack(scores)


def _detect(
    scorer: Scorer, store: Path, manifest: Manifest, folder: Path, test: Evaluate
) -> tuple[DetectionResult, str]:
    """The result, and a description of the boxes that were scored."""
    import numpy as np

    from slowfast_core.evaluation.ava import Detections, GroundTruth, evaluate_detections, write_detections

    column = column_to_score(manifest, test, store)
    people = 0
    truth = {}
    found = {}
    with progress("evaluate", len(manifest.rows)) as advance:
        for row in manifest.rows.to_dict("records"):
            key = (row["video"], int(row["second"]))
            truth[key] = GroundTruth.of_people(row["boxes"], row["box_labels"])
            boxes = [list(box)[:4] for box in row[column]]
            people += len(boxes)
            if boxes:
                kept, scores_KA = scorer.detect(store / row["path"], row["key"], boxes)
                boxes_K4 = np.array([boxes[i] for i in kept]).reshape(-1, 4)
                found[key] = Detections.of_people(boxes_K4, scores_KA[:, : len(manifest.labels)])
            advance()
    write_detections(folder / "detections.csv", found)
    origin = "predicted by a person detector" if column == "proposals" else "from the ground truth"
    return evaluate_detections(truth, found, manifest.labels, (), test.iou, test.protocol), f"{people:,}, {origin}"


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
