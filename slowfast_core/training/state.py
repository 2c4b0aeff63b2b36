"""The state of a training: network, optimizer, step and best score; created from scratch or from a checkpoint."""

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
    """Everything that a checkpoint saves. Random states are not saved: they are functions of (seed, step, rank)."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # enabled for fp16 only
    step: int = 0
    best: tuple[int, float] | None = None  # step and score on the held-out split
    notes: list[str] = field(default_factory=list)  # for the log: how the training started

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
    """The state at the newest complete checkpoint, or of a new training. Raises InputError for bad start weights.

    `smallest` returns the minimum over all workers, because storage may show the newest checkpoint to only some of
    them.
    """
    recipe = job.recipe
    torch.manual_seed(recipe.seed)
    network: nn.Module = build_model(recipe.model, recipe.clip)
    notes = []
    if job.init_weights:
        report = start_from(network, load_weights(job.init_weights, job.init_digest), job.init_classifier)
        notes.append(f"start weights: {report}")
    network = with_norm(network.to(device), recipe.train, device)
    if recipe.train.frozen_trunk:
        network.get_submodule("trunk").requires_grad_(requires_grad=False)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.compute.precision == "fp16")
    state = State(network, make_optimizer(network, recipe.train), scaler, notes=notes)
    path, skipped = newest_checkpoint(job.checkpoints)
    state.notes += [f"checkpoint {incomplete.name} is incomplete and was skipped" for incomplete in skipped]
    own = step_of(path) if path else 0
    if (step := smallest(own)) < own:
        state.notes.append(f"the checkpoint of step {own} is not visible to every worker and was skipped")
        path = checkpoint_of(job.checkpoints, step) if step else None
    if path is not None:
        saved = load_checkpoint(path)
        network.load_state_dict(saved["model"])
        state.optimizer.load_state_dict(saved["optimizer"])
        scaler.load_state_dict(saved["scaler"])
        state.step = int(saved["step"])
        state.best = saved["best"] and tuple(saved["best"])
        state.notes.append(f"resumed from checkpoint {path.name}")
    return state
