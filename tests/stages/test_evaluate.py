"""The evaluation stage leaves predictions; killed at any moment it continues, and ends with the same bytes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from slowfast_core.data.manifest import read_manifest
from slowfast_core.evaluation.measure import metrics_of
from slowfast_core.evaluation.predictions import read_predictions
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.once import read_result, run_once
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.stages.flow import run_evaluate
from slowfast_core.tracking.runs import connect
from slowfast_core.workspace import Workspace

# Evaluates, writes each row to disk at once, and is killed before the row with the number of the last argument.
KILLED = """
import os, signal, sys
from pathlib import Path
from slowfast_core.evaluation import shards
from slowfast_core.recipe.load import load_recipe
from slowfast_core.stages.flow import run_evaluate
from slowfast_core.workspace import Workspace

recipe, root, moment = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
append = shards.Shards.append
shards.SHARD_ROWS = 1

def append_or_die(self, row):
    if self.finished == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, row)

shards.Shards.append = append_or_die
run_evaluate(load_recipe(recipe), Workspace(root))
"""


@pytest.fixture
def trained(tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path) -> tuple[Recipe, Workspace]:
    """The tiny data, and a network with random weights as if it had been trained."""
    recipe, at = load_recipe(str(tiny_recipe)), tiny_workspace(tmp_path / "workspace")
    labels = read_manifest(at.data("motion", "extract") / "store" / "manifest.parquet").labels

    def work(partial: Path) -> dict[str, Any]:
        torch.manual_seed(0)
        weights = build_model(recipe.model, recipe.clip).state_dict()
        save_weights(partial / "model.safetensors", weights)
        record = {**json.loads(recipe.to_json()), "labels": labels, "weights_digest": weights_digest(weights)}
        (partial / "checkpoint.json").write_text(json.dumps(record))
        return {"weights_digest": weights_digest(weights)}

    run_once("train", at.run("tiny", "train"), {}, work)
    return recipe, at


def reproducible(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("predictions.parquet", "metrics.json", "report.html")}


def test_the_stage_leaves_predictions_with_their_origin(trained: tuple[Recipe, Workspace]) -> None:
    recipe, at = trained
    result = run_evaluate(recipe, at)
    folder = at.run("tiny", "evaluate")
    predictions = read_predictions(Path(result.outputs["predictions"]))
    rows = read_manifest(at.data("motion", "extract") / "store" / "manifest.parquet").split("val").rows
    assert predictions.ids == list(rows["id"])
    assert predictions.labels == [list(labels) for labels in rows["labels"]]
    assert predictions.scores.sum(axis=1) == pytest.approx(1)
    origin = predictions.origin
    assert (origin.recipe, origin.data_version, origin.protocol) == ("tiny", result.data_version, "classification")
    assert (origin.weights_digest, origin.evaluate) == (result.weights_digest, recipe.evaluate)
    written = json.loads((folder / "metrics.json").read_text())
    assert written == metrics_of(predictions)
    assert {"top1", "top1_low", "top1_high", "ece", "samples", "lower_bound", "chance"} <= written.keys()
    assert result.metrics == {name: written[name] for name in result.metrics}
    assert result.summary.startswith("top1 ")
    assert "low" not in result.summary
    timings = pq.read_table(folder / "timings.parquet")
    assert timings.column_names == ["id", "decode_seconds", "inference_seconds"]
    assert min(timings["inference_seconds"].to_pylist()) > 0


def test_mlflow_has_the_intervals(trained: tuple[Recipe, Workspace]) -> None:
    recipe, at = trained
    result = run_evaluate(recipe, at)
    run_id = json.loads((at.run("tiny", "evaluate") / "run.json").read_text())["run_id"]
    assert connect(at.tracking_uri).get_run(run_id).data.metrics == pytest.approx(result.metrics)


@pytest.mark.parametrize("readers", [2, 4])
def test_readers_do_not_change_the_files(trained: tuple[Recipe, Workspace], readers: int) -> None:
    recipe, at = trained
    run_evaluate(recipe, at)
    alone = reproducible(at.run("tiny", "evaluate"))
    at.run("tiny", "evaluate").rename(at.root / "alone")
    compute = recipe.compute.model_copy(update={"loader_workers": readers})
    run_evaluate(recipe.model_copy(update={"compute": compute}), at)
    assert reproducible(at.run("tiny", "evaluate")) == alone


MOMENTS = [3, 11]


@pytest.mark.parametrize(
    "moments",
    [MOMENTS, pytest.param(sorted(random.Random(4).sample(range(16), 5)), marks=pytest.mark.exhaustive)],
    ids=["two kills", "five kills"],
)
def test_a_killed_evaluation_continues_and_ends_with_the_same_bytes(
    trained: tuple[Recipe, Workspace], tiny_recipe: Path, moments: list[int]
) -> None:
    recipe, at = trained
    run_evaluate(recipe, at)
    undisturbed = reproducible(at.run("tiny", "evaluate"))
    at.run("tiny", "evaluate").rename(at.root / "undisturbed")
    partial = at.run("tiny", ".evaluate.partial")
    for moment in moments:
        command = [sys.executable, "-c", KILLED, str(tiny_recipe), str(at.root), str(moment)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
        assert len([*partial.glob("shards/[0-9]*.parquet")]) == moment
    run_evaluate(recipe, at)
    folder = at.run("tiny", "evaluate")
    assert reproducible(folder) == undisturbed
    assert {path.name for path in folder.iterdir()} == {path.name for path in (at.root / "undisturbed").iterdir()}
    assert read_result(folder).stage == "evaluate"
