"""Batch norm in training: statistics over groups of clips, over all workers, or frozen; and precise statistics.

`with_norm` replaces the batch norms of a network as the recipe asks (`train.batch_norm`); `begin_step` and
`average_running_statistics` surround each training step; `set_precise_statistics` sets the running statistics from a
pass over training batches.

B clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from slowfast_core.errors import InputError
from slowfast_core.recipe.schema import Train

Batch = TypeVar("Batch")


class GroupedBatchNorm(nn.BatchNorm3d):
    """Batch norm with statistics over groups of `clips` clips (paper, section 4), independent of the batch size.

    `begin_step` must be called before each training step: over a step, the running statistics move once, by `momentum`,
    towards the mean over all groups. With several workers, `average_running_statistics` makes that the mean over the
    groups of all workers.
    """

    clips: int = 0  # per group; 0: all clips of the input
    groups_of_step: int = 1
    seen: int = 0  # groups of this step that were normalised so far

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps_BCTHW)
        if not self.clips or len(maps_BCTHW) <= self.clips:
            return self._normalise(maps_BCTHW)
        return torch.cat([self._normalise(group) for group in torch.split(maps_BCTHW, self.clips)])

    def _normalise(self, group_BCTHW: Tensor) -> Tensor:
        # With these momenta, every group of the step ends up with the weight momentum / groups_of_step.
        momentum = self.momentum or 0.0
        share = momentum / self.groups_of_step
        self.seen += 1
        weight = share / (1 - momentum + self.seen * share)
        return functional.batch_norm(
            group_BCTHW, self.running_mean, self.running_var, self.weight, self.bias, True, weight, self.eps
        )


def with_norm(network: nn.Module, train: Train, device: torch.device) -> nn.Module:
    """Replace the batch norms of `network` as the recipe asks; names of weights do not change.

    Raises InputError for synchronised batch norm without GPUs.
    """
    if train.batch_norm == "sync":
        if device.type != "cuda":
            raise InputError("synchronised batch norm needs GPUs", "train.batch_norm", "use 'groups' on CPUs")
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synced
    if train.batch_norm == "groups":
        _group(network, train.norm_clips)
    return network


def _group(module: nn.Module, clips: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm3d):
            grouped = GroupedBatchNorm(child.num_features, child.eps, child.momentum or 0.0)
            grouped.load_state_dict(child.state_dict())
            grouped.clips = clips
            setattr(module, name, grouped.to(child.weight.device))
        else:
            _group(child, clips)


def training_mode(network: nn.Module, train: Train) -> None:
    """Set the network to training mode, except for batch norms that the recipe freezes."""
    network.train()
    if train.batch_norm == "frozen":
        for norm in _norms(network):
            norm.eval()


def begin_step(network: nn.Module, train: Train, parts: Sequence[int]) -> None:
    """Set training mode and start counting groups; `parts` are the numbers of clips in this worker's parts."""
    training_mode(network, train)
    grouped = [norm for norm in _norms(network) if isinstance(norm, GroupedBatchNorm) and norm.training]
    for norm in grouped:
        norm.groups_of_step = max(sum(-(-clips // (norm.clips or clips)) for clips in parts if clips), 1)
        norm.seen = 0
    if counts := [norm.num_batches_tracked for norm in grouped if norm.num_batches_tracked is not None]:
        torch._foreach_add_(counts, 1)  # one call instead of about a hundred GPU operations


def average_running_statistics(network: nn.Module) -> None:
    """Average the running statistics over all workers.

    Called after each step, so that the result does not depend on when checkpoints are saved.
    """
    pairs = [(norm.running_mean, norm.running_var) for norm in _norms(network)]
    statistics = [statistic for pair in pairs for statistic in pair if statistic is not None]
    joined = torch.cat(statistics)
    distributed.all_reduce(joined)
    joined /= distributed.get_world_size()
    torch._foreach_copy_(statistics, list(torch.split(joined, [len(statistic) for statistic in statistics])))


def _norms(network: nn.Module) -> list[nn.BatchNorm3d | nn.SyncBatchNorm]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm3d | nn.SyncBatchNorm)]


def set_precise_statistics(
    network: nn.Module,
    batches: Iterable[Batch],
    forward: Callable[[nn.Module, Batch], object],
    sums: Callable[[Tensor], Tensor] = lambda own: own,
) -> int:
    """Set every running mean and variance to the statistics of all values in `batches`; return the number of batches.

    All values have equal weight, over all batches and workers. `sums` adds a tensor over all workers; with several
    workers, each must call this function.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    totals = [torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms]
    hooks = [norm.register_forward_pre_hook(_adding_to(total)) for norm, total in zip(norms, totals, strict=True)]
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]  # type: ignore[union-attr, operator]
    was_training = network.training
    count = 0
    network.train()
    try:
        with torch.no_grad():
            for batch in batches:
                forward(network, batch)
                count += 1
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (mean, variance) in zip(norms, before, strict=True):
            norm.running_mean.copy_(mean)  # type: ignore[union-attr, operator]
            norm.running_var.copy_(variance)  # type: ignore[union-attr, operator]
        network.train(was_training)
    for norm, total in zip(norms, totals, strict=True):
        values, sum_C, squares_C = sums(total)
        if (values == 0).any():
            continue  # this batch norm is not used in the forward pass
        mean_C = sum_C / values
        variance_C = (squares_C / values - mean_C**2).clamp(min=0) * values / (values - 1)
        norm.running_mean.copy_(mean_C)  # type: ignore[union-attr, operator]
        norm.running_var.copy_(variance_C)  # type: ignore[union-attr, operator]
    return count


def _adding_to(total_3C: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A forward hook that adds the count, sum and sum of squares of each channel to `total_3C`."""

    def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maps_BCTHW = inputs[0].detach()
        other_axes = [axis for axis in range(maps_BCTHW.ndim) if axis != 1]
        count = maps_BCTHW.numel() // maps_BCTHW.shape[1]
        mean_C = maps_BCTHW.mean(other_axes, dtype=torch.float32)
        squares_C = (maps_BCTHW.float() ** 2).mean(other_axes)
        total_3C.add_(torch.stack([torch.full_like(mean_C, count), mean_C * count, squares_C * count]).double().cpu())

    return add
