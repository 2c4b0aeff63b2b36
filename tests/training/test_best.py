"""`train.final: best`: the result is the checkpoint with the best score on the held-out split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nodes import free_port

from slowfast_core.errors import InputError
from slowfast_core.model.weights import load_weights, weights_digest
from slowfast_core.recipe.load import load_recipe
from slowfast_core.stages.train import train
from slowfast_core.training.checkpoint import load_checkpoint, save_checkpoint
from slowfast_core.training.job import Job
from slowfast_core.training.loop import train_worker
from slowfast_core.workspace import Workspace

BEST = ("train.final=best", "train.validate_every=1")


def finish(job: Job) -> None:
    """Train with one worker in this process, without Ray. Raises InputError."""
    threads = torch.get_num_threads()
    job.prepare()
    train_worker(job, 0, 1, torch.device("cpu"), lambda epoch: None, lambda measured: None)
    torch.set_num_threads(threads)
    job.check()


@pytest.fixture
def job(tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path) -> Job:
    """A training after two epochs of four steps, the first of which was best; only the final weights are missing."""
    recipe = load_recipe(str(tiny_recipe), ["train.epochs=2", "compute.workers=1", *BEST])
    store = tiny_workspace(tmp_path / "data").data("motion", "extract") / "store"
    job = Job(recipe, "", store, tmp_path / "train", None)
    job.folder.mkdir()
    finish(job)
    newest = load_checkpoint(job.checkpoints / "step-000000008")
    save_checkpoint(job.checkpoints, {**newest, "best": (4, 1.0)}, keep=2)
    (job.folder / "model.safetensors").unlink()
    return job


def test_the_best_weights_are_the_result(job: Job) -> None:
    finish(job)
    best = load_checkpoint(job.checkpoints / "step-000000004")["model"]
    assert weights_digest(load_weights(job.folder / "model.safetensors")) == weights_digest(best)


def test_a_damaged_best_checkpoint_is_refused(job: Job) -> None:
    state = job.checkpoints / "step-000000004" / "state.pt"
    original = state.read_bytes()
    damaged = bytearray(original)
    damaged[len(damaged) // 2] ^= 1
    state.write_bytes(damaged)
    with pytest.raises(
        InputError, match=r"the best checkpoint is damaged or lost \(.*/step-000000004\); restore a copy"
    ):
        finish(job)
    assert not (job.folder / "model.safetensors").exists()
    state.write_bytes(original)
    finish(job)
    assert (job.folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (BEST, "an unfinished train with other inputs exists: evaluate.size 32 -> 48"),
        (BEST[1:], "no Ray cluster"),  # the training would resume
    ],
)
def test_the_size_of_the_held_out_views_is_an_input_of_the_best_weights(
    tiny_recipe: Path,
    tiny_workspace: Callable[[Path], Workspace],
    tmp_path: Path,
    settings: tuple[str, ...],
    message: str,
) -> None:
    at = tiny_workspace(tmp_path / "data")
    nowhere = f"compute.address=127.0.0.1:{free_port()}"

    def refusal(*views: str) -> str:
        recipe = load_recipe(str(tiny_recipe), [nowhere, *settings, *views])
        with pytest.raises(InputError) as caught:
            train(recipe, at.data("motion", "extract"), at.run("tiny", "train"), at)
        return str(caught.value)

    assert "no Ray cluster" in refusal("evaluate.size=32")
    (at.run("tiny", ".train.partial") / "checkpoints" / "step-000000004").mkdir(parents=True)
    assert "no Ray cluster" in refusal("evaluate.size=32", "evaluate.clips=3")
    assert message in refusal("evaluate.size=48")
