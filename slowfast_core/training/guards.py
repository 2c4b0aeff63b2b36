"""A training whose loss is no number any more ends at once, and keeps the batch for a look at it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from slowfast_core.data.loading.dataset import Sample
from slowfast_core.errors import InputError
from slowfast_core.files import whole_file, write_whole
from slowfast_core.training.collective import Together

Parts = Sequence[Sequence[Sample]]


class Divergence:
    """Looks at a loss one step later, so that the device is not waited for; at the newest only when asked to."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.watched: list[tuple[int, torch.Tensor, Parts]] = []
        self.told = ""

    def watch(self, step: int, loss: torch.Tensor, parts: Parts) -> None:
        self.watched.append((step, loss, parts))

    def seen(self, newest: bool) -> bool:
        """Whether a loss is not finite; its batch is then in the folder."""
        looked_at = self.watched if newest else self.watched[:-1]
        self.watched = self.watched[len(looked_at) :]
        for step, loss, parts in looked_at:
            if not math.isfinite(float(loss)):
                self._keep(step, float(loss), [sample for part in parts for sample in part])
                return True
        return False

    def check(self) -> None:
        """Raises InputError where the loss was this worker's; the others end without a word."""
        if self.told:
            mend = "look at the batch that is kept there; lower train.learning_rate, or warm up longer"
            raise InputError(self.told, self.folder, mend)

    def _keep(self, step: int, loss: float, samples: list[Sample]) -> None:
        self.folder.mkdir(exist_ok=True)
        self.told = f"the loss is {loss} at step {step + 1} (worker {self.rank})"
        frames = {f"{i:03d}": sample.frames for i, sample in enumerate(samples)}
        with whole_file(self.folder / f"frames-{self.rank}.pt") as temporary:
            torch.save(frames, temporary)
        rows = [{"row": sample.index, "label": sample.label, "view": str(sample.view)} for sample in samples]
        write_whole(self.folder / f"batch-{self.rank}.json", json.dumps({"said": self.told, "samples": rows}, indent=1))


class BadClips:
    def __init__(self, rows: int, max_share: float, together: Together) -> None:
        self.limit = max_share * rows
        self.together = together
        self.marks = torch.zeros(rows, dtype=torch.uint8)  # 1 of each bad row met here
        self.known: list[int] = []  # rows, over all workers

    def add(self, rows: Sequence[int]) -> None:
        if rows:
            self.marks[list(rows)] = 1

    def gather(self) -> list[int]:
        """Rows that no worker knew before; every worker must call it at the same step."""
        found = set(self.together.largest(self.marks).nonzero().flatten().tolist()) - set(self.known)
        self.known += sorted(found)
        return sorted(found)

    @property
    def too_many(self) -> bool:
        return len(self.known) > self.limit
