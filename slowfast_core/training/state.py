"""What changes in a training: the network, its optimizer, how far they came, and the best so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from slowfast_core.model.build import build_model
from slowfast_core.model.weights import load_weights, start_from
from slowfast_core.training.batch_norm import with_norm
from slowfast_core.training.checkpoint import checkpoint_of, load_checkpoint, newest_checkpoint, step_of
from slowfast_core.training.job import Job
from slowfast_core.training.step import make_optimizer


@dataclass
class State:
    """All that a checkpoint holds. Random states are functions of (seed, step, rank) and need no saving."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of fp16; the others need none, and it does nothing
    step: int = 0
    best: tuple[int, float] | None = None  # step, and what the held-out split gave
    notes: list[str] = field(default_factory=list)  # for the log, of how it began

    def record(self, job: Job) -> dict[str, Any]:
        return {
            "step": self.step,
            "best": self.best,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "recipe": job.recipe.to_json(),
            "data_version": job.data_version,
        }


def begin(job: Job, device: torch.device, smallest: Callable[[int], int]) -> State:
    """A training at its newest whole checkpoint, or at its beginning. Raises InputError.

    `smallest` is over all workers: storage may show the newest one to some of them only.
    """
    recipe = job.recipe
    torch.manual_seed(recipe.seed)
    network: nn.Module = build_model(recipe.model, recipe.clip)
    notes = []
    if job.init_weights:
        report = start_from(network, load_weights(job.init_weights, job.init_digest), job.init_classifier)
        notes.append(f"start weights: {report}")
    network = with_norm(network.to(device), recipe.train, device)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.compute.precision == "fp16")
    state = State(network, make_optimizer(network, recipe.train), scaler, notes=notes)
    path, torn = newest_checkpoint(job.checkpoints)
    state.notes += [f"checkpoint {broken.name} is torn and was passed over" for broken in torn]
    own = step_of(path) if path else 0
    if (step := smallest(own)) < own:
        state.notes.append(f"the checkpoint of step {own} is not seen by every worker and was passed over")
        path = checkpoint_of(job.checkpoints, step) if step else None
    if path is not None:
        saved = load_checkpoint(path)
        network.load_state_dict(saved["model"])
        state.optimizer.load_state_dict(saved["optimizer"])
        scaler.load_state_dict(saved["scaler"])
        state.step, state.best = int(saved["step"]), saved["best"] and tuple(saved["best"])
        state.notes.append(f"resumed from checkpoint {path.name}")
    return state
