"""Precise batch norm: statistics of the weights as they are, not of those that they were on the way.

B clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

Batch = TypeVar("Batch")


def take_statistics(
    network: nn.Module,
    batches: Iterable[Batch],
    forward: Callable[[nn.Module, Batch], object],
    sums: Callable[[torch.Tensor], torch.Tensor] = lambda own: own,
) -> int:
    """Set every batch norm's running mean and variance to those of the population of `batches`; return their number.

    All values count alike, over all batches and, by `sums`, over all workers, each of whom must call it.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    totals = [torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms]
    hooks = [norm.register_forward_pre_hook(_adding_to(total)) for norm, total in zip(norms, totals, strict=True)]
    was_training, count = network.training, 0
    kept = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]  # type: ignore[union-attr, operator]
    network.train()
    try:
        with torch.no_grad():
            for batch in batches:
                forward(network, batch)
                count += 1
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (mean, variance) in zip(norms, kept, strict=True):
            norm.running_mean.copy_(mean)  # type: ignore[union-attr, operator]
            norm.running_var.copy_(variance)  # type: ignore[union-attr, operator]
        network.train(was_training)
    for norm, total in zip(norms, totals, strict=True):
        values, sum_C, squares_C = sums(total)
        if (values == 0).any():
            continue  # not part of the forward pass
        mean_C = sum_C / values
        variance_C = (squares_C / values - mean_C**2).clamp(min=0) * values / (values - 1)
        norm.running_mean.copy_(mean_C)  # type: ignore[union-attr, operator]
        norm.running_var.copy_(variance_C)  # type: ignore[union-attr, operator]
    return count


def _adding_to(total_3C: torch.Tensor) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def add(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        maps_BCTHW = inputs[0].detach()
        others = [axis for axis in range(maps_BCTHW.ndim) if axis != 1]
        each = maps_BCTHW.numel() // maps_BCTHW.shape[1]
        mean_C = maps_BCTHW.mean(others, dtype=torch.float32)
        squares_C = (maps_BCTHW.float() ** 2).mean(others)
        total_3C.add_(torch.stack([torch.full_like(mean_C, each), mean_C * each, squares_C * each]).double().cpu())

    return add
