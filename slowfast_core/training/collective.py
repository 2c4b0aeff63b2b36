"""What the workers of a training do together, besides gradients: find each other, and decide after each step.

Decisions go over a group of their own on CPU, so that no GPU has to be waited for.
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

# For which a worker may be waited for: it may be waiting itself, for storage. One that died is noticed at once.
PATIENCE = datetime.timedelta(minutes=30)


class Wish(IntEnum):
    """What a worker wants after a step; the highest of all workers is what they do."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    FAIL = 3


class Together:
    """`folder` is seen by all workers."""

    def __init__(self, rank: int, workers: int, folder: Path, seconds: float) -> None:
        """Raises InputError, naming rank and host, when not all workers are there in time."""
        self.rank, self.workers, self.seconds = rank, workers, seconds
        if workers == 1:
            return
        hosts = folder / "hosts"
        hosts.mkdir(exist_ok=True)
        write_whole(hosts / str(rank), socket.gethostname())
        self.group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        try:
            distributed.monitored_barrier(self.group, datetime.timedelta(seconds=seconds), wait_all_ranks=True)
        except RuntimeError as error:
            raise InputError(_missing(hosts, str(error)), f"{seconds:g} s", "look at that host") from None

    def try_gradients(self, device: torch.device) -> None:
        """Sum a number over all workers, on the way that gradients take. Raises InputError when that takes too long."""
        if self.workers == 1:
            return
        number = torch.ones(1, device=device)
        sent, since = distributed.all_reduce(number, async_op=True), time.monotonic()
        while not sent.is_completed():
            if time.monotonic() - since > self.seconds:
                what = f"rank {self.rank} on {socket.gethostname()} cannot sum over all workers from {device}"
                raise InputError(what, f"{self.seconds:g} s", "look at the network between the hosts (NCCL_DEBUG=INFO)")
            time.sleep(0.01)

    def decide(self, wish: Wish) -> Wish:
        return Wish(int(self.largest(torch.tensor([int(wish)]))))

    def largest(self, values: Tensor) -> Tensor:
        """The highest of all workers, of each value of a tensor on CPU."""
        if self.workers > 1:
            distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self.group)
        return values

    def smallest(self, value: int) -> int:
        """The lowest of all workers."""
        return -int(self.largest(torch.tensor([-value])))

    def total(self, value: int) -> int:
        """The sum over all workers."""
        return int(self.sums(torch.tensor([value]))[0])

    def sums(self, values: Tensor) -> Tensor:
        """The sums over all workers, of a tensor on CPU."""
        if self.workers > 1:
            distributed.all_reduce(values, group=self.group)
        return values


def _missing(hosts: Path, error: str) -> str:
    """What the barrier says, with the hosts of the ranks that it names."""
    named = re.search(r"Ranks? ([\d, ]+) failed", error)
    if named is None:
        return f"workers did not answer: {' '.join(error.split())}"
    ranks = [int(rank) for rank in re.findall(r"\d+", named[1])]
    told = {path.name: path.read_text() for path in hosts.iterdir()}
    return "no answer from " + ", ".join(f"rank {rank} on {told.get(str(rank), 'an unknown host')}" for rank in ranks)
