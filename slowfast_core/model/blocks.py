"""Residual blocks and pathways (paper, Table 1).

B clips, C channels, T frames, H height, W width. Kernels are written {T x S^2}.
"""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def conv(inputs: int, outputs: int, time: int, space: int, stride: int = 1, dilation: int = 1) -> nn.Conv3d:
    """A convolution {time x space^2} that keeps T, and H, W up to the spatial stride."""
    padding = (time // 2, dilation * (space // 2), dilation * (space // 2))
    return nn.Conv3d(
        inputs, outputs, (time, space, space), (1, stride, stride), padding, (1, dilation, dilation), bias=False
    )


class Bottleneck(nn.Module):
    """{t x 1^2} -> {1 x 3^2} -> {1 x 1^2}, the last four times as wide; the spatial stride is in the middle."""

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
        y_BCTHW = self.relu(y_BCTHW + self.shortcut(x_BCTHW))
        return y_BCTHW

    @property
    def last_bn(self) -> nn.BatchNorm3d:
        return self.c_bn


class Basic(nn.Module):
    """{t x 3^2} -> {1 x 3^2}, the block of ResNet-18 and -34."""

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
        y_BCTHW = self.relu(y_BCTHW + self.shortcut(x_BCTHW))
        return y_BCTHW

    @property
    def last_bn(self) -> nn.BatchNorm3d:
        return self.b_bn


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(conv(inputs, outputs, 1, 1, stride), nn.BatchNorm3d(outputs))


class Stem(nn.Sequential):
    """conv1 {time x 7^2} with spatial stride 2, and pool1 {1 x 3^2} with spatial stride 2."""

    def __init__(self, outputs: int, time: int) -> None:
        super().__init__(
            conv(3, outputs, time, 7, stride=2),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )


class Pathway(nn.Module):
    """One pathway: the stem and res2..res5, each a module, so that laterals can join between them.

    `joined[s]` is how many channels a lateral adds to the input of stage s (res2..res5). `times` are the temporal
    kernels of conv1 and of the first convolution in the blocks of res2..res5. `dilated`: res5 has stride 1, dilation 2.
    """

    def __init__(
        self, depth: int, width: int, times: tuple[int, int, int, int, int], joined: tuple[int, ...], dilated: bool
    ) -> None:
        super().__init__()
        block = Basic if depth < 50 else Bottleneck
        self.stem = Stem(width, times[0])
        self.stages = nn.ModuleList()
        channels = width
        for s, count in enumerate(BLOCKS[depth]):
            inner = width * 2**s
            stride, dilation = (1, 2) if dilated and s == 3 else (1 if s == 0 else 2, 1)
            inputs = [channels + joined[s]] + [inner * block.expansion] * (count - 1)
            strides = [stride] + [1] * (count - 1)
            blocks = [block(i, inner, times[s + 1], st, dilation) for i, st in zip(inputs, strides, strict=True)]
            self.stages.append(nn.Sequential(*blocks))
            channels = inner * block.expansion
        self.channels = channels  # of the last stage


def stage_channels(depth: int, width: int) -> tuple[int, int, int, int]:
    """Channels that leave pool1, res2, res3 and res4, where the laterals start."""
    expansion = Basic.expansion if depth < 50 else Bottleneck.expansion
    return width, width * expansion, width * 2 * expansion, width * 4 * expansion


def initialise(model: nn.Module) -> None:
    """He initialisation (fan-out) of convolutions; the last BN of a block starts at zero, the block as identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Basic | Bottleneck):
            nn.init.zeros_(module.last_bn.weight)
