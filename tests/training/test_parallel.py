"""The number of workers does not change the training: a step uses the same clips in the same groups of 8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trainings import Training, lines_of

from slowfast_core.workspace import Workspace

STEPS = 20
LAYOUTS = [(1, 4), (2, 2), (4, 1)]  # (workers, parts): 32 clips per step in parts of 8


@pytest.mark.exhaustive
def test_losses_of_1_2_and_4_workers_agree(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    trainings = []
    for workers, parts in LAYOUTS:
        settings = (
            "train.batch=32",
            f"train.epochs={STEPS}",
            f"train.accumulate={parts}",
            f"compute.workers={workers}",
        )
        trainings.append(Training(tiny_recipe, tiny_workspace(tmp_path / str(workers)), settings))
        trainings[-1].start()
    try:
        for training in trainings:
            training.finish()
    finally:
        for training in trainings:
            training.kill()
    losses = [[line["loss"] for line in lines_of(t.folder / "log.jsonl") if "loss" in line] for t in trainings]
    assert [len(each) for each in losses] == [STEPS] * len(LAYOUTS)
    assert losses[0][-1] < losses[0][0]
    for others in losses[1:]:
        assert others == pytest.approx(losses[0], abs=1e-5)
