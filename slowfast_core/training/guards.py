"""Guards that end a training early: `Divergence` on a loss that is not finite, `BadClips` on too many bad clips."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from slowfast_core.data.loading.dataset import Sample
from slowfast_core.errors import InputError
from slowfast_core.files import whole_file, write_whole
from slowfast_core.training.collective import Collective

Parts = Sequence[Sequence[Sample]]


class Divergence:
    """Detects a NaN or infinite loss and saves its batch to a folder.

    A loss is read one step later, so that the device is not waited for, unless the newest is asked for.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.rank = rank
        self.unchecked: list[tuple[int, torch.Tensor, Parts]] = []
        self.message = ""

    def watch(self, step: int, loss: torch.Tensor, parts: Parts) -> None:
        """Add the loss of a step, with its samples, to the losses to check."""
        self.unchecked.append((step, loss, parts))

    def detected(self, newest: bool) -> bool:
        """Whether a loss is not finite; the newest loss is checked only if asked for. Saves the batch of that loss."""
        checked = self.unchecked if newest else self.unchecked[:-1]
        self.unchecked = self.unchecked[len(checked) :]
        for step, loss, parts in checked:
            if not math.isfinite(float(loss)):
                self._save_batch(step, float(loss), [sample for part in parts for sample in part])
                return True
        return False

    def check(self) -> None:
        """Raises InputError if the loss of this worker diverged; the other workers end without a message."""
        if self.message:
            fix = "inspect the batch saved there; lower train.learning_rate, or use a longer warm-up"
            raise InputError(self.message, self.folder, fix)

    def _save_batch(self, step: int, loss: float, samples: list[Sample]) -> None:
        self.folder.mkdir(exist_ok=True)
        self.message = f"the loss is {loss} at step {step + 1} (worker {self.rank})"
        frames = {f"{i:03d}": sample.frames for i, sample in enumerate(samples)}
        with whole_file(self.folder / f"frames-{self.rank}.pt") as temporary:
            torch.save(frames, temporary)
        rows = [{"row": sample.index, "label": sample.label, "view": str(sample.view)} for sample in samples]
        record = {"message": self.message, "samples": rows}
        write_whole(self.folder / f"batch-{self.rank}.json", json.dumps(record, indent=1))


class BadClips:
    """Collects undecodable clips over all workers, returns each once, and limits their share of the training clips."""

    def __init__(self, rows: int, max_share: float, collective: Collective) -> None:
        self.limit = max_share * rows
        self.collective = collective
        self.marks = torch.zeros(rows, dtype=torch.uint8)  # 1 for each row that is bad
        self.known: list[int] = []  # bad rows that `gather` has returned, over all workers

    def add(self, rows: Sequence[int]) -> None:
        """Mark rows that this worker could not decode."""
        if rows:
            self.marks[list(rows)] = 1

    def gather(self) -> list[int]:
        """Bad rows of all workers that were not returned before; every worker must call it at the same step."""
        new = set(self.collective.largest(self.marks).nonzero().flatten().tolist()) - set(self.known)
        self.known += sorted(new)
        return sorted(new)

    @property
    def too_many(self) -> bool:
        return len(self.known) > self.limit
