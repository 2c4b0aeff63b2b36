"""What a training worker is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slowfast_core.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """All that a training worker needs; paths are on storage that every worker sees."""

    recipe: Recipe
    data_version: str
    store: Path
    folder: Path  # checkpoints, log.jsonl and the final weights go here
    init_weights: Path | None

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"
