"""Where a run keeps things. Data is shared by the recipes that name the same data set; models belong to a recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    root: Path

    @classmethod
    def at(cls, path: str | Path | None = None) -> Workspace:
        return cls(Path(path or os.environ.get("SLOWFAST_WORKSPACE") or "workspace").resolve())

    def source(self, data: str) -> Path:
        """Generated sources; real ones stay where they are."""
        return self.root / "sources" / data

    def data(self, data: str, stage: str) -> Path:
        return self.root / "data" / data / stage

    def run(self, recipe: str, stage: str) -> Path:
        return self.root / "runs" / recipe / stage

    @property
    def dvc_remote(self) -> Path:
        return self.root / "dvc-remote"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def unsent(self) -> Path:
        """What an MLflow server did not take yet."""
        return self.root / "unsent"
