"""From AVA files to the official csv of detections: predicted boxes are scored, excluded key frames are not."""

from __future__ import annotations

import csv
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from slowfast_core.data.manifest import Manifest, read_manifest
from slowfast_core.data.synthetic import write_ava
from slowfast_core.errors import InputError
from slowfast_core.evaluation.ava import Detections, GroundTruth, evaluate_detections
from slowfast_core.evaluation.predictions import read_predictions
from slowfast_core.evaluation.report import report_on
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.once import run_once
from slowfast_core.recipe.data import Synthetic
from slowfast_core.recipe.load import Recipe, parse_recipe
from slowfast_core.recipe.schema import Evaluate
from slowfast_core.stages.evaluate import column_to_score, evaluate
from slowfast_core.stages.flow import run_extract, run_ingest, run_validate
from slowfast_core.workspace import Workspace

SOURCE = Synthetic(train_videos=2, val_videos=2, size=32, fps=8, seconds=4)
Row = list[str]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three key frames per video; the second one of `one` is excluded, the last one of `other` has no annotation."""
    folder = tmp_path_factory.mktemp("ava") / "source"
    write_ava(SOURCE, folder)
    rows = list(csv.reader((folder / "val.csv").open()))
    one, other = sorted({row[0] for row in rows})
    (folder / "excluded.csv").write_text(f"{one},0002\n")
    kept = [row for row in rows if row[:2] != [other, "0003"]]
    (folder / "val.csv").write_text("".join(",".join(row) + "\n" for row in kept))
    boxes = {f"{video},{second:04d}": np.array([[0.1, 0.1, 0.5, 0.6, 0.99], [0, 0, 1, 1, 0.4]])
             for video in (one, other) for second in (1, 2, 3)}  # fmt: skip
    del boxes[f"{one},0003"]
    (folder / "boxes.pkl").write_bytes(pickle.dumps(boxes))
    return folder


def recipe(source: Path, **data: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "people",
            "data": {
                "name": "people",
                "format": "ava",
                "source": str(source),
                "annotations": {"train": "train.csv", "val": "val.csv"},
                "labels": "labels.pbtxt",
                "store": {"short_side": 0},
                **data,
            },
            "clip": {"T": 2, "tau": 4, "alpha": 2},
            "model": {"depth": 18, "width": 8, "beta": 0.25, "classes": 8, "head": "detect"},
            "train": {"epochs": 1, "warmup_epochs": 0},
            "evaluate": {"size": 32},
        }
    )


def extracted(of: Recipe, at: Workspace) -> Path:
    for stage in (run_ingest, run_validate, run_extract):
        stage(of, at)
    return at.data("people", "extract")


def training(of: Recipe, folder: Path, labels: tuple[str, ...]) -> Path:
    """The output of the training stage, with random weights."""

    def work(partial: Path) -> dict[str, Any]:
        torch.manual_seed(0)
        weights = build_model(of.model, of.clip).state_dict()
        save_weights(partial / "model.safetensors", weights)
        record = {**json.loads(of.to_json()), "labels": labels, "weights_digest": weights_digest(weights)}
        (partial / "checkpoint.json").write_text(json.dumps(record))
        return {"weights_digest": weights_digest(weights)}

    run_once("train", folder, {}, work)
    return folder


def detections(folder: Path) -> list[Row]:
    return list(csv.reader((folder / "detections.csv").open()))


def test_predicted_boxes_are_scored_by_the_official_protocol(source: Path, tmp_path: Path) -> None:
    people = {"val": "boxes.pkl", "min_score": 0.8}
    of, at = recipe(source, person_boxes=people, excluded={"val": "excluded.csv"}), Workspace(tmp_path)
    store = extracted(of, at)
    manifest = read_manifest(store / "store" / "manifest.parquet")
    start = training(of, tmp_path / "training", manifest.labels)
    result = evaluate(of, store, start, tmp_path / "predicted", at)

    rows = detections(tmp_path / "predicted")
    one, other = sorted({row[0] for row in csv.reader((source / "val.csv").open())})
    # without the excluded one,0002 and one,0003, which has no person box; with other,0003, which has no annotation
    frames = [(one, "0001"), (other, "0001"), (other, "0002"), (other, "0003")]
    assert Counter((row[0], row[1]) for row in rows) == dict.fromkeys(frames, 8)
    assert {tuple(row[2:6]) for row in rows} == {("0.10000", "0.10000", "0.50000", "0.60000")}
    assert {int(row[6]) for row in rows} == set(range(1, 9))
    assert "4, predicted by a person detector" in (tmp_path / "predicted" / "report.html").read_text()

    truth: dict[tuple[str, int], list[tuple[list[float], int]]] = {}
    for video, second, *box, action, _ in csv.reader((source / "val.csv").open()):
        if (video, second) != (one, "0002"):
            truth.setdefault((video, int(second)), []).append(([float(x) for x in box], int(action) - 1))
    found = {
        (video, int(second)): [row for row in rows if (row[0], row[1]) == (video, second)] for video, second in frames
    }
    again = evaluate_detections(
        {key: GroundTruth(np.array([b for b, _ in of]), np.array([a for _, a in of])) for key, of in truth.items()},
        {
            key: Detections(
                np.array([[float(x) for x in row[2:6]] for row in of]),
                np.array([int(row[6]) - 1 for row in of]),
                np.array([float(row[7]) for row in of]),
            )
            for key, of in found.items()
        },
        manifest.labels,
    )
    assert result.metrics["mAP"] == pytest.approx(again.mean_average_precision)
    assert (again.frames, again.frames_missed, again.frames_unknown) == (4, 1, 1)

    report_on(tmp_path / "predicted", folder=tmp_path / "again")
    for name in ("metrics.json", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "predicted" / name).read_bytes()
    origin = read_predictions(tmp_path / "predicted" / "predictions.parquet").origin
    assert (origin.protocol, origin.evaluate.boxes) == ("detection", "predicted")

    true = evaluate(of.model_copy(update={"evaluate": of.evaluate.model_copy(update={"boxes": "truth"})}),
                    store, start, tmp_path / "true", at)  # fmt: skip
    assert {(row[0], int(row[1])) for row in detections(tmp_path / "true")} == truth.keys()
    assert true.metrics["mAP"] > result.metrics["mAP"]


def test_selection_of_the_scored_boxes() -> None:
    """The ground truth, unless the data has predicted boxes or the recipe selects the boxes."""
    people = [[0.0, 0.0, 1.0, 1.0, 0.9]]
    without, both = (
        Manifest(pd.DataFrame({"proposals": of}, dtype=object), ()) for of in ([None, None], [None, people])
    )
    assert column_to_score(without, Evaluate(), Path("store")) == "boxes"
    assert column_to_score(both, Evaluate(), Path("store")) == "proposals"
    assert column_to_score(both, Evaluate(boxes="truth"), Path("store")) == "boxes"
    assert column_to_score(both, Evaluate(boxes="predicted"), Path("store")) == "proposals"
    with pytest.raises(InputError, match=r"no predicted boxes \(store\); set data\.person_boxes\.val, then ingest"):
        column_to_score(without, Evaluate(boxes="predicted"), Path("store"))
