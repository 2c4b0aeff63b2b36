"""Input of each pathway, computed from the clip on the device (paper, section 3 and Table 5c).

B clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from slowfast_core.recipe.schema import Clip, Model

CHANNELS = {"rgb": 3, "half": 3, "gray": 1, "difference": 1, "flow": 2}  # input channels of the Fast pathway
LUMA = {"rgb": (0.299, 0.587, 0.114), "bgr": (0.114, 0.587, 0.299)}  # ITU-R BT.601


def clip_channels(model: Model) -> int:
    """Input channels of the network: RGB, followed by optical flow (x, y) if the Fast pathway uses it."""
    return 5 if model.takes_flow else 3


class SlowFrames(nn.Module):
    """RGB of every alpha-th frame of the clip, or of T frames spread evenly from the first frame to the last."""

    def __init__(self, model: Model, clip: Clip) -> None:
        super().__init__()
        self.alpha = clip.alpha
        self.even = model.slow_frames == "linspace"

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        pictures_BCTHW = clip_BCTHW[:, :3]
        if not self.even:
            return pictures_BCTHW[:, :, :: self.alpha]
        fast = clip_BCTHW.shape[2]
        slow = max(fast // self.alpha, 1)
        return pictures_BCTHW[:, :, [i * (fast - 1) // max(slow - 1, 1) for i in range(slow)]]


class FastFrames(nn.Module):
    """All frames of the clip: RGB, RGB at half resolution, gray, difference of successive gray frames, or flow."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.kind = model.fast_input
        luma_1C111 = torch.tensor(LUMA[model.pixels.order]).reshape(1, 3, 1, 1, 1)
        self.register_buffer("luma_1C111", luma_1C111, persistent=False)
        self.luma_1C111: Tensor

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        if self.kind == "rgb":
            return clip_BCTHW
        if self.kind == "half":
            return functional.avg_pool3d(clip_BCTHW, (1, 2, 2))
        if self.kind == "flow":
            return clip_BCTHW[:, 3:]
        gray_BCTHW = (clip_BCTHW * self.luma_1C111).sum(1, keepdim=True)
        if self.kind == "gray":
            return gray_BCTHW
        previous_BCTHW = torch.cat([gray_BCTHW[:, :, :1], gray_BCTHW[:, :, :-1]], dim=2)
        return gray_BCTHW - previous_BCTHW
