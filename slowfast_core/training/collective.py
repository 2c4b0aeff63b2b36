"""Collective operations of the training workers besides gradients: rendezvous, sums, and a decision after each step.

They use a separate process group on CPU (gloo), so that they do not wait for GPU work.
"""

from __future__ import annotations

import datetime
import re
import socket
import time
from enum import IntEnum
from pathlib import Path

import torch
from torch import Tensor, distributed

from slowfast_core.errors import InputError
from slowfast_core.files import write_whole

# Longest wait for a worker, which may itself be waiting for storage. A worker that died is noticed at once.
PATIENCE = datetime.timedelta(minutes=30)


class Action(IntEnum):
    """What a worker proposes after a step; all workers take the highest action that any of them proposes."""

    CONTINUE = 0
    SAVE = 1
    STOP = 2
    FAIL = 3


class Collective:
    """Collective operations of one worker with all others."""

    def __init__(self, rank: int, workers: int, folder: Path, seconds: float) -> None:
        """Wait up to `seconds` for all workers. Raises InputError that names rank and host of those that are missing.

        `folder` must be on storage that all workers see.
        """
        self.rank = rank
        self.workers = workers
        self.seconds = seconds
        if workers == 1:
            return
        hosts = folder / "hosts"
        hosts.mkdir(exist_ok=True)
        write_whole(hosts / str(rank), socket.gethostname())
        self.group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        try:
            distributed.monitored_barrier(self.group, datetime.timedelta(seconds=seconds), wait_all_ranks=True)
        except RuntimeError as error:
            raise InputError(_missing(hosts, str(error)), f"{seconds:g} s", "check that host") from None

    def check_all_reduce(self, device: torch.device) -> None:
        """Sum a number over all workers in the way gradients are summed. Raises InputError after `seconds`."""
        if self.workers == 1:
            return
        number = torch.ones(1, device=device)
        started = time.monotonic()
        reduction = distributed.all_reduce(number, async_op=True)
        while not reduction.is_completed():
            if time.monotonic() - started > self.seconds:
                what = f"rank {self.rank} on {socket.gethostname()} cannot sum over all workers from {device}"
                fix = "check the network between the hosts (NCCL_DEBUG=INFO)"
                raise InputError(what, f"{self.seconds:g} s", fix)
            time.sleep(0.01)

    def decide(self, action: Action) -> Action:
        """The highest action that any worker proposes."""
        return Action(int(self.largest(torch.tensor([int(action)]))))

    def largest(self, values: Tensor) -> Tensor:
        """Elementwise maximum over all workers of a tensor on CPU."""
        if self.workers > 1:
            distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self.group)
        return values

    def smallest(self, value: int) -> int:
        """The smallest value of any worker."""
        return -int(self.largest(torch.tensor([-value])))

    def total(self, value: int) -> int:
        """The sum of a value over all workers."""
        return int(self.sums(torch.tensor([value]))[0])

    def sums(self, values: Tensor) -> Tensor:
        """Elementwise sum over all workers of a tensor on CPU."""
        if self.workers > 1:
            distributed.all_reduce(values, group=self.group)
        return values


def _missing(hosts: Path, error: str) -> str:
    """The error of the barrier, with the hosts of the ranks that it names."""
    named = re.search(r"Ranks? ([\d, ]+) failed", error)
    if named is None:
        return f"workers did not answer: {' '.join(error.split())}"
    ranks = [int(rank) for rank in re.findall(r"\d+", named[1])]
    host_of = {path.name: path.read_text() for path in hosts.iterdir()}
    return "no answer from " + ", ".join(
        f"rank {rank} on {host_of.get(str(rank), 'an unknown host')}" for rank in ranks
    )
