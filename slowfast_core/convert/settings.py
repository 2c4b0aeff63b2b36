"""Derives the recipe fields of another codebase's (a "peer's") checkpoint.

Weight shapes determine the network: depth, widths, kernels, laterals, classes. The peer determines the frames of the
Slow pathway, the normalisation of pixels and the pooling of boxes. Other settings (mainly T, tau and alpha) come from
the configuration in the files of PySlowFast and MMAction2, or from a recipe given by the user, or are assumed and
reported as such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from torch import Tensor

from slowfast_core.convert.config import Config, transform
from slowfast_core.convert.names import Peer
from slowfast_core.convert.supported import DILATIONS, ROI, check_supported, per_stage
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Recipe
from slowfast_core.recipe.schema import DEPTHS, Clip, Model, NonLocal, Pixels

IMAGENET = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # MMAction2 has them times 255
CHARADES, SOMETHING, AVA = 157, 174, 80  # classes
BOX_HEADS = ("detection_head.", "roi_head.")

Value = TypeVar("Value")
State = Mapping[str, Tensor]


@dataclass
class Settings:
    """Sources of the settings of one checkpoint; `assumed` lists the settings without a source."""

    peer: Peer
    config: Config  # with keys such as `DATA.MEAN` (PySlowFast) or `model.roi_head.type` (MMAction2)
    recipe: Recipe | None  # given by the user
    caffe2: bool
    assumed: list[str] = field(default_factory=list)

    def lookup(self, key: str, name: str, guess: Value) -> Value:
        """`key` of the configuration, else `model.<name>` of the user's recipe, else the guess."""
        if key in self.config:
            return self.config[key]  # type: ignore[no-any-return]
        if self.recipe is not None:
            return getattr(self.recipe.model, name)  # type: ignore[no-any-return]
        self.assumed.append(f"model.{name} {guess}")
        return guess


def model_of(settings: Settings, names: tuple[str, ...], state: State) -> Model:
    """The network of the weights `state`, which has our names; `names` are the peer's."""
    two = any(name.startswith("trunk.fast.") for name in state)
    slow = "trunk.slow" if two else "trunk.pathway"
    depth, width = _depth(state, slow), len(_weight(state, f"{slow}.stem.0"))
    classes = len(_weight(state, "projection"))
    fields: dict[str, Any] = {"pathways": "slowfast" if two else "slow", "depth": depth, "width": width}
    fields |= {"classes": classes, "res4_temporal_blocks": (blocks := _temporal_blocks(state, slow, depth))}
    if two:
        fields |= _fast_fields(state, depth, width, blocks) | _lateral_fields(state)
        fields["slow_frames"] = "strided" if settings.peer == "mmaction2" else "linspace"
    fields["head"] = _head(settings, names, classes)
    if fields["head"] == "classify":
        fields |= {"head_pool": _head_pool(settings), "multi_label": _multi_label(settings, classes)}
    check_supported(settings.peer, settings.config, fields["head"] == "detect")
    if fields["head"] == "detect":
        fields |= _box_fields(settings)
    fields["pixels"] = IMAGENET if settings.peer == "mmaction2" else _pixels(settings, classes)
    if non_local := _non_local(settings, names, state, fields["head"]):
        fields["non_local"] = non_local
    return Model(**fields)


def clip_of(settings: Settings, model: Model) -> Clip:
    """T, tau and alpha, which no weight depends on."""
    config = settings.config
    if "DATA.NUM_FRAMES" in config and "DATA.SAMPLING_RATE" in config:
        alpha = int(config.get("SLOWFAST.ALPHA", 8)) if model.pathways == "slowfast" else 1
        T, tau = int(config["DATA.NUM_FRAMES"]) // alpha, int(config["DATA.SAMPLING_RATE"]) * alpha
        if data_set(config) == "ssv2":
            return Clip(T=T, tau=tau, alpha=alpha, sampling="segments")
        # Charades is a list of extracted frames, which are counted whatever their rate.
        fps = None if is_charades(settings, model) else config.get("DATA.TARGET_FPS", 30)
        return Clip(T=T, tau=tau, alpha=alpha, fps=fps)
    if sampled := _mmaction2_clip(config, model):
        return sampled
    if settings.recipe is not None:
        return settings.recipe.clip
    clip = _usual_clip(settings.peer, model)
    clip = clip.model_copy(update=_usual_sampling(settings.peer, model))
    settings.assumed.append(f"clip {clip.T}x{clip.tau}, alpha {clip.alpha}")
    return clip


def data_set(config: Config) -> str:
    """The data set on which a model of PySlowFast is tested, in lower case."""
    return str(config.get("TEST.DATASET") or config.get("TRAIN.DATASET", "")).lower()


def is_charades(settings: Settings, model: Model) -> bool:
    """Whether the model is tested on Charades; without a configuration, the number of its classes decides."""
    if settings.config:
        return data_set(settings.config) == "charades"
    return model.classes == CHARADES


