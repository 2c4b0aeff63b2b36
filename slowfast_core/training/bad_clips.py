"""Clips of the store that do not decode (any more): counted over all workers, told once each, bounded in number."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from slowfast_core.training.collective import Together


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
