"""A training that starts from a registered model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slowfast_core.errors import InputError
from slowfast_core.ray_jobs.stage_job import StageJob
from slowfast_core.recipe.load import load_recipe
from slowfast_core.stages.flow import run_train
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from flows import Flow


def test_a_training_starts_from_the_weights_of_a_version(
    make_flow: type[Flow], tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    """The fake weights have one tensor, so that the refusal shows which weights were loaded."""
    flow = make_flow(tmp_path, tiny_workspace(tmp_path / "workspace"))
    flow.register(flow.train("first"), flow.evaluate("first", 0.5))
    for model in ("models:/slowfast-tiny@champion", "models:/slowfast-tiny/1"):
        recipe = load_recipe(str(tiny_recipe), [f"train.init_from={model}"])
        with pytest.raises(InputError, match="another kind of network: 0 of 1 tensors match"):
            run_train(recipe, flow.at)


def test_the_version_is_searched_in_the_tracking_database_of_the_recipe(
    make_flow: type[Flow], tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    """Also by a job of a cluster, which gets the name of the version."""
    uri = f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"
    flow = make_flow(tmp_path, tiny_workspace(tmp_path / "workspace"), uri)
    flow.register(flow.train("first"), flow.evaluate("first", 0.5))
    model = "models:/slowfast-tiny@champion"
    recipe = load_recipe(str(tiny_recipe), [f"train.init_from={model}", f"tracking.uri={uri}"])
    with pytest.raises(InputError, match="another kind of network: 0 of 1 tensors match"):
        run_train(recipe, flow.at)
    assert not (flow.at.root / "mlflow.db").exists()
    job = StageJob.write("train", recipe, flow.at)
    assert json.loads((job.folder / "job.json").read_text())["recipe"]["train"]["init_from"] == model
