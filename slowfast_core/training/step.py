"""The loss of a batch of samples, the optimizer, and the score of the held-out split.

B clips, C channels, T frames, H height, W width, K boxes over all clips, A classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from slowfast_core.data.loading.dataset import Batch, Sample
from slowfast_core.data.loading.render import render_batch
from slowfast_core.recipe.schema import Model, Precision, Train
from slowfast_core.training.collective import Collective

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """Sum of the losses over decisions (one per clip, or per pair of box and class), and the number of correct ones."""

    loss: Tensor
    right: Tensor
    decisions: int

    @property
    def mean(self) -> Tensor:
        return self.loss / max(self.decisions, 1)


def boxes_of(samples: Sequence[Sample], device: torch.device) -> Tensor:
    """Boxes of all samples `[K, 5]`: clip index in the batch, then the box in pixels of the view."""
    rows = [functional.pad(s.boxes_K4, (1, 0), value=float(b)) for b, s in enumerate(samples)]
    return torch.cat(rows).to(device)


def decisions_of(samples: Sequence[Sample], model: Model) -> int:
    """Number of decisions, which is the number of losses that the mean of a step is taken over."""
    if model.head == "classify" and not model.multi_label:
        return len(samples)
    return sum(s.targets_KA.numel() for s in samples)


def forward_loss(
    network: nn.Module,
    samples: Sequence[Sample],
    train: Train,
    model: Model,
    device: torch.device,
    precision: Precision = "fp32",
) -> Outcome:
    """Cross-entropy over classes; for multi-label clips and for boxes, sigmoid cross-entropy for each class."""
    clips_BCTHW = render_batch([s.frames for s in samples], [s.view for s in samples], model.pixels, device)
    if model.head == "classify" and not model.multi_label:
        labels_B = torch.tensor([s.label for s in samples], device=device)
        logits_BA = _logits(network, precision, clips_BCTHW)
        loss = functional.cross_entropy(logits_BA, labels_B, label_smoothing=train.label_smoothing, reduction="sum")
        return Outcome(loss, (logits_BA.argmax(1) == labels_B).sum(), len(samples))
    targets_KA = torch.cat([s.targets_KA for s in samples]).to(device)
    boxes = [boxes_of(samples, device)] if model.head == "detect" else []
    logits_KA = _logits(network, precision, clips_BCTHW, *boxes)
    loss = functional.binary_cross_entropy_with_logits(logits_KA, targets_KA, reduction="sum")
    right = ((logits_KA > 0) == (targets_KA > 0.5)).sum()
    return Outcome(loss, right, targets_KA.numel())


def _logits(network: nn.Module, precision: Precision, clips_BCTHW: Tensor, *boxes_K5: Tensor) -> Tensor:
    """Run the network, and only the network, under autocast: weights, normalisation and loss stay fp32."""
    dtype = AUTOCAST.get(precision)
    with torch.autocast(clips_BCTHW.device.type, dtype) if dtype else nullcontext():
        logits_KA: Tensor = network(clips_BCTHW, *boxes_K5)
    return logits_KA.float()


def make_optimizer(network: nn.Module, train: Train) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; by default the weights and biases of batch norm have no weight decay."""
    norm_types = (nn.BatchNorm3d, nn.SyncBatchNorm)
    norms = [p for m in network.modules() if isinstance(m, norm_types) for p in m.parameters(recurse=False)]
    norm_ids = {id(p) for p in norms}
    biases = [p for name, p in network.named_parameters() if name.endswith("bias") and id(p) not in norm_ids]
    undecayed = (norms if not train.decay_norm else []) + (biases if not train.decay_bias else [])
    undecayed_ids = {id(p) for p in undecayed}
    decayed = [p for p in network.parameters() if id(p) not in undecayed_ids]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type == "cuda" for p in network.parameters())
    rate = train.learning_rate
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=fused)
    return torch.optim.SGD(groups, lr=rate, momentum=train.momentum, nesterov=train.nesterov, fused=fused)


def clip_gradient(network: nn.Module, train: Train) -> None:
    """Limit the norm of the whole gradient, or each of its values, to `clip_gradient`."""
    clip = nn.utils.clip_grad_norm_ if train.clip_gradient_by == "norm" else nn.utils.clip_grad_value_
    clip(network.parameters(), train.clip_gradient)


def score_held_out(
    network: nn.Module,
    samples: Sequence[Callable[[], list[Sample] | int]],
    batch: int,
    forward: Callable[[nn.Module, list[Sample]], Outcome],
    collective: Collective,
) -> dict[str, float]:
    """Mean loss and accuracy over the samples of all workers; samples are loaded batch by batch."""
    sums = torch.zeros(3, dtype=torch.float64)
    was_training = network.training
    network.eval()
    with torch.no_grad():
        for first in range(0, len(samples), batch):
            loaded = Batch.of([load() for load in samples[first : first + batch]]).samples
            if not loaded:
                continue  # no clip of the batch can be decoded; evaluation will report it
            outcome = forward(network, loaded)
            sums += torch.tensor([float(outcome.loss), float(outcome.right), outcome.decisions], dtype=torch.float64)
    network.train(was_training)
    loss, right, decisions = collective.sums(sums).tolist()
    return {"val_loss": loss / max(decisions, 1), "val_accuracy": right / max(decisions, 1)}
