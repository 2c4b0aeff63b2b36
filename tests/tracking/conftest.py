"""Small stand-ins for finished training and evaluation stages, tracked in a real store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from slowfast_core.recipe import Recipe, parse_recipe
from slowfast_core.stage import StageResult
from slowfast_core.tracking.registry import register
from slowfast_core.tracking.runs import connect, open_run
from slowfast_core.workspace import Workspace

DATA_VERSION = "0123456789abcdef0123456789abcdef.dir"


@dataclass
class Flow:
    """Trains, evaluates and registers in no time."""

    root: Path
    at: Workspace
    uri: str | None = None
    recipe: Recipe = field(init=False)

    def __post_init__(self) -> None:
        register, tracking = {"model": "slowfast-tiny"}, {"uri": self.uri}
        tree = {"name": "tiny", "data": {"name": "motion"}, "register": register, "tracking": tracking}
        self.recipe = parse_recipe(tree)

    def train(self, weights: str, **changes: Any) -> Path:
        folder = self.root / f"train-{weights}"
        folder.mkdir()
        with open_run(self.recipe.tracking, self.at, "train", weights) as run:
            run.log_metrics({"loss": 1.0}, step=0)
        save_file({"w": np.arange(3, dtype=np.float32)}, folder / "model.safetensors")
        record = {
            **json.loads(self.recipe.to_json()), "labels": ["left", "right"], "data_version": DATA_VERSION,
            "parent_checkpoint": None, "run_id": run.id, "weights_digest": weights,
        }  # fmt: skip
        record = {key: value for key, value in {**record, **changes}.items() if value != "absent"}
        (folder / "checkpoint.json").write_text(json.dumps(record))
        result = StageResult(stage="train", weights_digest=weights, data_version=record.get("data_version"))
        return finished(folder, result)

    def evaluate(self, weights: str, top1: float, data_version: str = DATA_VERSION, name: str = "evaluate") -> Path:
        folder = self.root / f"{name}-{weights}"
        folder.mkdir()
        with open_run(self.recipe.tracking, self.at, "evaluate", f"{name}-{weights}") as run:
            run.log_metrics({"top1": top1}, step=0)
        (folder / "run.json").write_text(json.dumps({"run_id": run.id}))
        metrics = {"top1": top1, "top5": 1.0}
        result = StageResult(stage="evaluate", weights_digest=weights, data_version=data_version, metrics=metrics)
        return finished(folder, result)

    def register(self, training: Path, evaluation: Path, recipe: Recipe | None = None) -> StageResult:
        return register(recipe or self.recipe, training, evaluation, self.root / "register", self.at)


def finished(folder: Path, result: StageResult) -> Path:
    (folder / "stage.json").write_text(json.dumps({"key": folder.name, **result.model_dump()}))
    return folder


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making one takes seconds, copying it none."""
    at = Workspace(tmp_path_factory.mktemp("database"))
    connect(at.tracking_uri).search_experiments()
    return at.root / "mlflow.db"


@pytest.fixture(scope="session")
def workspace(database: Path) -> Callable[[Path], Workspace]:
    """A workspace with a store, in this folder."""

    def make(root: Path) -> Workspace:
        root.mkdir(exist_ok=True)
        shutil.copy(database, root)
        return Workspace(root)

    return make


@pytest.fixture(scope="session")
def make_flow() -> type[Flow]:
    return Flow


@pytest.fixture
def flow(tmp_path: Path, workspace: Callable[[Path], Workspace]) -> Flow:
    return Flow(tmp_path, workspace(tmp_path / "workspace"))


@pytest.fixture
def registered(flow: Flow) -> Callable[[str, float], StageResult]:
    """Train, evaluate and register weights of this name with this top-1."""
    return lambda weights, top1: flow.register(flow.train(weights), flow.evaluate(weights, top1))
