"""The networks (paper, section 3 and Table 1): SlowFast, Slow-only and Fast-only.

B clips, C channels, T frames, H height, W width. The input is always the clip at the Fast pathway's frame rate,
`[B, 3, alpha T, H, W]` (5 channels with optical flow), from which each pathway takes its frames. `features` returns the
res5 map of each pathway; the head turns them into logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from slowfast_core.model.blocks import Pathway, stage_channels
from slowfast_core.model.frames import CHANNELS, FastFrames, SlowFrames
from slowfast_core.model.lateral import make_lateral
from slowfast_core.model.nonlocal_block import with_non_local
from slowfast_core.recipe.schema import Clip, Model

SLOW_TIMES = (1, 1, 1, 3, 3)  # temporal kernel sizes of conv1, res2..res5
FAST_TIMES = (5, 3, 3, 3, 3)
WINDOW = 7  # side of the res5 map of a view of 224 pixels


class SlowFast(nn.Module):
    """Both pathways, with lateral connections after pool1, res2, res3 and res4."""

    def __init__(self, model: Model, clip: Clip) -> None:
        super().__init__()
        fast_channels = stage_channels(model.fast_depth or model.depth, model.fast_width)
        laterals = [make_lateral(model, channels, clip.alpha) for channels in fast_channels]
        self.laterals = nn.ModuleList(laterals)
        self.slow_frames = SlowFrames(model, clip)
        self.fast_frames = FastFrames(model)
        self.slow = slow_pathway(model, tuple(lateral.outputs for lateral in laterals))
        self.fast = fast_pathway(model)
        self.channels = self.slow.channels + self.fast.channels

    def features(self, clip_BCTHW: Tensor) -> list[Tensor]:
        slow_BCTHW = self.slow.stem(self.slow_frames(clip_BCTHW))
        fast_BCTHW = self.fast.stem(self.fast_frames(clip_BCTHW))
        stages = zip(self.laterals, self.slow.stages, self.fast.stages, strict=True)
        for lateral, slow_stage, fast_stage in stages:
            slow_BCTHW = slow_stage(lateral(slow_BCTHW, fast_BCTHW))
            fast_BCTHW = fast_stage(fast_BCTHW)
        return [slow_BCTHW, fast_BCTHW]


class OnePathway(nn.Module):
    """A Slow-only or Fast-only network; Slow-only uses only the Slow frames of the clip."""

    def __init__(self, model: Model, clip: Clip) -> None:
        super().__init__()
        slow = model.pathways == "slow"
        self.frames = SlowFrames(model, clip) if slow else FastFrames(model)
        self.pathway = slow_pathway(model) if slow else fast_pathway(model)
        self.channels = self.pathway.channels

    def features(self, clip_BCTHW: Tensor) -> list[Tensor]:
        x_BCTHW = self.pathway.stem(self.frames(clip_BCTHW))
        for stage in self.pathway.stages:
            x_BCTHW = stage(x_BCTHW)
        return [x_BCTHW]


def slow_pathway(model: Model, joined: tuple[int, ...] = (0, 0, 0, 0)) -> Pathway:
    """The Slow pathway with its non-local blocks; `joined` are the channels that lateral connections add."""
    pathway = Pathway(3, model.depth, model.width, SLOW_TIMES, model.res4_temporal_blocks, joined, _res5(model))
    if section := model.non_local:
        for s, blocks in ((1, section.res3), (2, section.res4)):
            stage = pathway.stages[s]
            assert isinstance(stage, nn.Sequential)
            pathway.stages[s] = with_non_local(stage, blocks, section)
    return pathway


def fast_pathway(model: Model) -> Pathway:
    depth = model.fast_depth or model.depth
    res4_blocks = model.fast_res4_temporal_blocks
    if res4_blocks is None:
        res4_blocks = model.res4_temporal_blocks
    inputs = CHANNELS[model.fast_input]
    return Pathway(inputs, depth, model.fast_width, FAST_TIMES, res4_blocks, res5=_res5(model))


def _res5(model: Model) -> tuple[int, int]:
    """Spatial stride and dilation of res5."""
    return (1, model.res5_dilation) if model.head == "detect" else (2, 1)


class Classifier(nn.Module):
    """Average pooling per pathway, concatenation, dropout, fully connected layer: logits `[B, classes]`.

    P windows. In tests with a convolutional `head_pool`, each window of cells has logits of its own. The result is
    their mean, or the logits of the mean of their scores.
    """

    def __init__(self, trunk: SlowFast | OnePathway, model: Model) -> None:
        super().__init__()
        self.trunk = trunk
        self.pool = model.head_pool
        self.multi_label = model.multi_label
        self.dropout = nn.Dropout(model.dropout)
        self.projection = nn.Linear(trunk.channels, model.classes)

    def forward(self, fast_BCTHW: Tensor) -> Tensor:
        features = self.trunk.features(fast_BCTHW)
        if self.pool != "global" and not self.training:
            pooled_BCP = torch.cat([_window_means(x_BCTHW) for x_BCTHW in features], dim=1)
            logits_BPA: Tensor = self.projection(pooled_BCP.transpose(1, 2))
            if self.pool == "convolutional_logits":
                return logits_BPA.mean(dim=1)
            return logits_of_mean_score(logits_BPA, self.multi_label)
        pooled = [x_BCTHW.mean(dim=(2, 3, 4)) for x_BCTHW in features]
        logits: Tensor = self.projection(self.dropout(torch.cat(pooled, dim=1)))
        return logits


def _window_means(x_BCTHW: Tensor) -> Tensor:
    """Mean over time and over each window of the map `[B, C, P]`; a map below the window's size is one window."""
    map_BCHW = x_BCTHW.mean(dim=2)
    height, width = map_BCHW.shape[2:]
    return functional.avg_pool2d(map_BCHW, (min(WINDOW, height), min(WINDOW, width)), stride=1).flatten(2)


def logits_of_mean_score(logits_BPA: Tensor, multi_label: bool) -> Tensor:
    """The logits `[B, A]` whose softmax, or sigmoid for `multi_label`, is the mean of those of the P windows."""
    if logits_BPA.shape[1] == 1:
        return logits_BPA[:, 0]
    if multi_label:
        yes_BPA, no_BPA = functional.logsigmoid(logits_BPA), functional.logsigmoid(-logits_BPA)
        return yes_BPA.logsumexp(dim=1) - no_BPA.logsumexp(dim=1)
    return logits_BPA.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits_BPA.shape[1])
