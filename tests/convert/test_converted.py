"""A converted checkpoint is used like one of our own: to predict, to evaluate and to start a training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peers import pyslowfast_state, random_network

from slowfast_core.convert.convert import convert
from slowfast_core.model.weights import load_weights
from slowfast_core.once import read_result
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.serving.predict import predict
from slowfast_core.stages.flow import run_evaluate
from slowfast_core.workspace import Workspace

LINSPACE = "model.slow_frames=linspace"


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return load_recipe(str(tiny_recipe), [LINSPACE])


@pytest.fixture
def source(recipe: Recipe, tmp_path: Path) -> Path:
    network = random_network(recipe.model, recipe.clip)
    torch.save({"model_state": pyslowfast_state(network.state_dict())}, tmp_path / "peer.pyth")
    return tmp_path / "peer.pyth"


def test_a_converted_checkpoint_predicts_and_is_evaluated(
    recipe: Recipe, source: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    at = tiny_workspace(tmp_path / "w")
    checkpoint = at.run(recipe.name, "train")
    result, _ = convert("pyslowfast", source, checkpoint, recipe)
    video = next((at.data("motion", "extract") / "store" / "clips").glob("*.mp4"))
    (scored,) = predict([video], str(checkpoint), at)
    assert len(scored["top"]) == 5
    evaluated = run_evaluate(recipe, at)
    assert evaluated.weights_digest == result.weights_digest
    assert evaluated.metrics


@pytest.mark.exhaustive
def test_a_training_starts_from_a_converted_checkpoint(
    recipe: Recipe, source: Path, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    at = tiny_workspace(tmp_path / "w")
    result, _ = convert("pyslowfast", source, tmp_path / "out", recipe)
    changes = (LINSPACE, "train.epochs=1", "compute.workers=1", f"train.init_from={tmp_path / 'out'}")
    command = [str(Path(sys.executable).with_name("slowfast")), "train", str(tiny_recipe), "--workspace", str(at.root)]
    command += [argument for change in changes for argument in ("--set", change)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"start weights: {len(load_weights(tmp_path / 'out' / 'model.safetensors')) - 2} tensors loaded" in done.stdout
    )
    record = json.loads((at.run(recipe.name, "train") / "checkpoint.json").read_text())
    assert record["parent_checkpoint"] == result.weights_digest == read_result(tmp_path / "out").weights_digest
