"""Fake results of training and evaluation, tracked in a real MLflow database."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from slowfast_core.model.weights import weights_digest
from slowfast_core.once import StageResult
from slowfast_core.recipe.load import Recipe, parse_recipe
from slowfast_core.stages.register import register
from slowfast_core.tracking.runs import open_run, points_of
from slowfast_core.workspace import Workspace

DATA_VERSION = "0123456789abcdef0123456789abcdef.dir"


@dataclass
class Flow:
    """Writes results of training and evaluation without computing them, and registers them with the real stage."""

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
            run.log_points(points_of({"loss": 1.0}, 0))
        save_file({"w": values(weights)}, folder / "model.safetensors")
        record = {
            **json.loads(self.recipe.to_json()), "labels": ["left", "right"], "data_version": DATA_VERSION,
            "parent_checkpoint": None, "run_id": run.id, "weights_digest": digest_of(weights),
        }  # fmt: skip
        record = {key: value for key, value in {**record, **changes}.items() if value != "absent"}
        (folder / "checkpoint.json").write_text(json.dumps(record))
        result = StageResult(stage="train", weights_digest=digest_of(weights), data_version=record.get("data_version"))
        return finished(folder, result)

    def evaluate(
        self, weights: str, top1: float, data_version: str = DATA_VERSION, name: str = "evaluate", samples: int = 100
    ) -> Path:
        """Chance is 0.125, as for eight equally frequent classes; the lower bound of top1 is 0.8 of it."""
        folder = self.root / f"{name}-{weights}"
        folder.mkdir()
        with open_run(self.recipe.tracking, self.at, "evaluate", f"{name}-{weights}") as run:
            run.log_points(points_of({"top1": top1}, 0))
        (folder / "run.json").write_text(json.dumps({"run_id": run.id}))
        metrics = {"top1": top1, "top5": 1.0}
        measured = {**metrics, "samples": samples, "lower_bound": 0.8 * top1, "chance": 0.125}
        (folder / "metrics.json").write_text(json.dumps(measured))
        digest = digest_of(weights)
        result = StageResult(stage="evaluate", weights_digest=digest, data_version=data_version, metrics=metrics)
        return finished(folder, result)

    def register(
        self, training: Path, evaluation: Path, recipe: Recipe | None = None, folder: str = "register"
    ) -> StageResult:
        return register(recipe or self.recipe, training, evaluation, self.root / folder, self.at)


def values(weights: str) -> NDArray[np.float32]:
    return np.frombuffer(weights.encode(), dtype=np.uint8).astype(np.float32)


def digest_of(weights: str) -> str:
    return weights_digest({"w": torch.from_numpy(values(weights))})


def finished(folder: Path, result: StageResult) -> Path:
    result = result.model_copy(update={"versions": {result.stage: 1}})
    (folder / "stage.json").write_text(json.dumps({"key": folder.name, **result.model_dump()}))
    return folder
