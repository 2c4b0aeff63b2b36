"""The directory for data, runs, models and logs. Recipes share a data set by its name; models belong to a recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from slowfast_core.errors import InputError


@dataclass(frozen=True)
class Workspace:
    root: Path

    @classmethod
    def at(cls, path: str | Path | None = None) -> Workspace:
        return cls(Path(path or os.environ.get("SLOWFAST_WORKSPACE") or "workspace").resolve())

    def source(self, data: str) -> Path:
        """Generated sources; real ones stay where they are."""
        return self.below("sources", data)

    def data(self, data: str, stage: str) -> Path:
        return self.below("data", data, stage)

    def run(self, recipe: str, stage: str) -> Path:
        return self.below("runs", recipe, stage)

    @property
    def dvc_remote(self) -> Path:
        return self.below("dvc-remote")

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.below('mlflow.db')}"

    @property
    def artifacts(self) -> Path:
        return self.below("mlartifacts")

    @property
    def unsent(self) -> Path:
        """What an MLflow server did not take yet."""
        return self.below("unsent")

    def below(self, folder: str, *names: str) -> Path:
        """The path of `names` in `folder`. Raises InputError when that is outside, also through a symbolic link."""
        top = self.root / folder
        path = top.joinpath(*names)
        if not path.resolve().is_relative_to(self.root.resolve() / folder):
            name = "/".join((folder, *names))
            where = f"{self.root}, {name!r} is {path.resolve()}"
            raise InputError("a path leaves the workspace", where, "use names without '..', and no symbolic links")
        return path
