"""Prepares a trained network for inference: folds batch norm into the convolutions, fuses ReLUs and sums with them.

B clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from slowfast_core.model.blocks import Basic, Bottleneck, Stem
from slowfast_core.model.lateral import TConv
from slowfast_core.model.nonlocal_block import NonLocalBlock
from slowfast_core.recipe.schema import Precision

if TYPE_CHECKING:
    from slowfast_core.model.detection import Detector
    from slowfast_core.model.slowfast import Classifier


class FoldedConv(nn.Module):
    """Convolution with folded batch norm, then an optional sum with a shortcut and a ReLU. It has no gradients.

    The sum overwrites `added`, so the input of a block must not be used after the block.

    On CPU this is a single call of oneDNN, as torch.compile emits it. PyTorch's `conv3d` is slower than oneDNN for
    small inputs (a batch of one in the Fast pathway), and each separate ReLU or sum is another pass over memory.
    """

    def __init__(self, conv: nn.Conv3d, bn: nn.Module, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        weight, bias = conv.weight, conv.bias
        if isinstance(bn, nn.BatchNorm3d):
            assert bn.running_mean is not None
            assert bn.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                weight, bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
        self.register_buffer("weight", weight.detach().contiguous(memory_format=torch.channels_last_3d))
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.weight: Tensor
        self.bias: Tensor | None

    def forward(self, x_BCTHW: Tensor, added_BCTHW: Tensor | None = None) -> Tensor:
        if x_BCTHW.is_cpu and has_one_dnn():
            return self._one_dnn(x_BCTHW, added_BCTHW)
        y_BCTHW = nn.functional.conv3d(x_BCTHW, self.weight, self.bias, self.stride, self.padding, self.dilation)
        if added_BCTHW is not None:
            y_BCTHW = y_BCTHW.add_(added_BCTHW)
        return y_BCTHW.relu_() if self.relu else y_BCTHW

    def _one_dnn(self, x_BCTHW: Tensor, added_BCTHW: Tensor | None) -> Tensor:
        """Convolve with oneDNN; the first call reorders the weights to oneDNN's layout for that input size."""
        geometry = (self.padding, self.stride, self.dilation, 1)
        if not self.weight.is_mkldnn:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *geometry, list(x_BCTHW.shape))
        settings = (self.weight, self.bias, *geometry)
        if added_BCTHW is None:
            activation = "relu" if self.relu else "none"
            y_BCTHW: Tensor = torch.ops.mkldnn._convolution_pointwise(x_BCTHW, *settings, activation, [], "")
            return y_BCTHW
        convolve_and_add = torch.ops.mkldnn._convolution_pointwise_.binary
        activation_or_none = "relu" if self.relu else None
        y_BCTHW = convolve_and_add(added_BCTHW, x_BCTHW, *settings, "add", 1.0, activation_or_none, [], "")
        return y_BCTHW


class FoldedBlock(nn.Module):
    """A residual block whose sum and last ReLU are fused with its last convolution."""

    def __init__(self, block: Basic | Bottleneck) -> None:
        super().__init__()
        self.convs = nn.Sequential(FoldedConv(block.a, block.a_bn, relu=True))
        if isinstance(block, Bottleneck):
            self.convs.append(FoldedConv(block.b, block.b_bn, relu=True))
        self.last = FoldedConv(block.c if isinstance(block, Bottleneck) else block.b, block.last_bn, relu=True)
        self.shortcut = block.shortcut
        if isinstance(block.shortcut, nn.Sequential):
            conv, bn = block.shortcut
            assert isinstance(conv, nn.Conv3d)
            self.shortcut = FoldedConv(conv, bn, relu=False)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        y_BCTHW: Tensor = self.last(self.convs(x_BCTHW), self.shortcut(x_BCTHW))
        return y_BCTHW


class FoldedTrunk(nn.Module):
    """A folded trunk that computes in `dtype` and returns fp32 features for the head."""

    def __init__(self, trunk: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.trunk = fold(trunk).to(dtype)
        self.dtype = dtype

    def features(self, clip_BCTHW: Tensor) -> list[Tensor]:
        inner: Any = self.trunk
        return [x_BCTHW.float() for x_BCTHW in inner.features(clip_BCTHW.to(self.dtype))]


def for_inference(network: Classifier | Detector, precision: Precision = "fp32") -> Classifier | Detector:
    """Fold the trunk of `network` in place, for inference only: it cannot be trained or saved afterwards.

    Move the network to its device first.
    """
    device = network.projection.weight.device
    network.add_module("trunk", FoldedTrunk(network.trunk, inference_dtype(precision, device)))
    return network.eval()


def inference_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """bf16 if it is requested and the device supports it: emulated bf16 is many times slower, and less exact."""
    if precision == "fp32":
        return torch.float32
    cuda = device.type == "cuda"
    supported = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else cpu_has_bf16()
    return torch.bfloat16 if supported else torch.float32


def has_one_dnn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def cpu_has_bf16() -> bool:
    return has_one_dnn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fold(module: nn.Module) -> nn.Module:
    """Fold every convolution in `module` and return the result; `module` itself must not be used afterwards."""
    if isinstance(module, Basic | Bottleneck):
        return FoldedBlock(module)
    if isinstance(module, Stem):
        conv, bn, _, pool = module
        assert isinstance(conv, nn.Conv3d)
        return nn.Sequential(FoldedConv(conv, bn, relu=True), pool)
    if isinstance(module, TConv):
        folded = FoldedConv(module.conv, module.bn, relu=isinstance(module.relu, nn.ReLU))
        module.add_module("conv", folded)
        module.bn, module.relu = nn.Identity(), nn.Identity()
        return module
    if isinstance(module, NonLocalBlock):
        module.add_module("out", FoldedConv(module.out, module.bn, relu=False))
        module.add_module("bn", nn.Identity())
        for name, conv in (("theta", module.theta), ("phi", module.phi), ("g", module.g)):
            module.add_module(name, FoldedConv(conv, nn.Identity(), relu=False))
        return module
    for name, child in module.named_children():
        module.add_module(name, fold(child))
    return module
