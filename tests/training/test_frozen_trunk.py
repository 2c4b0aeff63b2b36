"""`train.frozen_trunk`: only the classifier learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slowfast_core.model.build import build_model
from slowfast_core.model.weights import load_weights
from slowfast_core.recipe.load import load_recipe
from slowfast_core.training.job import Job
from slowfast_core.training.loop import train_worker
from slowfast_core.workspace import Workspace


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_the_classifier_learns(
    optimizer: str, tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    changes = ["train.epochs=1", "train.frozen_trunk=true", "train.batch_norm=frozen", f"train.optimizer={optimizer}"]
    recipe = load_recipe(str(tiny_recipe), [*changes, "compute.workers=1"])
    store = tiny_workspace(tmp_path / "data").data("motion", "extract") / "store"
    job = Job(recipe, "", store, tmp_path / "train", None)
    job.folder.mkdir()
    job.prepare()
    threads = torch.get_num_threads()
    train_worker(job, 0, 1, torch.device("cpu"), lambda epoch: None, lambda measured: None)
    torch.set_num_threads(threads)
    job.check()
    torch.manual_seed(recipe.seed)
    start = build_model(recipe.model, recipe.clip).state_dict()
    found = load_weights(job.folder / "model.safetensors")
    changed = {name for name in start if not torch.equal(start[name], found[name])}
    assert changed == {"projection.weight", "projection.bias"}
