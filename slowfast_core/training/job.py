"""What a training worker is told, and what it tells of an end that is none of its faults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.recipe.load import Recipe

LINE = 4096  # bytes that a refusal may have


class Stopped(Exception):
    """The training was told to end before its time, and saved; run again, it goes on."""


@dataclass(frozen=True)
class Job:
    """All that a training worker needs; paths are on storage that every worker sees."""

    recipe: Recipe
    data_version: str
    store: Path
    folder: Path  # checkpoints, log.jsonl and the final weights go here
    init_weights: Path | None
    init_classifier: bool = False  # they are for the same classes
    init_digest: str | None = None  # of these weights

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def stop(self) -> Path:
        """While it is there, workers save and end after the step they are in."""
        return self.folder / "stop"

    @property
    def refusal(self) -> Path:
        """Why a worker ended though no restart would help."""
        return self.folder / "refusal.txt"

    def prepare(self) -> None:
        """Forget how it ended before, and keep room for a refusal on a disk that may be full by then."""
        self.stop.unlink(missing_ok=True)
        write_whole(self.refusal, " " * LINE)

    def refuse(self, error: InputError) -> None:
        with self.refusal.open("r+b") as file:
            file.write(str(error).encode()[:LINE].ljust(LINE))  # another worker may have written a longer one

    @property
    def refused(self) -> str:
        """What a worker told by `refuse`."""
        return self.refusal.read_text(encoding="utf-8", errors="ignore").strip()

    def check(self) -> None:
        """Raises what a worker told."""
        if said := self.refused:
            raise InputError.from_line(said)
