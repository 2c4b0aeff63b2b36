"""What the log says of training: means over the steps since the last line, over all workers."""

from __future__ import annotations

import time

import torch
from torch import distributed

from slowfast_core.training.step import Outcome


class Meter:
    def __init__(self, workers: int, device: torch.device) -> None:
        self.workers = workers
        self.totals = torch.zeros(5, dtype=torch.float64, device=device)  # loss, right, decisions, clips, steps
        self.started = time.monotonic()

    def add(self, outcome: Outcome, clips: int) -> None:
        """Count a step without waiting for the device."""
        counts = outcome.loss.new_tensor([outcome.decisions, clips, 1], dtype=torch.float64)
        self.totals += torch.cat([torch.stack([outcome.loss.detach(), outcome.right]).double(), counts])

    def read(self) -> dict[str, float]:
        """The means, and a fresh start; every worker must call it at the same step."""
        if self.workers > 1:
            distributed.all_reduce(self.totals)
        loss, right, decisions, clips, steps = self.totals.tolist()
        seconds = time.monotonic() - self.started
        self.totals.zero_()
        self.started = time.monotonic()
        return {
            "loss": loss / steps,
            "accuracy": right / max(decisions, 1),
            "clips_per_second": round(clips / seconds, 1),
        }
