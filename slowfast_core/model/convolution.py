"""3-D convolution with a faster backward pass on CPU. B clips, C channels, T frames, H height, W width.

For a temporal kernel, oneDNN's 3-D weight gradient costs two to five times as much as the forward convolution, and for
a strided {1 x 1^2} kernel four times. Computed as 2-D convolutions over frames, one temporal tap at a time, it costs as
much as the forward convolution. In channels-last memory the frames of a clip already form a batch of images, so nothing
is copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

Shape = tuple[int, ...]
# With fewer input channels, oneDNN's bf16 weight gradient contains NaN on CPUs that have AVX-512 but no bf16.
MIN_BF16_CHANNELS = 8


class Conv(nn.Conv3d):
    """nn.Conv3d without bias, groups or temporal dilation; gradients equal those of nn.Conv3d up to rounding."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled("cpu")
        if not x_BCTHW.is_cpu or not torch.is_grad_enabled() or (autocast and self._one_dnn_is_right(x_BCTHW)):
            return super().forward(x_BCTHW)
        weight = self.weight
        if autocast:
            dtype = torch.get_autocast_dtype("cpu")
            x_BCTHW = x_BCTHW.to(dtype)
            weight = weight.to(dtype)
        geometry = self.stride, self.padding, self.dilation
        y_BCTHW: Tensor = _FramewiseGradient.apply(x_BCTHW, weight, *geometry)  # type: ignore[no-untyped-call]
        return y_BCTHW

    def _one_dnn_is_right(self, x_BCTHW: Tensor) -> bool:
        """Whether oneDNN's bf16 weight gradient is right for this input.

        For a clip with fewer frames than the kernel it contains uninitialized memory on CPUs that have AVX-512.
        """
        return self.in_channels >= MIN_BF16_CHANNELS and x_BCTHW.shape[2] >= self.kernel_size[0]


class _FramewiseGradient(torch.autograd.Function):
    """Convolution whose weight gradient is computed over single frames, as 2-D convolutions."""

    @staticmethod
    def forward(ctx: Any, x_BCTHW: Tensor, weight: Tensor, stride: Shape, padding: Shape, dilation: Shape) -> Tensor:
        ctx.save_for_backward(x_BCTHW, weight)
        ctx.geometry = stride, padding, dilation
        return functional.conv3d(x_BCTHW, weight, None, stride, padding, dilation)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient_BCTHW: Tensor) -> tuple[Tensor | None, ...]:
        tensors = gradient_BCTHW, *ctx.saved_tensors
        input_gradient_BCTHW = weight_gradient = None
        if ctx.needs_input_grad[0]:
            input_gradient_BCTHW, _ = _gradients(*tensors, *ctx.geometry, of_input=True)
        if ctx.needs_input_grad[1]:
            weight_gradient = _weight_gradient(*tensors, *ctx.geometry)
        return input_gradient_BCTHW, weight_gradient, None, None, None


def _weight_gradient(
    gradient_BCTHW: Tensor, x_BCTHW: Tensor, weight: Tensor, stride: Shape, padding: Shape, dilation: Shape
) -> Tensor:
    weight_gradient = torch.empty_like(weight)
    space = stride[1:], padding[1:], dilation[1:]
    if weight.shape[3:] == (1, 1):
        # With the stride left to oneDNN, its weight gradient writes out of bounds for 2 to 7 input channels.
        x_BCTHW = x_BCTHW[..., :: stride[1], :: stride[2]]
        space = (1, 1), (0, 0), (1, 1)
    gradient_BTCHW = gradient_BCTHW.transpose(1, 2)
    x_BTCHW = x_BCTHW.transpose(1, 2)
    if weight.shape[2] == 1 and stride[0] == 1:  # all clips at once
        gradient_BTCHW = gradient_BTCHW.flatten(0, 1)[None]
        x_BTCHW = x_BTCHW.flatten(0, 1)[None]
    for tap in range(weight.shape[2]):
        outputs, inputs = _frames(tap - padding[0], stride[0], gradient_BTCHW.shape[1], x_BTCHW.shape[1])
        per_clip = [
            _gradients(gradient_TCHW, x_TCHW, weight[:, :, tap], *space, of_input=False)[1]
            for gradient_TCHW, x_TCHW in zip(gradient_BTCHW[:, outputs], x_BTCHW[:, inputs], strict=True)
        ]
        weight_gradient[:, :, tap] = sum(per_clip[1:], start=per_clip[0])
    return weight_gradient


def _frames(shift: int, stride: int, outputs: int, inputs: int) -> tuple[slice, slice]:
    """Slices of the output frames t for which input frame `stride t + shift` exists, and of those input frames."""
    first = max(0, -(shift // stride))
    count = max(0, min(outputs, (inputs - 1 - shift) // stride + 1) - first)
    start = first * stride + shift
    return slice(first, first + count), slice(start, start + count * stride, stride)


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Shape, padding: Shape, dilation: Shape, *, of_input: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the weights, of which only one is computed: `of_input` selects it."""
    output_mask = of_input, not of_input, False
    output_padding = [0] * len(stride)
    input_gradient, weight_gradient, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, output_padding, 1, output_mask
    )
    return input_gradient, weight_gradient
