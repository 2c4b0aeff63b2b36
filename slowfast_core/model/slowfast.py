"""The networks (paper, section 3 and Table 1): SlowFast, Slow-only and Fast-only.

B clips, C channels, T frames, H height, W width. The input is always the Fast pathway's clip, `[B, 3, alpha T, H, W]`;
a network takes its Slow frames from it. `features` gives each pathway's res5 map, the head turns them into logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slowfast_core.model.blocks import Pathway, stage_channels
from slowfast_core.model.lateral import TConv
from slowfast_core.recipe import Clip, Model

SLOW_TIMES = (1, 1, 1, 3, 3)  # temporal kernels of conv1, res2..res5
FAST_TIMES = (5, 3, 3, 3, 3)
NO_LATERAL = (0, 0, 0, 0)


class SlowFast(nn.Module):
    """Both pathways, with a T-conv lateral after pool1, res2, res3 and res4."""

    def __init__(self, model: Model, clip: Clip) -> None:
        super().__init__()
        self.alpha = clip.alpha
        fast_width = max(1, round(model.width * model.beta))
        dilated = model.head == "detect"
        laterals = [TConv(c, clip.alpha, model.lateral_kernel) for c in stage_channels(model.depth, fast_width)]
        joined = tuple(lateral.outputs for lateral in laterals)
        self.laterals = nn.ModuleList(laterals)
        self.slow = Pathway(model.depth, model.width, SLOW_TIMES, joined, dilated)
        self.fast = Pathway(model.depth, fast_width, FAST_TIMES, NO_LATERAL, dilated)
        self.channels = self.slow.channels + self.fast.channels

    def features(self, fast_BCTHW: Tensor) -> list[Tensor]:
        slow_BCTHW = self.slow.stem(fast_BCTHW[:, :, :: self.alpha])
        fast_BCTHW = self.fast.stem(fast_BCTHW)
        stages = zip(self.laterals, self.slow.stages, self.fast.stages, strict=True)
        for lateral, slow_stage, fast_stage in stages:
            slow_BCTHW = slow_stage(lateral(slow_BCTHW, fast_BCTHW))
            fast_BCTHW = fast_stage(fast_BCTHW)
        return [slow_BCTHW, fast_BCTHW]


class OnePathway(nn.Module):
    """Slow-only (every alpha-th frame of the clip) or Fast-only."""

    def __init__(self, model: Model, clip: Clip) -> None:
        super().__init__()
        slow = model.pathways == "slow"
        self.step = clip.alpha if slow else 1
        width = model.width if slow else max(1, round(model.width * model.beta))
        times = SLOW_TIMES if slow else FAST_TIMES
        self.pathway = Pathway(model.depth, width, times, NO_LATERAL, model.head == "detect")
        self.channels = self.pathway.channels

    def features(self, fast_BCTHW: Tensor) -> list[Tensor]:
        x_BCTHW = self.pathway.stem(fast_BCTHW[:, :, :: self.step])
        for stage in self.pathway.stages:
            x_BCTHW = stage(x_BCTHW)
        return [x_BCTHW]


class Classifier(nn.Module):
    """Global average pool of each pathway, concatenation, dropout, fully connected: logits `[B, classes]`."""

    def __init__(self, trunk: SlowFast | OnePathway, classes: int, dropout: float) -> None:
        super().__init__()
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(trunk.channels, classes)

    def forward(self, fast_BCTHW: Tensor) -> Tensor:
        pooled = [x_BCTHW.mean(dim=(2, 3, 4)) for x_BCTHW in self.trunk.features(fast_BCTHW)]
        logits: Tensor = self.projection(self.dropout(torch.cat(pooled, dim=1)))
        return logits
