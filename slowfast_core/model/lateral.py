"""Lateral connections, Fast to Slow (paper, section 3.4). B clips, C channels, T frames, H height, W width."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TConv(nn.Module):
    """Time-strided convolution: kernel {k x 1^2}, stride alpha, twice the Fast channels; concatenated to Slow."""

    def __init__(self, fast_channels: int, alpha: int, kernel: int) -> None:
        super().__init__()
        self.outputs = 2 * fast_channels
        self.conv = nn.Conv3d(
            fast_channels, self.outputs, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0), bias=False
        )
        self.bn = nn.BatchNorm3d(self.outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> Tensor:
        return torch.cat([slow_BCTHW, self.relu(self.bn(self.conv(fast_BCTHW)))], dim=1)
