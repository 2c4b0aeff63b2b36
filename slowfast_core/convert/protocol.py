"""Derives how another codebase tests a checkpoint: the `evaluate` section and the activation of its scores."""

from __future__ import annotations

from typing import Any

from slowfast_core.convert.config import Config, transform
from slowfast_core.convert.settings import Settings, data_set, is_charades
from slowfast_core.data.annotations.ava import AVA
from slowfast_core.data.annotations.charades import CHARADES
from slowfast_core.data.annotations.kinetics import KINETICS
from slowfast_core.data.annotations.something import SOMETHING
from slowfast_core.errors import InputError
from slowfast_core.recipe.schema import Clip, Evaluate, Model


def evaluate_of(settings: Settings, model: Model, clip: Clip) -> Evaluate:
    """The test of the file's configuration, or the usual one of the codebase for models of this kind."""
    if settings.peer == "pyslowfast":
        fields = _pyslowfast(settings, model)
    elif settings.peer == "mmaction2":
        fields = {"starts": "rounded"} | _mmaction2(settings)
    else:
        fields = {}
    if model.head == "detect" and settings.peer == "pyslowfast":
        fields["protocol"] = "pyslowfast"
    if clip.sampling == "segments":  # every clip would have the same frames
        fields |= {"clips": 1, "starts": "uniform"}
    return Evaluate(**fields)


def format_of(settings: Settings, model: Model, clip: Clip) -> str:
    """The annotation format of the data that the model was made for."""
    if model.head == "detect":
        return AVA.name
    if clip.sampling == "segments":
        return SOMETHING.name
    return CHARADES.name if is_charades(settings, model) and model.multi_label else KINETICS.name


def _pyslowfast(settings: Settings, model: Model) -> dict[str, Any]:
    config = settings.config
    charades = is_charades(settings, model)
    offset = config.get("DATA.USE_OFFSET_SAMPLING")
    starts = "rounded" if charades else "offset" if offset else "pyslowfast"
    if not config:
        if charades:
            settings.assumed.append("evaluate.aggregation max")
        return {"starts": starts, "aggregation": "max" if charades else "mean"}
    size = config.get("DATA.TEST_CROP_SIZE", 256)
    crops = config.get("TEST.NUM_SPATIAL_CROPS", 3)
    if crops == 1 and model.head == "classify" and data_set(config) == KINETICS.name:
        _note_scale(settings, size, (config.get("DATA.TRAIN_JITTER_SCALES") or [size])[0])
    return {
        "clips": config.get("TEST.NUM_ENSEMBLE_VIEWS", 10),
        "crops": crops,
        "size": size,
        "aggregation": "max" if config.get("DATA.ENSEMBLE_METHOD") == "max" else "mean",
        "starts": starts,
    }


def _mmaction2(settings: Settings) -> dict[str, Any]:
    config = settings.config
    sample = transform(config, "SampleFrames")
    if not sample:
        return {}
    if sample.get("twice_sample") or transform(config, "TenCrop"):
        what = "asks for twice_sample or TenCrop, which are not supported"
        raise InputError(what, "the configuration", "it must take one clip at each start, in one or three crops")
    three, centre = transform(config, "ThreeCrop"), transform(config, "CenterCrop")
    size = (three or centre).get("crop_size", 256)
    _note_scale(settings, size, _short_side(config, size))
    starts = "offset" if sample.get("target_fps") else "rounded"
    return {"clips": sample.get("num_clips", 1), "crops": 3 if three else 1, "size": size, "starts": starts}


def _short_side(config: Config, size: int) -> int:
    """The short side to which MMAction2's test scales the picture: `scale=(-1, 256)`."""
    scale = transform(config, "Resize").get("scale")
    sides = [side for side in scale if isinstance(side, int) and side > 0] if isinstance(scale, list) else []
    return min(sides, default=size)


def _note_scale(settings: Settings, size: int, short_side: int) -> None:
    """Report a test that cuts its views from a larger picture: here the short side is always the side of the view."""
    if size != short_side:
        settings.assumed.append(f"evaluate.size {size}; the file cuts {size} from a short side of {short_side}")
