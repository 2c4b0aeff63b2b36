"""From a recipe's sections to a network."""

from __future__ import annotations

import torch

from slowfast_core.model.blocks import initialise
from slowfast_core.model.detection import Detector
from slowfast_core.model.slowfast import Classifier, OnePathway, SlowFast
from slowfast_core.recipe.load import Clip, Model


def build_model(model: Model, clip: Clip) -> Classifier | Detector:
    """A freshly initialised network; the global random state decides its weights."""
    trunk = SlowFast(model, clip) if model.pathways == "slowfast" else OnePathway(model, clip)
    network: Classifier | Detector
    if model.head == "classify":
        network = Classifier(trunk, model.classes, model.dropout)
    else:
        network = Detector(trunk, model.classes, model.dropout, model.roi_size, model.roi_aligned)
    initialise(network, model.zero_init_last_bn)
    # Channels last is what the convolutions are fastest in, on CPU and GPU.
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[no-any-return, call-overload]