def _usual_sampling(peer: Peer, model: Model) -> dict[str, Any]:
    """How the model zoos sample: MMAction2 counts frames except in AVA, the others sample at 30 frames a second."""
    if peer == "mmaction2":
        return {"fps": 30.0} if model.head == "detect" else {"short": "loop"}
    if model.classes == SOMETHING:
        return {"sampling": "segments"}
    return {} if model.classes == CHARADES else {"fps": 30.0}


def _mmaction2_clip(config: Config, model: Model) -> Clip | None:
    """The clip of MMAction2's test pipeline; None without a configuration."""
    sample = transform(config, "SampleFrames") or transform(config, "SampleAVAFrames")
    frames, interval = sample.get("clip_len"), sample.get("frame_interval", 1)
    if not frames:
        return None
    short = "loop" if sample.get("out_of_bound_opt", "loop") == "loop" and model.head == "classify" else "repeat"
    fields = {"short": short, "fps": 30.0 if model.head == "detect" else sample.get("target_fps")}
    if model.pathways == "slow":
        return Clip(T=frames, tau=interval, alpha=1, **fields)
    stride, alpha = config.get("model.backbone.resample_rate", 8), config.get("model.backbone.speed_ratio", 8)
    if stride != alpha:
        raise ValueError(f"the Fast pathway takes every {stride / alpha:g}th frame of its clip")
    return Clip(T=frames // alpha, tau=interval * alpha, alpha=alpha, **fields)


def _usual_clip(peer: Peer, model: Model) -> Clip:
    """The clips of the model zoos: kernel 5 means alpha 8, except in PySlowFast's and PyTorchVideo's R101."""
    if model.pathways == "slow":
        return Clip(T=8, tau=8, alpha=1)
    if model.classes in (CHARADES, SOMETHING) or model.res4_temporal_blocks:
        return Clip(T=16, tau=8, alpha=4)
    if model.lateral_kernel == 5 and (peer == "mmaction2" or model.depth == 50):
        return Clip(T=4, tau=16, alpha=8)
    return Clip(T=8, tau=8, alpha=4)


def _weight(state: State, module: str) -> Tensor:
    try:
        return state[f"{module}.weight"]
    except KeyError:
        raise InputError(f"has no {module}.weight", "checkpoint", "is it a SlowFast or Slow-only ResNet?") from None


def _depth(state: State, pathway: str) -> int:
    found = re.compile(re.escape(pathway) + r"\.stages\.([0-3])\.(\d+)\.")
    blocks = {tuple(map(int, m.groups())) for name in state if (m := found.match(name))}
    counts = tuple(len([b for s, b in blocks if s == stage]) for stage in range(4))
    wide = f"{pathway}.stages.0.0.c.weight" in state
    for depth, expected in DEPTHS.items():
        if counts == expected and wide == (depth >= 50):
            return depth
    raise InputError(
        f"{pathway} has {counts} blocks per stage", "checkpoint", f"known depths are {', '.join(map(str, DEPTHS))}"
    )


def _temporal_blocks(state: State, pathway: str, depth: int) -> int | None:
    """Number of res4 blocks with a temporal kernel, None if all have one."""
    blocks = DEPTHS[depth][2]
    temporal = sum(_weight(state, f"{pathway}.stages.2.{i}.a").shape[2] > 1 for i in range(blocks))
    return temporal if temporal < blocks else None


def _fast_fields(state: State, depth: int, width: int, slow_blocks: int | None) -> dict[str, Any]:
    fast_depth = _depth(state, "trunk.fast")
    beta = len(_weight(state, "trunk.fast.stem.0")) / width
    blocks = _temporal_blocks(state, "trunk.fast", fast_depth)
    fields = {"beta": beta, "fast_depth": None if fast_depth == depth else fast_depth}
    return fields if blocks == slow_blocks else fields | {"fast_res4_temporal_blocks": blocks or DEPTHS[fast_depth][2]}


def _lateral_fields(state: State) -> dict[str, Any]:
    if not any(name.startswith("trunk.laterals.") for name in state):
        return {"lateral": "none"}
    weight = _weight(state, "trunk.laterals.0.conv")
    norm = "trunk.laterals.0.bn.weight" in state
    return {"lateral_kernel": weight.shape[2], "lateral_ratio": len(weight) // weight.shape[1], "lateral_norm": norm}


def _head(settings: Settings, names: tuple[str, ...], classes: int) -> str:
    if settings.peer != "pyslowfast":
        return "detect" if any(head in name for name in names for head in BOX_HEADS) else "classify"
    if "DETECTION.ENABLE" in settings.config:
        return "detect" if settings.config["DETECTION.ENABLE"] else "classify"
    return settings.lookup("", "head", "detect") if classes == AVA else "classify"


def _head_pool(settings: Settings) -> str:
    """Only PySlowFast's multigrid models and those of MMAction2 pool all cells in tests."""
    if settings.peer == "pytorchvideo":
        return "convolutional_logits"
    multigrid = settings.config.get("MULTIGRID.SHORT_CYCLE")
    return "convolutional" if settings.peer == "pyslowfast" and not multigrid else "global"


def _multi_label(settings: Settings, classes: int) -> bool:
    """Whether scores are sigmoids; only PySlowFast's configuration records it."""
    if "MODEL.HEAD_ACT" in settings.config:
        return bool(settings.config["MODEL.HEAD_ACT"] == "sigmoid")
    if settings.recipe:
        return settings.recipe.model.multi_label
    if settings.peer == "pyslowfast" and not settings.config and classes == CHARADES:
        return settings.lookup("", "multi_label", guess=True)
    return False


def _box_fields(settings: Settings) -> dict[str, Any]:
    """Settings of RoIAlign, which in torchvision and Caffe2 has no half-pixel shift by default."""
    config = settings.config
    if settings.peer == "mmaction2":
        return _mmaction2_box_fields(settings)
    fields: dict[str, Any] = {"res5_dilation": 2, "roi_size": 7, "roi_aligned": False}
    if settings.peer == "pyslowfast":
        fields["res5_dilation"] = (per_stage(config.get(f"RESNET.{DILATIONS}")) or (2,))[-1]
        fields["roi_size"] = config.get("DETECTION.ROI_XFORM_RESOLUTION", 7)
        fields["roi_aligned"] = settings.lookup("DETECTION.ALIGNED", "roi_aligned", not settings.caffe2)
    return fields


def _mmaction2_box_fields(settings: Settings) -> dict[str, Any]:
    config = settings.config
    means = {"avg": "mean", "max": "max"}
    if config:
        temporal_pool = means[config.get(f"{ROI}temporal_pool_mode") or "avg"]
    else:
        temporal_pool = settings.lookup("", "head_temporal_pool", "mean")
    dilations = config.get("model.backbone.slow_pathway.dilations") or config.get("model.backbone.dilations") or [1]
    return {
        "res5_dilation": dilations[-1],
        "roi_size": config.get(f"{ROI}output_size", 8),
        "roi_aligned": config.get(f"{ROI}aligned", True),
        "head_temporal_pool": temporal_pool,
    }


def _pixels(settings: Settings, classes: int) -> Pixels:
    mean, std = (settings.config.get(f"DATA.{key}") for key in ("MEAN", "STD"))
    order = _order(settings, classes) if settings.peer == "pyslowfast" else "rgb"
    return Pixels(order=order, mean=mean or Pixels().mean, std=std or Pixels().std)


def _order(settings: Settings, classes: int) -> Literal["rgb", "bgr"]:
    """PySlowFast reads frames of Charades and Something-Something as BGR, all others as RGB, unless a setting reverses.

    The setting is newer than some models: without it, channels were not reversed.
    """
    config = settings.config
    if config.get("DETECTION.ENABLE"):
        return "bgr" if config.get("AVA.BGR") else "rgb"
    read_as_bgr = data_set(config) in ("charades", "ssv2")
    if "DATA.REVERSE_INPUT_CHANNEL" in config or data_set(config):
        return "bgr" if read_as_bgr != bool(config.get("DATA.REVERSE_INPUT_CHANNEL")) else "rgb"
    if classes not in (CHARADES, SOMETHING):
        return "rgb"
    if settings.recipe:
        return settings.recipe.model.pixels.order
    settings.assumed.append(f"model.pixels.order bgr, as usual for {classes} classes")
    return "bgr"


def non_local_option(config: Config, name: str) -> Any:
    """An option of MMAction2's `NonLocal3d`; None if the configuration has its default."""
    places = (f"model.backbone.{path}non_local_cfg.{name}" for path in ("", "slow_pathway."))
    return next((config[key] for key in places if key in config), None)


def _non_local(settings: Settings, names: tuple[str, ...], state: State, head: str) -> NonLocal | None:
    """Positions of non-local blocks, and their attention, which only PySlowFast's configuration records."""
    found = re.compile(r"trunk\.\w+\.stages\.([12])\.nonlocal(\d+)\.")
    places = {tuple(map(int, m.groups())) for name in state if (m := found.match(name))}
    if not places:
        return None
    res3, res4 = (tuple(sorted(block for s, block in places if s == stage)) for stage in (1, 2))
    pool = settings.config.get("NONLOCAL.POOL")
    if settings.peer == "mmaction2":
        if any("non_local_block.g.conv." in name for name in names):  # with pooling, it is in a sequence: `g.0.conv`
            raise ValueError("its non-local blocks do not pool (sub_sample=False)")
        attention = "dot_product" if non_local_option(settings.config, "mode") == "dot_product" else "softmax"
        return NonLocal(res3=res3, res4=res4, attention=attention, pool_time=1, pool_after=True)
    usual = "dot_product"
    attention = settings.config.get("NONLOCAL.INSTANTIATION", usual)
    asked = settings.recipe.model.non_local if settings.recipe else None
    if asked and not settings.config:
        return NonLocal(res3=res3, res4=res4, attention=asked.attention, pool_time=asked.pool_time)
    pool_time = pool[2][0][0] if pool else (2 if head == "detect" and settings.peer == "pyslowfast" else 1)
    if not settings.config:
        settings.assumed.append(f"model.non_local {attention}, pool_time {pool_time}")
    return NonLocal(res3=res3, res4=res4, attention=attention, pool_time=pool_time)
