"""Clips of the store that do not decode (any more): counted over all workers, told once each, bounded in number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed


class BadClips:
    def __init__(self, rows: int, max_share: float, workers: int, device: torch.device) -> None:
        self.limit = max_share * rows
        self.workers = workers
        self.marks = torch.zeros(rows, dtype=torch.uint8, device=device)  # 1 of each bad row met here
        self.known: list[int] = []  # rows, over all workers

    def add(self, rows: Sequence[int]) -> None:
        if rows:
            self.marks[list(rows)] = 1

    def gather(self) -> list[int]:
        """Rows that no worker knew before; every worker must call it at the same step."""
        if self.workers > 1:
            distributed.all_reduce(self.marks, distributed.ReduceOp.MAX)
        found = set(self.marks.nonzero().flatten().tolist()) - set(self.known)
        self.known += sorted(found)
        return sorted(found)

    @property
    def too_many(self) -> bool:
        return len(self.known) > self.limit
