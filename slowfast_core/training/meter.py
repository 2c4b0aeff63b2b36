"""Metrics of a log line: means over all workers and over the steps since the previous line."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from slowfast_core.training.collective import Collective
from slowfast_core.training.step import Outcome


class Meter:
    """Accumulates loss, accuracy, throughput, waiting time, GPU utilization and memory between log lines."""

    def __init__(self, collective: Collective, device: torch.device) -> None:
        self.collective = collective
        self.device = device
        self.has_utilization = _has_utilization(device)
        self.losses = torch.zeros(2, dtype=torch.float64, device=device)  # loss, right
        self._restart()

    def add(self, outcome: Outcome, clips: int) -> None:
        """Add the outcome of a part of a step, without waiting for the device."""
        self.losses += torch.stack([outcome.loss.detach().double(), outcome.right.double()])
        self.decisions += outcome.decisions
        self.clips += clips

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context in which the worker waits for data."""
        started = time.monotonic()
        yield
        self.waited += time.monotonic() - started

    def read(self) -> dict[str, float]:
        """Return the means and start again; every worker must call it at the same step."""
        losses = self.losses.cpu()  # waits for the device
        seconds = time.monotonic() - self.started
        use = torch.cuda.utilization(self.device) if self.has_utilization else 0
        counts = torch.tensor([self.decisions, self.clips, self.waited / seconds, use], dtype=torch.float64)
        loss, right, decisions, clips, waited, use = self.collective.sums(torch.cat([losses, counts])).tolist()
        memory = int(self.collective.largest(torch.tensor([_peak_memory(self.device)])))
        self._restart()
        gpu_use = {"gpu_use": round(use / self.collective.workers / 100, 3)} if self.has_utilization else {}
        return {
            "loss": loss / max(decisions, 1),
            "accuracy": right / max(decisions, 1),
            "clips_per_second": round(clips / seconds, 1),
            "data_wait": round(waited / self.collective.workers, 3),
            "memory_mb": memory // 2**20,
            **gpu_use,
        }

    def _restart(self) -> None:
        self.losses.zero_()
        self.decisions = self.clips = 0
        self.waited = 0.0
        self.started = time.monotonic()


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes, on the worker's GPU or, on CPU, of its process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _has_utilization(device: torch.device) -> bool:
    """Whether the driver reports the utilization of the GPU; for a MIG slice it does not."""
    if device.type != "cuda" or find_spec("pynvml") is None:
        return False
    import pynvml

    try:
        torch.cuda.utilization(device)
    except (pynvml.NVMLError, RuntimeError):
        return False
    return True
