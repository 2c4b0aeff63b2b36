"""RoIAlign in plain PyTorch, so that detection needs no compiled extension.

N maps, C channels, H height, W width, K boxes, S bins per side. The mean over a bin's regular grid of bilinear samples
is separable, so each box takes two small matrix products: `rows_KSH @ map_KCHW @ columns_KWS`. Sample positions and
borders follow RoIAlign of Mask R-CNN with an adaptive number of samples, ceil(bin size).
"""

from __future__ import annotations

import torch
from torch import Tensor


def roi_align(maps_NCHW: Tensor, boxes_K5: Tensor, size: int, scale: float, aligned: bool = True) -> Tensor:
    """Pool the region of each box to `[K, C, size, size]`.

    Boxes are `[map index, x1, y1, x2, y2]` in input pixels; `scale` is the number of map cells per input pixel.
    """
    height, width = maps_NCHW.shape[-2:]
    x1, y1, x2, y2 = (boxes_K5[:, 1:] * scale - 0.5 * aligned).unbind(1)
    if not aligned:  # the older RoIAlign widens boxes to at least one cell
        x2 = torch.maximum(x2, x1 + 1)
        y2 = torch.maximum(y2, y1 + 1)
    rows_KSH = _bin_weights(y1, y2, size, height).to(maps_NCHW.dtype)
    columns_KSW = _bin_weights(x1, x2, size, width).to(maps_NCHW.dtype)
    maps_KCHW = maps_NCHW[boxes_K5[:, 0].long()]
    return torch.einsum("ksh,kchw,ktw->kcst", rows_KSH, maps_KCHW, columns_KSW)


def _bin_weights(low_K: Tensor, high_K: Tensor, size: int, cells: int) -> Tensor:
    """Weight of each map cell in each bin along one axis: `[K, size, cells]`."""
    if low_K.numel() == 0:
        return low_K.new_zeros(0, size, cells)
    bin_K = (high_K - low_K) / size
    samples_K = bin_K.ceil().clamp(min=0)  # an empty or inverted box has no samples, and features of 0
    most = max(int(samples_K.max()), 1)
    step = torch.arange(most, device=low_K.device, dtype=low_K.dtype)
    within_KP = (step + 0.5) / samples_K[:, None].clamp(min=1)
    bins_S = torch.arange(size, device=low_K.device, dtype=low_K.dtype)
    points_KSP = low_K[:, None, None] + (bins_S[None, :, None] + within_KP[:, None, :]) * bin_K[:, None, None]
    counted_KSP = (points_KSP >= -1) & (points_KSP <= cells) & (step < samples_K[:, None])[:, None, :]
    points_KSP = points_KSP.clamp(0, cells - 1)
    cell_W = torch.arange(cells, device=low_K.device, dtype=low_K.dtype)
    bilinear_KSPW = (1 - (points_KSP[..., None] - cell_W).abs()).clamp(min=0)
    summed_KSW = (bilinear_KSPW * counted_KSP[..., None]).sum(dim=2)
    return summed_KSW / samples_K[:, None, None].clamp(min=1)
