"""Lateral connections, Fast to Slow (paper, section 3.4). B clips, C channels, T frames, H height, W width.

Each module takes Slow `[B, C, T, H, W]` and Fast `[B, beta C, alpha T, H, W]` features and returns the input of the
next Slow stage, which has `outputs` more channels than Slow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from slowfast_core.model.convolution import Conv
from slowfast_core.recipe.schema import Model


class TConv(nn.Module):
    """Time-strided convolution of Fast (kernel {k x 1^2}, stride alpha), concatenated with Slow."""

    def __init__(self, fast_channels: int, alpha: int, kernel: int, ratio: int = 2, norm: bool = True) -> None:
        super().__init__()
        self.outputs = ratio * fast_channels
        self.conv = Conv(fast_channels, self.outputs, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0), bias=False)
        self.bn = nn.BatchNorm3d(self.outputs) if norm else nn.Identity()
        self.relu = nn.ReLU(inplace=True) if norm else nn.Identity()

    def forward(self, slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> Tensor:
        return _concatenated(slow_BCTHW, self.relu(self.bn(self.conv(fast_BCTHW))))


class TSample(nn.Module):
    """Every alpha-th Fast frame, concatenated with Slow."""

    def __init__(self, fast_channels: int, alpha: int) -> None:
        super().__init__()
        self.outputs = fast_channels
        self.alpha = alpha

    def forward(self, slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> Tensor:
        return _concatenated(slow_BCTHW, fast_BCTHW[:, :, :: self.alpha])


class TimeToChannel(nn.Module):
    """alpha Fast frames packed into the channels of one frame; concatenated with Slow or, if alpha beta is 1, added."""

    def __init__(self, fast_channels: int, alpha: int, add: bool) -> None:
        super().__init__()
        self.outputs = 0 if add else alpha * fast_channels
        self.alpha = alpha
        self.add = add

    def forward(self, slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> Tensor:
        parts = [fast_BCTHW[:, :, frame :: self.alpha] for frame in range(self.alpha)]
        packed_BCTHW = torch.cat(parts, dim=1)
        return slow_BCTHW + packed_BCTHW if self.add else _concatenated(slow_BCTHW, packed_BCTHW)


class NoLateral(nn.Module):
    """No lateral connection: the pathways are joined only in the head."""

    outputs = 0

    def forward(self, slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> Tensor:
        return slow_BCTHW


Lateral = TConv | TSample | TimeToChannel | NoLateral


def make_lateral(model: Model, fast_channels: int, alpha: int) -> Lateral:
    if model.lateral == "t_conv":
        return TConv(fast_channels, alpha, model.lateral_kernel, model.lateral_ratio, model.lateral_norm)
    if model.lateral == "t_sample":
        return TSample(fast_channels, alpha)
    if model.lateral == "none":
        return NoLateral()
    return TimeToChannel(fast_channels, alpha, add=model.lateral == "ttoc_sum")


def _concatenated(slow_BCTHW: Tensor, joined_BCTHW: Tensor) -> Tensor:
    """Concatenate along channels; a Fast map of half the resolution is enlarged first (nearest neighbour)."""
    if joined_BCTHW.shape[3:] != slow_BCTHW.shape[3:]:
        joined_BCTHW = functional.interpolate(joined_BCTHW, slow_BCTHW.shape[2:])
    return torch.cat([slow_BCTHW, joined_BCTHW], dim=1)
