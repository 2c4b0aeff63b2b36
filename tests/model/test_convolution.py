"""Gradients of the framewise convolution equal those of PyTorch. B clips, C channels, T frames, H height, W width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slowfast_core.model.blocks import conv
from slowfast_core.model.build import build_model
from slowfast_core.model.convolution import Conv
from slowfast_core.model.lateral import TConv
from slowfast_core.recipe.load import Clip, Model

LAST = torch.channels_last_3d
CONVOLUTIONS: dict[str, tuple[Conv, int]] = {  # with the number of frames of a clip
    "Fast stem": (conv(3, 8, 5, 7, stride=2), 8),
    "Slow stem": (conv(3, 16, 1, 7, stride=2), 4),
    "temporal": (conv(32, 8, 3, 1), 4),
    "temporal kernel longer than the clip": (conv(16, 8, 3, 1), 1),
    "basic block": (conv(8, 16, 3, 3, stride=2), 4),
    "strided": (conv(16, 32, 1, 1, stride=2), 4),
    "strided, of few channels": (conv(2, 8, 1, 1, stride=2), 4),
    "dilated": (conv(16, 16, 1, 3, dilation=2), 4),
    "lateral": (TConv(8, alpha=8, kernel=5).conv, 32),
    "lateral with a remainder": (TConv(8, alpha=4, kernel=7).conv, 10),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("memory", [torch.contiguous_format, LAST], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_output_and_gradients_equal_pytorch(name: str, memory: torch.memory_format, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    convolution, frames = CONVOLUTIONS[name]
    convolution = convolution.to(precision)
    x_BCTHW = torch.randn(3, convolution.in_channels, frames, 15, 17, dtype=precision)
    x_BCTHW = x_BCTHW.contiguous(memory_format=memory).requires_grad_()
    weight = convolution.weight

    def learned(y_BCTHW: Tensor) -> tuple[Tensor, ...]:
        weights_of_sum = torch.linspace(-1, 1, y_BCTHW.numel(), dtype=precision).reshape(y_BCTHW.shape)
        return y_BCTHW, *torch.autograd.grad((y_BCTHW * weights_of_sum).sum(), (x_BCTHW, weight))

    plain = learned(nn.Conv3d.forward(convolution, x_BCTHW))
    for ours, theirs in zip(learned(convolution(x_BCTHW)), plain, strict=True):
        bound = 1e-5 if precision == torch.float32 else 1e-13
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max()


def test_gradients_have_the_memory_layout_of_their_weights() -> None:
    """Otherwise the optimizer copies them and is many times slower."""
    network = build_model(Model(depth=50, width=8, beta=0.25, classes=5), Clip(T=2, tau=4, alpha=4))
    network.to(memory_format=LAST)  # type: ignore[call-overload]
    network(torch.randn(2, 3, 8, 64, 64).contiguous(memory_format=LAST)).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.stride() == weight.stride(), name


def test_a_frozen_weight_and_an_input_without_gradient() -> None:
    convolution = conv(4, 4, 3, 1)
    convolution.weight.requires_grad_(False)
    x_BCTHW = torch.randn(1, 4, 4, 5, 5, requires_grad=True)
    convolution(x_BCTHW).sum().backward()
    assert x_BCTHW.grad is not None
    assert convolution.weight.grad is None
    assert not convolution(x_BCTHW.detach()).requires_grad


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [(3, 1, 1), (3, 3, 3), (5, 7, 7)])
def test_bf16_gradients_of_a_clip_with_fewer_frames_than_the_kernel(kernel: tuple[int, int, int], frames: int) -> None:
    """Freed memory is filled with NaN beforehand: a kernel that reads uninitialized memory returns it."""
    torch.manual_seed(0)
    padding = tuple(size // 2 for size in kernel)
    convolution = Conv(16, 16, kernel, padding=padding, bias=False)
    x_BCTHW = torch.randn(2, 16, frames, 4, 4)
    convolution(x_BCTHW).sum().backward()
    exact = convolution.weight.grad
    for _ in range(20):
        convolution.weight.grad = None
        _fill_freed_memory_with_nan()
        with torch.autocast("cpu", torch.bfloat16):
            y_BCTHW = convolution(x_BCTHW)
        y_BCTHW.float().sum().backward()
        torch.testing.assert_close(convolution.weight.grad, exact, rtol=0.02, atol=0.3)


def _fill_freed_memory_with_nan() -> None:
    for size in (64, 256, 1024, 4096, 16384, 65536, 262144):
        for _ in range(3):
            torch.full((size,), float("nan"), dtype=torch.bfloat16)
