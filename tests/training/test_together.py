"""Workers that decide together, in processes of their own: slow ones are waited for, a checkpoint is everybody's."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from slowfast_core.training.together import Together, Wish

PREFLIGHT, LATE = 4.0, 7.0  # seconds


def _work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    together = Together(rank, 2, Path(folder), PREFLIGHT)
    if rank == 1:
        time.sleep(LATE)  # longer than the preflight lasts: its storage is slow, say
    wish = together.decide(Wish.SAVE if rank else Wish.GO_ON)
    found = [wish, together.smallest(10 + 3 * rank), together.total(rank + 1)]
    torch.save([int(value) for value in found], Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_a_slow_worker_is_waited_for_after_the_preflight(tmp_path: Path) -> None:
    multiprocessing.spawn(_work, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == [Wish.SAVE, 10, 3]
