"""Workers that decide together, in processes of their own: slow ones are waited for, a checkpoint is everybody's."""

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
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    collective = Collective(rank, 2, Path(folder), PREFLIGHT)
    collective.check_all_reduce(torch.device("cpu"))
    if rank == 1:
        time.sleep(LATE)  # longer than the preflight lasts: its storage is slow, say
    action = collective.decide(Action.SAVE if rank else Action.CONTINUE)
    found = [action, collective.smallest(10 + 3 * rank), collective.total(rank + 1)]
    torch.save([int(value) for value in found], Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def _meet_and_stay_away(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    collective = Collective(rank, 2, Path(folder), PREFLIGHT)
    if rank == 1:
        time.sleep(LATE)  # the other is alone with its gradients
        return
    try:
        collective.check_all_reduce(torch.device("cpu"))
    except InputError as error:
        (Path(folder) / "said").write_text(str(error))


def test_a_way_of_gradients_that_is_shut_is_told_with_rank_and_host(tmp_path: Path) -> None:
    multiprocessing.spawn(_meet_and_stay_away, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    said = (tmp_path / "said").read_text()
    assert said.startswith(f"rank 0 on {socket.gethostname()} cannot sum over all workers from cpu (2 s); ")


def test_a_slow_worker_is_waited_for_after_the_preflight(tmp_path: Path) -> None:
    multiprocessing.spawn(_work, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == [Action.SAVE, 10, 3]
