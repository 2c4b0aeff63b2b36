"""Action detection head (paper, section 5): RoI features of the res5 maps, one sigmoid per class.

B clips, C channels, T frames, H height, W width, K boxes over all clips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slowfast_core.model.roi_align import roi_align
from slowfast_core.model.slowfast import OnePathway, SlowFast
from slowfast_core.recipe.schema import Model

STRIDE = 16  # input pixels per cell of the res5 map; res5 has stride 1 in detection


class Detector(nn.Module):
    """Mean or maximum over time, RoIAlign, spatial max, concatenation, dropout, fully connected: `[K, classes]`."""

    def __init__(self, trunk: SlowFast | OnePathway, model: Model) -> None:
        super().__init__()
        self.trunk = trunk
        self.temporal_max = model.head_temporal_pool == "max"
        self.roi_size = model.roi_size
        self.aligned = model.roi_aligned
        self.dropout = nn.Dropout(model.dropout)
        self.projection = nn.Linear(trunk.channels, model.classes)

    def forward(self, fast_BCTHW: Tensor, boxes_K5: Tensor) -> Tensor:
        """Logits of each box; a box is `[clip index, x1, y1, x2, y2]` in pixels of the clip."""
        pooled = []
        for x_BCTHW in self.trunk.features(fast_BCTHW):
            map_BCHW = x_BCTHW.amax(dim=2) if self.temporal_max else x_BCTHW.mean(dim=2)
            regions_KCSS = roi_align(map_BCHW, boxes_K5, self.roi_size, 1 / STRIDE, self.aligned)
            pooled.append(regions_KCSS.amax(dim=(2, 3)))
        logits: Tensor = self.projection(self.dropout(torch.cat(pooled, dim=1)))
        return logits
