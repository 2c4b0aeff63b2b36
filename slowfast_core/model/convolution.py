"""Convolution over space and time that trains faster on CPU. B clips, C channels, T frames, H height, W width.

For a temporal kernel, oneDNN's weights' gradient in 3-D costs two to five times the convolution itself; that of a
strided {1 x 1^2}, four times. Seen as pictures, one temporal tap after the other, it costs as much as the convolution.
In channels-last memory the frames of a clip are a batch of pictures as they lie: nothing is copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

Shape = tuple[int, ...]
FEW = 8  # input channels; with fewer, oneDNN's weight gradient in bf16 has NaN where the CPU has AVX-512 but no bf16


class Conv(nn.Conv3d):
    """nn.Conv3d without bias, groups or temporal dilation, its gradients equal but for rounding."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled("cpu")
        if not x_BCTHW.is_cpu or not torch.is_grad_enabled() or (autocast and self.in_channels >= FEW):
            return super().forward(x_BCTHW)
        weight = self.weight
        if autocast:
            to = torch.get_autocast_dtype("cpu")
            x_BCTHW, weight = x_BCTHW.to(to), weight.to(to)
        geometry = self.stride, self.padding, self.dilation
        y_BCTHW: Tensor = _ByPictures.apply(x_BCTHW, weight, *geometry)  # type: ignore[no-untyped-call]
        return y_BCTHW


class _ByPictures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCTHW: Tensor, weight: Tensor, stride: Shape, padding: Shape, dilation: Shape) -> Tensor:
        ctx.save_for_backward(x_BCTHW, weight)
        ctx.geometry = stride, padding, dilation
        return functional.conv3d(x_BCTHW, weight, None, stride, padding, dilation)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient_BCTHW: Tensor) -> tuple[Tensor | None, ...]:
        tensors = gradient_BCTHW, *ctx.saved_tensors
        of_x_BCTHW = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x_BCTHW, _ = _gradients(*tensors, *ctx.geometry, of_x=True)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(*tensors, *ctx.geometry)
        return of_x_BCTHW, of_weight, None, None, None


def _weight_gradient(
    gradient_BCTHW: Tensor, x_BCTHW: Tensor, weight: Tensor, stride: Shape, padding: Shape, dilation: Shape
) -> Tensor:
    of_weight = torch.empty_like(weight)
    space = stride[1:], padding[1:], dilation[1:]
    if weight.shape[3:] == (1, 1):  # oneDNN's own way with the stride writes out of bounds for 2 to 7 input channels
        x_BCTHW, space = x_BCTHW[..., :: stride[1], :: stride[2]], ((1, 1), (0, 0), (1, 1))
    gradient_BTCHW, x_BTCHW = gradient_BCTHW.transpose(1, 2), x_BCTHW.transpose(1, 2)
    if weight.shape[2] == 1 and stride[0] == 1:  # all clips at once
        gradient_BTCHW, x_BTCHW = gradient_BTCHW.flatten(0, 1)[None], x_BTCHW.flatten(0, 1)[None]
    for tap in range(weight.shape[2]):
        outputs, inputs = _frames(tap - padding[0], stride[0], gradient_BTCHW.shape[1], x_BTCHW.shape[1])
        of_tap = [
            _gradients(gradient_TCHW, x_TCHW, weight[:, :, tap], *space, of_x=False)[1]
            for gradient_TCHW, x_TCHW in zip(gradient_BTCHW[:, outputs], x_BTCHW[:, inputs], strict=True)
        ]
        of_weight[:, :, tap] = sum(of_tap[1:], start=of_tap[0])
    return of_weight


def _frames(shift: int, stride: int, outputs: int, inputs: int) -> tuple[slice, slice]:
    """The output frames t whose input frame `stride t + shift` is in the clip, and those input frames."""
    first = max(0, -(shift // stride))
    count = max(0, min(outputs, (inputs - 1 - shift) // stride + 1) - first)
    start = first * stride + shift
    return slice(first, first + count), slice(start, start + count * stride, stride)


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Shape, padding: Shape, dilation: Shape, *, of_x: bool
) -> tuple[Tensor, Tensor]:
    """Of the input, or of the weights; the other is not computed."""
    wanted, unused = (of_x, not of_x, False), [0] * len(stride)
    of_input, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, unused, 1, wanted
    )
    return of_input, of_weight
