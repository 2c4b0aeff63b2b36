"""Refuses checkpoints whose configuration asks for something that our networks do not compute.

Weights alone do not show strides, pooling or activations: such a checkpoint would load, and score wrongly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from slowfast_core.convert.config import Config
from slowfast_core.convert.names import Peer
from slowfast_core.errors import InputError

STRIDES = "SPATIAL_STRIDES"
DILATIONS = "SPATIAL_DILATIONS"
PATHWAYS = ("model.backbone.", "model.backbone.slow_pathway.", "model.backbone.fast_pathway.")
ROI = "model.roi_head.bbox_roi_extractor."
BOX_HEAD = "model.roi_head.bbox_head."

# For each key, the values that our networks can compute. Keys that are missing or null have the peer's default.
Values = Mapping[str, Collection[Any]]
PYSLOWFAST: Values = {
    "MODEL.ARCH": ("slowfast", "slow"),
    "MODEL.HEAD_ACT": ("softmax", "sigmoid"),
    "DATA.ENSEMBLE_METHOD": ("sum", "max"),
    "TEST.NUM_SPATIAL_CROPS": (1, 3),
    "RESNET.TRANS_FUNC": ("bottleneck_transform", "basic_transform"),
    "RESNET.STRIDE_1X1": (False,),
    "RESNET.NUM_GROUPS": (1,),
    "DETECTION.SPATIAL_SCALE_FACTOR": (16,),
    "AVA.TEST_FORCE_FLIP": (False,),
    "NONLOCAL.INSTANTIATION": ("softmax", "dot_product"),
}
MMACTION2: Values = {
    f"{ROI}roi_layer_type": ("RoIAlign",),
    f"{ROI}featmap_stride": (16,),
    f"{ROI}sampling_ratio": (0,),
    f"{ROI}pool_mode": ("avg",),
    f"{ROI}with_temporal_pool": (True,),
    f"{ROI}temporal_pool_mode": ("avg", "max"),
    f"{ROI}with_global": (False,),
    f"{BOX_HEAD}background_class": (True,),
    f"{BOX_HEAD}spatial_pool_type": ("max",),
    f"{BOX_HEAD}multilabel": (True,),
    f"{BOX_HEAD}mlp_head": (False,),
    "model.cls_head.spatial_type": ("avg",),
    "model.cls_head.average_clips": ("prob",),
    "model.test_cfg.average_clips": ("prob",),
    **{f"{path}non_local_cfg.sub_sample": (True,) for path in PATHWAYS},
    **{f"{path}non_local_cfg.mode": ("embedded_gaussian", "dot_product") for path in PATHWAYS},
    **{f"{path}style": ("pytorch",) for path in PATHWAYS},
    **{f"{path}conv1_stride_t": (1,) for path in PATHWAYS},
    **{f"{path}pool1_stride_t": (1,) for path in PATHWAYS},
}
SUPPORTED: Mapping[Peer, Values] = {"pyslowfast": PYSLOWFAST, "mmaction2": MMACTION2, "pytorchvideo": {}}


def check_supported(peer: Peer, config: Config, detects: bool) -> None:
    """Raises InputError, which names the key, if the configuration asks for something unsupported."""
    for key, allowed in SUPPORTED[peer].items():
        _require(key, config.get(key), allowed)
    last = 1 if detects else 2
    for key in (f"RESNET.{STRIDES}", *(f"{path}{STRIDES.lower()}" for path in PATHWAYS)):
        _require(key, per_stage(config.get(key)), [(1, 2, 2, last)])
    for key in (f"RESNET.{DILATIONS}", *(f"{path}dilations" for path in PATHWAYS)):
        _require(key, per_stage(config.get(key)), [(1, 1, 1, 1), (1, 1, 1, 2)] if detects else [(1, 1, 1, 1)])


def per_stage(value: Any) -> Any:
    """One number per stage: PySlowFast lists each pathway, and both must be the same."""
    if not isinstance(value, list):
        return value
    stages = [set(stage) if isinstance(stage, list) else {stage} for stage in value]
    return tuple(min(stage) if len(stage) == 1 else None for stage in stages)


def _require(key: str, value: Any, allowed: Collection[Any]) -> None:
    if value is not None and value not in allowed:
        choices = " or ".join(repr(choice) for choice in allowed)
        raise InputError(
            f"asks for {key} {value!r}, which is not supported", "the configuration", f"it must be {choices}"
        )
