"""The number of workers does not change what is learnt: a step is the same clips in the same groups of 8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trainings import Training, lines_of

from slowfast_core.workspace import Workspace

STEPS = 20
LAYOUTS = [(1, 4), (2, 2), (4, 1)]  # workers, parts: 32 clips a step in parts of 8


@pytest.mark.parametrize(
    "layouts", [LAYOUTS[:2], pytest.param(LAYOUTS, marks=pytest.mark.exhaustive)], ids=["1 and 2", "1, 2 and 4"]
)
def test_losses_of_some_workers_agree(
    layouts: list[tuple[int, int]], tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    trainings = []
    for workers, parts in layouts:
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
    assert [len(each) for each in losses] == [STEPS] * len(layouts)
    assert losses[0][-1] < losses[0][0]
    for others in losses[1:]:
        assert others == pytest.approx(losses[0], abs=1e-5)
