"""The directory for data, runs, models and logs. Recipes share data sets by name; models belong to one recipe."""

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
        """Folder of a generated source; other sources are read where they are."""
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
        """Folder of records that an MLflow server has not accepted yet."""
        return self.below("unsent")

    def below(self, folder: str, *names: str) -> Path:
        """Return the path of `names` in `folder`. Raises InputError if it is outside, also through a symbolic link."""
        top = self.root / folder
        path = top.joinpath(*names)
        if not path.resolve().is_relative_to(self.root.resolve() / folder):
            name = "/".join((folder, *names))
            where = f"{self.root}, {name!r} is {path.resolve()}"
            raise InputError("a path leaves the workspace", where, "use names without '..', and no symbolic links")
        return path
