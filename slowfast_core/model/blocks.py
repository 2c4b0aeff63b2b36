"""Residual blocks and pathways (paper, Table 1).

B clips, C channels, T frames, H height, W width. Kernels are written {T x S^2}.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from slowfast_core.model.convolution import Conv
from slowfast_core.model.nonlocal_block import NonLocalBlock
from slowfast_core.recipe.schema import DEPTHS


def conv(inputs: int, outputs: int, time: int, space: int, stride: int = 1, dilation: int = 1) -> Conv:
    """A convolution {time x space^2}, padded so that T stays the same and H, W are divided by `stride`."""
    padding = (time // 2, dilation * (space // 2), dilation * (space // 2))
    return Conv(
        inputs, outputs, (time, space, space), (1, stride, stride), padding, (1, dilation, dilation), bias=False
    )


class Bottleneck(nn.Module):
    """Bottleneck block of ResNet-50 and deeper: {t x 1^2} -> {1 x 3^2} -> {1 x 1^2}.

    The last convolution has four times as many channels; the middle one has the spatial stride and dilation.
    """

    expansion = 4

    def __init__(self, inputs: int, inner: int, time: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = inner * self.expansion
        self.a, self.a_bn = conv(inputs, inner, time, 1), nn.BatchNorm3d(inner)
        self.b, self.b_bn = conv(inner, inner, 1, 3, stride, dilation), nn.BatchNorm3d(inner)
        self.c, self.c_bn = conv(inner, outputs, 1, 1), nn.BatchNorm3d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        y_BCTHW: Tensor = self.relu(self.a_bn(self.a(x_BCTHW)))
        y_BCTHW = self.relu(self.b_bn(self.b(y_BCTHW)))
        y_BCTHW = self.c_bn(self.c(y_BCTHW))
        y_BCTHW = self.relu(y_BCTHW.add_(self.shortcut(x_BCTHW)))
        return y_BCTHW

    @property
    def last_bn(self) -> nn.BatchNorm3d:
        return self.c_bn


class Basic(nn.Module):
    """Basic block of ResNet-18 and ResNet-34: {t x 3^2} -> {1 x 3^2}."""

    expansion = 1

    def __init__(self, inputs: int, inner: int, time: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.a, self.a_bn = conv(inputs, inner, time, 3, stride, dilation), nn.BatchNorm3d(inner)
        self.b, self.b_bn = conv(inner, inner, 1, 3, 1, dilation), nn.BatchNorm3d(inner)
        self.shortcut = _shortcut(inputs, inner, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        y_BCTHW: Tensor = self.relu(self.a_bn(self.a(x_BCTHW)))
        y_BCTHW = self.b_bn(self.b(y_BCTHW))
        y_BCTHW = self.relu(y_BCTHW.add_(self.shortcut(x_BCTHW)))
        return y_BCTHW

    @property
    def last_bn(self) -> nn.BatchNorm3d:
        return self.b_bn


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(conv(inputs, outputs, 1, 1, stride), nn.BatchNorm3d(outputs))


class Stem(nn.Sequential):
    """conv1 {time x 7^2} followed by pool1 {1 x 3^2}, both with spatial stride 2."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__(
            conv(inputs, outputs, time, 7, stride=2),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )


class Pathway(nn.Module):
    """One pathway: the stem and res2..res5 as separate modules, so that lateral connections can join between them.

    `times` are the temporal kernel sizes of conv1 and of the first convolution in the blocks of res2..res5; in res4
    only the first `res4_blocks` blocks have a temporal kernel (None: all). `joined[s]` is the number of channels that a
    lateral connection adds to the input of stage s (res2..res5). `res5` is the (spatial stride, dilation) of res5.
    """

    def __init__(
        self,
        inputs: int,
        depth: int,
        width: int,
        times: Sequence[int],
        res4_blocks: int | None = None,
        joined: Sequence[int] = (0, 0, 0, 0),
        res5: tuple[int, int] = (2, 1),
    ) -> None:
        super().__init__()
        block = Basic if depth < 50 else Bottleneck
        self.stem = Stem(inputs, width, times[0])
        self.stages = nn.ModuleList()
        channels = width
        strides = ((1, 1), (2, 1), (2, 1), res5)
        for s, count in enumerate(DEPTHS[depth]):
            inner = width * 2**s
            temporal = count if s != 2 or res4_blocks is None else res4_blocks
            stage = nn.Sequential()
            for i in range(count):
                before = channels + joined[s] if i == 0 else inner * block.expansion
                stride, dilation = strides[s]
                time = times[s + 1] if i < temporal else 1
                stage.append(block(before, inner, time, stride if i == 0 else 1, dilation))
            self.stages.append(stage)
            channels = inner * block.expansion
        self.channels = channels  # output of res5


def stage_channels(depth: int, width: int) -> tuple[int, int, int, int]:
    """Output channels of pool1, res2, res3 and res4, where the lateral connections start."""
    expansion = Basic.expansion if depth < 50 else Bottleneck.expansion
    return width, width * expansion, width * 2 * expansion, width * 4 * expansion


def initialise(model: nn.Module, zero_last_bn: bool = True) -> None:
    """Initialise convolutions after He et al. (fan-out); with `zero_last_bn` each block starts as the identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Basic | Bottleneck) and zero_last_bn:
            nn.init.zeros_(module.last_bn.weight)
        elif isinstance(module, NonLocalBlock):
            nn.init.zeros_(module.bn.weight)  # always: the block may be inserted into a trained network
