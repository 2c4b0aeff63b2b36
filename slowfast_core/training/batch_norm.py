"""Whose statistics batch norm takes in training: groups of clips, all workers' clips, or none.

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


class GroupedBatchNorm(nn.BatchNorm3d):
    """Batch norm with statistics within each `clips` clips (paper, section 4), whatever the batch.

    The running statistics move once a step, by `momentum`, to the mean over all groups of that step: `begin_step` says
    that one begins. `average_running_statistics` makes those of several workers the mean over the groups of all.
    """

    clips: int = 0  # 0: all clips of the input
    groups_of_step: int = 1
    seen: int = 0

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps_BCTHW)
        if not self.clips or len(maps_BCTHW) <= self.clips:
            return self._normal(maps_BCTHW)
        return torch.cat([self._normal(group) for group in torch.split(maps_BCTHW, self.clips)])

    def _normal(self, group_BCTHW: Tensor) -> Tensor:
        # By these weights each group of the step counts momentum / groups in the end.
        momentum = self.momentum or 0.0
        share = momentum / self.groups_of_step
        self.seen += 1
        weight = share / (1 - momentum + self.seen * share)
        return functional.batch_norm(
            group_BCTHW, self.running_mean, self.running_var, self.weight, self.bias, True, weight, self.eps
        )


def with_norm(network: nn.Module, train: Train, device: torch.device) -> nn.Module:
    """The network with the batch norms that the recipe asks for; names of weights stay. Raises InputError."""
    if train.batch_norm == "sync":
        if device.type != "cuda":
            raise InputError("synchronised batch norm needs GPUs", "train.batch_norm", "take 'groups' on CPUs")
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
    """But for batch norms that the recipe freezes."""
    network.train()
    if train.batch_norm == "frozen":
        for norm in _norms(network):
            norm.eval()


def begin_step(network: nn.Module, train: Train, parts: Sequence[int]) -> None:
    """Training mode; `parts` are the clips of this worker's parts of the step."""
    training_mode(network, train)
    grouped = [norm for norm in _norms(network) if isinstance(norm, GroupedBatchNorm) and norm.training]
    for norm in grouped:
        norm.groups_of_step = max(sum(-(-clips // (norm.clips or clips)) for clips in parts if clips), 1)
        norm.seen = 0
    if counts := [norm.num_batches_tracked for norm in grouped if norm.num_batches_tracked is not None]:
        torch._foreach_add_(counts, 1)  # at once: one by one, a GPU would be asked a hundred times


def average_running_statistics(network: nn.Module) -> None:
    """Over all workers, after each step: when a checkpoint is taken then makes no difference."""
    pairs = [(norm.running_mean, norm.running_var) for norm in _norms(network)]
    statistics = [statistic for pair in pairs for statistic in pair if statistic is not None]
    together = torch.cat(statistics)
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    torch._foreach_copy_(statistics, list(torch.split(together, [len(statistic) for statistic in statistics])))


def _norms(network: nn.Module) -> list[nn.BatchNorm3d | nn.SyncBatchNorm]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm3d | nn.SyncBatchNorm)]


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
