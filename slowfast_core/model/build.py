"""Builds a network from the `model` and `clip` sections of a recipe."""

from __future__ import annotations

import torch

from slowfast_core.model.blocks import initialise
from slowfast_core.model.detection import Detector
from slowfast_core.model.slowfast import Classifier, OnePathway, SlowFast
from slowfast_core.recipe.load import Clip, Model


def build_model(model: Model, clip: Clip) -> Classifier | Detector:
    """Build and initialise a network; its weights depend on PyTorch's global random state."""
    trunk = SlowFast(model, clip) if model.pathways == "slowfast" else OnePathway(model, clip)
    network = Classifier(trunk, model) if model.head == "classify" else Detector(trunk, model)
    initialise(network, model.zero_init_last_bn)
    # Convolutions are fastest in the channels-last layout, on CPU and GPU.
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[no-any-return, call-overload]
