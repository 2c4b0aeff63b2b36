"""The input of the training workers, and the files through which a training is stopped or reports an error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.recipe.load import Recipe

REFUSAL_BYTES = 4096  # longest message in `Job.refusal`


@dataclass(frozen=True)
class Job:
    """Everything a training worker needs; paths are on storage that every worker sees."""

    recipe: Recipe
    data_version: str
    store: Path
    folder: Path  # checkpoints, log.jsonl and the final weights go here
    init_weights: Path | None
    init_classifier: bool = False  # whether the start weights are for the same classes
    init_digest: str | None = None  # digest of the start weights

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def stop(self) -> Path:
        """While this file exists, the workers save a checkpoint and end after their current step."""
        return self.folder / "stop"

    @property
    def refusal(self) -> Path:
        """File with the error of a worker that no restart would fix."""
        return self.folder / "refusal.txt"

    def prepare(self) -> None:
        """Clear the stop and the error of an earlier attempt; reserve space for an error, as the disk may fill up."""
        self.stop.unlink(missing_ok=True)
        write_whole(self.refusal, " " * REFUSAL_BYTES)

    def refuse(self, error: InputError) -> None:
        """Record the error of a worker that no restart would fix."""
        with self.refusal.open("r+b") as file:
            # Padded, because another worker may have written a longer message.
            file.write(str(error).encode()[:REFUSAL_BYTES].ljust(REFUSAL_BYTES))

    @property
    def refused(self) -> str:
        """The message recorded by `refuse`, or an empty string."""
        return self.refusal.read_text(encoding="utf-8", errors="ignore").strip()

    def check(self) -> None:
        """Raises the InputError that a worker recorded, if any."""
        if message := self.refused:
            raise InputError.from_line(message)
