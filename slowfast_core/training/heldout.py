"""How a training does on the held-out split: one centred view of each sample, on the way.

The protocol of the paper, with all its views, is that of the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from slowfast_core.data.loading.dataset import Batch, Sample
from slowfast_core.training.collective import Together
from slowfast_core.training.step import Outcome


def score_held_out(
    network: nn.Module,
    samples: Sequence[Callable[[], list[Sample] | int]],
    batch: int,
    forward: Callable[[nn.Module, list[Sample]], Outcome],
    together: Together,
) -> dict[str, float]:
    """Mean loss and accuracy over the samples of all workers, each loaded when its batch comes."""
    sums = torch.zeros(3, dtype=torch.float64)
    was_training = network.training
    network.eval()
    with torch.no_grad():
        for first in range(0, len(samples), batch):
            loaded = Batch.of([load() for load in samples[first : first + batch]]).samples
            if not loaded:
                continue  # none decodes; evaluation will say so
            outcome = forward(network, loaded)
            sums += torch.tensor([float(outcome.loss), float(outcome.right), outcome.decisions], dtype=torch.float64)
    network.train(was_training)
    loss, right, decisions = together.sums(sums).tolist()
    return {"val_loss": loss / max(decisions, 1), "val_accuracy": right / max(decisions, 1)}
