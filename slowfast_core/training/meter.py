"""What the log says of training: means over the steps since the last line, over all workers."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from slowfast_core.training.collective import Together
from slowfast_core.training.step import Outcome


class Meter:
    def __init__(self, together: Together, device: torch.device) -> None:
        self.together, self.device = together, device
        self.tells_use = _tells_use(device)
        self.losses = torch.zeros(2, dtype=torch.float64, device=device)  # loss, right
        self._restart()

    def add(self, outcome: Outcome, clips: int) -> None:
        """Count a part of a step without waiting for the device."""
        self.losses += torch.stack([outcome.loss.detach().double(), outcome.right.double()])
        self.decisions += outcome.decisions
        self.clips += clips

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data."""
        started = time.monotonic()
        yield
        self.waited += time.monotonic() - started

    def read(self) -> dict[str, float]:
        """The means, and a fresh start; every worker must call it at the same step."""
        losses = self.losses.cpu()  # waits for the device
        seconds = time.monotonic() - self.started
        use = torch.cuda.utilization(self.device) if self.tells_use else 0
        counts = torch.tensor([self.decisions, self.clips, self.waited / seconds, use], dtype=torch.float64)
        loss, right, decisions, clips, waited, use = self.together.sums(torch.cat([losses, counts])).tolist()
        memory = int(self.together.largest(torch.tensor([_peak_memory(self.device)])))
        self._restart()
        told = {"gpu_use": round(use / self.together.workers / 100, 3)} if self.tells_use else {}
        return {
            "loss": loss / max(decisions, 1),
            "accuracy": right / max(decisions, 1),
            "clips_per_second": round(clips / seconds, 1),
            "data_wait": round(waited / self.together.workers, 3),
            "memory_mb": memory // 2**20,
            **told,
        }

    def _restart(self) -> None:
        self.losses.zero_()
        self.decisions = self.clips = 0
        self.waited, self.started = 0.0, time.monotonic()


def _peak_memory(device: torch.device) -> int:
    """Bytes, on the worker's GPU, or of its process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _tells_use(device: torch.device) -> bool:
    """Whether the driver tells in what share of the last moments the GPU computed; that of a slice (MIG) does not."""
    if device.type != "cuda" or find_spec("pynvml") is None:
        return False
    import pynvml

    try:
        torch.cuda.utilization(device)
    except (pynvml.NVMLError, RuntimeError):
        return False
    return True
