"""Collective operations of workers in separate processes: decisions, and slow or missing workers."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from slowfast_core.errors import InputError
from slowfast_core.training.collective import Action, Collective

PREFLIGHT, LATE = 2.0, 4.0  # seconds


def _work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    collective = Collective(rank, 2, Path(folder), PREFLIGHT)
    collective.check_all_reduce(torch.device("cpu"))
    if rank == 1:
        time.sleep(LATE)  # longer than the preflight limit, for example because of slow storage
    action = collective.decide(Action.SAVE if rank else Action.CONTINUE)
    found = [action, collective.smallest(10 + 3 * rank), collective.total(rank + 1)]
    torch.save([int(value) for value in found], Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def _miss_the_all_reduce(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    collective = Collective(rank, 2, Path(folder), PREFLIGHT)
    if rank == 1:
        time.sleep(LATE)  # does not take part in the sum
        return
    try:
        collective.check_all_reduce(torch.device("cpu"))
    except InputError as error:
        (Path(folder) / "message").write_text(str(error))


def test_a_blocked_all_reduce_is_reported_with_rank_and_host(tmp_path: Path) -> None:
    multiprocessing.spawn(_miss_the_all_reduce, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    message = (tmp_path / "message").read_text()
    assert message.startswith(f"rank 0 on {socket.gethostname()} cannot sum over all workers from cpu (2 s); ")


def test_a_slow_worker_is_waited_for_after_the_preflight(tmp_path: Path) -> None:
    multiprocessing.spawn(_work, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == [Action.SAVE, 10, 3]
