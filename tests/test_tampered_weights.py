"""Weights changed after training are refused everywhere, with a message that names the file and both digests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast_core.errors import InputError
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import load_weights, save_weights, weights_digest
from slowfast_core.once import read_result, run_once
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.serving.predict import predict
from slowfast_core.stages.flow import run_evaluate, run_register, run_train
from slowfast_core.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from slowfast_core.training.job import Job
from slowfast_core.training.state import begin
from slowfast_core.workspace import Workspace


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return load_recipe(str(tiny_recipe), ["compute.workers=1"])


@pytest.fixture
def at(tiny_workspace: Callable[[Path], Workspace], tmp_path: Path) -> Workspace:
    return tiny_workspace(tmp_path / "workspace")


@pytest.fixture
def trained(recipe: Recipe, at: Workspace) -> Path:
    """The output folder of a training, with random weights."""

    def work(partial: Path) -> Mapping[str, Any]:
        torch.manual_seed(0)
        weights = build_model(recipe.model, recipe.clip).state_dict()
        save_weights(partial / "model.safetensors", weights)
        labels = [str(number) for number in range(8)]
        record = {**json.loads(recipe.to_json()), "labels": labels, "weights_digest": weights_digest(weights)}
        (partial / "checkpoint.json").write_text(json.dumps(record))
        digest = weights_digest(weights)
        return {"digest": digest, "weights_digest": digest, "data_version": "d"}

    run_once("train", at.run(recipe.name, "train"), {}, work)
    return at.run(recipe.name, "train")


def evaluated(recipe: Recipe, at: Workspace, trained: Path) -> None:
    """Write the output folder of an evaluation of the unchanged weights."""

    def work(partial: Path) -> Mapping[str, Any]:
        (partial / "run.json").write_text(json.dumps({"run_id": "0" * 32}))
        (partial / "metrics.json").write_text(json.dumps({"top1": 0.5}))
        return {"weights_digest": read_result(trained).weights_digest, "metrics": {"top1": 0.5}}

    run_once("evaluate", at.run(recipe.name, "evaluate"), {}, work)


def tamper(path: Path) -> tuple[str, str]:
    """Change the bias of the first class; returns the digests before and after."""
    weights = load_weights(path)
    before = weights_digest(weights)
    weights["projection.bias"][0] += 5
    save_weights(path, weights)
    return before, weights_digest(weights)


def test_every_stage_and_prediction_refuse_changed_weights(recipe: Recipe, at: Workspace, trained: Path) -> None:
    evaluated(recipe, at, trained)
    recorded, changed = tamper(trained / "model.safetensors")
    video = next((at.data("motion", "extract") / "store" / "clips").rglob("*.mp4"))
    other = recipe.model_copy(update={"name": "other"})
    tuned = other.model_copy(update={"train": recipe.train.model_copy(update={"init_from": str(trained)})})
    views = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"clips": 1})})
    loads: dict[str, Callable[[], object]] = {
        "evaluate": lambda: run_evaluate(views, at),
        "register": lambda: run_register(recipe, at),
        "predict": lambda: predict([video], str(trained), at),
        "train": lambda: run_train(tuned, at),
    }
    for stage, load in loads.items():
        with pytest.raises(InputError) as refused:
            load()
        line = str(refused.value)
        expected = f"the weights were changed: digest {changed}, recorded {recorded} ({trained}/model.safetensors)"
        assert line.startswith(expected), (stage, line)
        assert "; restore the file from a copy" in line
        assert "\n" not in line
    assert not at.run("other", "train").exists()
    assert not at.run(recipe.name, "register").exists()


def test_a_digest_changed_with_the_weights_is_refused(recipe: Recipe, at: Workspace, trained: Path) -> None:
    recorded, changed = tamper(trained / "model.safetensors")
    config = trained / "checkpoint.json"
    config.write_text(config.read_text().replace(recorded, changed))
    with pytest.raises(InputError, match=f"the weights have digest {changed} here, but {recorded} in stage.json"):
        run_evaluate(recipe, at)
    record = json.loads(config.read_text())
    del record["weights_digest"]
    config.write_text(json.dumps(record))
    with pytest.raises(InputError, match="the digest of the weights is missing"):
        run_evaluate(recipe, at)


def test_a_worker_verifies_its_copy_of_the_start_weights(recipe: Recipe, at: Workspace, trained: Path) -> None:
    start = trained / "model.safetensors"
    recorded, _ = tamper(start)
    job = Job(recipe, "d", at.data("motion", "extract") / "store", trained, start, True, recorded)
    with pytest.raises(InputError, match="the weights were changed"):
        begin(job, torch.device("cpu"), lambda step: step)


def test_a_damaged_checkpoint_is_skipped_and_not_loaded(tmp_path: Path) -> None:
    whole = save_checkpoint(tmp_path, {"step": 1, "model": torch.zeros(8)}, 3)
    damaged = save_checkpoint(tmp_path, {"step": 2, "model": torch.zeros(8)}, 3)
    state = damaged / "state.pt"
    state.write_bytes(state.read_bytes().replace(b"\0" * 32, b"\1" * 32))
    assert newest_checkpoint(tmp_path) == (whole, [damaged])
    assert load_checkpoint(whole)["step"] == 1
    with pytest.raises(OSError, match="the checkpoint is damaged"):
        load_checkpoint(damaged)
