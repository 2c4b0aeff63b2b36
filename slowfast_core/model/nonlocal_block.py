"""Non-local blocks (Wang et al., CVPR 2018) on the fused features of the Slow pathway.

B clips, C channels, T frames, H height, W width, D inner channels, Q queries (T H W), K keys (T H W after pooling).
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from slowfast_core.recipe.schema import NonLocal


class NonLocalBlock(nn.Module):
    """x + BN(out(attention(theta(x), phi(pool(x))) g(pool(x)))): every position attends to all pooled positions."""

    def __init__(self, channels: int, section: NonLocal) -> None:
        super().__init__()
        inner = channels // 2
        self.softmax = section.attention == "softmax"
        self.pool_after = section.pool_after
        self.pool = nn.MaxPool3d((section.pool_time, 2, 2))
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Conv3d(inner, channels, 1)
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        queries_BQD = self.theta(x_BCTHW).flatten(2).transpose(1, 2)
        if self.pool_after:
            keys_BDTHW, values_BDTHW = self.pool(self.phi(x_BCTHW)), self.pool(self.g(x_BCTHW))
        else:
            pooled_BCTHW = self.pool(x_BCTHW)
            keys_BDTHW, values_BDTHW = self.phi(pooled_BCTHW), self.g(pooled_BCTHW)
        keys_BDK = keys_BDTHW.flatten(2)
        values_BKD = values_BDTHW.flatten(2).transpose(1, 2)
        pairs_BQK = queries_BQD @ keys_BDK
        if self.softmax:
            weights_BQK = (pairs_BQK * keys_BDK.shape[1] ** -0.5).softmax(dim=2)
        else:
            weights_BQK = pairs_BQK / keys_BDK.shape[2]
        attended_BDQ = (weights_BQK @ values_BKD).transpose(1, 2)
        attended_BDTHW = attended_BDQ.unflatten(2, x_BCTHW.shape[2:])
        added_BCTHW: Tensor = self.bn(self.out(attended_BDTHW))
        return x_BCTHW + added_BCTHW


def with_non_local(stage: nn.Sequential, after: Collection[int], section: NonLocal) -> nn.Sequential:
    """Insert a block `nonlocalI` after each block I in `after`; the names of the other blocks do not change."""
    extended = nn.Sequential()
    for name, block in stage.named_children():
        extended.add_module(name, block)
        if int(name) in after:
            extended.add_module(f"nonlocal{name}", NonLocalBlock(_output_channels(block), section))
    return extended


def _output_channels(block: nn.Module) -> int:
    last_bn = block.last_bn
    assert isinstance(last_bn, nn.BatchNorm3d)
    return last_bn.num_features
