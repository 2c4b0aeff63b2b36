"""Converts checkpoints of PySlowFast, MMAction2 and PyTorchVideo to ours, with the same outputs for the same videos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_core.convert.config import config_of
from slowfast_core.convert.names import CAFFE2_SOLVER, Peer, caffe2_name, our_name
from slowfast_core.convert.pickles import PeerFile, read_peer_file
from slowfast_core.convert.protocol import evaluate_of, format_of
from slowfast_core.convert.settings import Settings, clip_of, model_of, non_local_option
from slowfast_core.errors import InputError
from slowfast_core.files import sha256_of, write_whole
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.once import RECORD, StageResult, read_result, run_once
from slowfast_core.recipe.load import Recipe, parse_recipe
from slowfast_core.recipe.schema import DEPTHS, Clip, Evaluate, Model

STAGE = "convert"
COUNTER = ".num_batches_tracked"  # of batch norm; missing in Caffe2, and unused


@dataclass(frozen=True)
class Converted:
    """A peer's weights by our names, with their settings; `assumed` lists the assumed settings.

    `format` names the annotation format of the data that the model was made for.
    """

    weights: dict[str, Tensor]
    model: Model
    clip: Clip
    test: Evaluate
    format: str
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """How the tensors match the network; `shapes` lists (name, shape in the file, shape in the network)."""

    mapped: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    assumed: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        wrong = tuple(f"{name} {list(theirs)}, here {list(ours)}" for name, theirs, ours in self.shapes)
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "with another shape": wrong}
        counts = ", ".join(f"{len(names)} {kind}{_some(names)}" for kind, names in kinds.items())
        return f"{self.mapped} tensors mapped, {counts}"


def convert(
    peer: Peer, source: Path, output: Path, recipe: Recipe | None = None, labels: Path | None = None
) -> tuple[StageResult, Report]:
    """Write the checkpoint folder `output` for predict, evaluate and `train.init_from`.

    `recipe` must match the weights; without it, settings that the weights do not determine are the peer's defaults.
    Raises InputError, without any output, for a file that cannot be read or does not fit.
    """
    _check_output(output)
    converted, report = translate(peer, read_peer_file(source), recipe)
    if not report.fits:
        raise InputError(f"does not fit: {report}", source, "check --from and --recipe")
    resolved = _resolved(peer, source, converted, recipe)
    names = _labels(labels, converted.model.classes)
    origin = {"peer": peer, "file": source.name, "sha256": sha256_of(source)}
    inputs = {"recipe": json.loads(resolved.to_json()), "labels": names, "converted_from": origin}

    def work(partial: Path) -> Mapping[str, Any]:
        digest = weights_digest(converted.weights)
        save_weights(partial / "model.safetensors", converted.weights)
        record = {**inputs["recipe"], "labels": names, "weights_digest": digest, "converted_from": origin}
        write_whole(partial / "checkpoint.json", json.dumps(record, indent=1))
        return {
            "outputs": {"weights": "model.safetensors", "checkpoint": "checkpoint.json"},
            "summary": str(report),
            "digest": digest,
            "weights_digest": digest,
        }

    return run_once(STAGE, output, inputs, work), report


def translate(peer: Peer, file: PeerFile, recipe: Recipe | None = None) -> tuple[Converted, Report]:
    """Convert the peer's weights to ours, and compare them with the network of their shapes and the recipe."""
    weights, unknown = _renamed(peer, file)
    settings = Settings(peer, config_of(peer, file.config), recipe, file.caffe2)
    try:
        model = model_of(settings, tuple(file.state), weights)
        if peer == "mmaction2":
            weights |= _mmaction2_classifier(weights, model) | _mmaction2_non_local(weights, settings)
            model = model.model_copy(update={"classes": len(weights["projection.weight"])})
        clip = clip_of(settings, model)
        test, format_ = evaluate_of(settings, model, clip), format_of(settings, model, clip)
        with torch.device("meta"):
            own = build_model(model, clip).state_dict()
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError) as error:
        # shapes that do not match any of our networks
        reason = " ".join(str(error).split())
        raise InputError(f"unknown network: {reason}", f"--from {peer}", "name another file") from None
    if recipe:
        _agree(model, clip, recipe)
    counters = {name: torch.tensor(0) for name in own if name.endswith(COUNTER)}
    converted = Converted(counters | weights, model, clip, test, format_, tuple(settings.assumed))
    return converted, _compare(converted, own, unknown)


def _renamed(peer: Peer, file: PeerFile) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights by our names, and the names without a rule."""
    known, unknown = {}, []
    for name, tensor in file.state.items():
        if file.caffe2 and CAFFE2_SOLVER.fullmatch(name):
            continue
        ours = our_name(peer, caffe2_name(name) if file.caffe2 else name)
        if ours is None:
            unknown.append(name)
        else:
            known[ours] = tensor if ours.endswith(COUNTER) else tensor.float()
    if not any(name.startswith("trunk.") for name in known):
        what = f"no tensor name belongs to {peer}'s ResNets, the first is {next(iter(file.state))}"
        raise InputError(what, f"--from {peer}", "name the codebase that wrote the file")
    if not any(name.startswith("trunk.fast.") for name in known):
        known = {name.replace("trunk.slow.", "trunk.pathway."): tensor for name, tensor in known.items()}
    return known, tuple(unknown)


def _mmaction2_classifier(weights: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """MMAction2 puts Fast's features before Slow's; its detector has an unused class before the others."""
    weight, bias = weights["projection.weight"], weights["projection.bias"]
    if model.head == "detect":
        weight, bias = weight[1:], bias[1:]
    elif model.pathways == "slowfast":
        slow = model.width * 8 * (4 if model.depth >= 50 else 1)
        weight = torch.cat([weight[:, -slow:], weight[:, :-slow]], dim=1)
    return {"projection.weight": weight, "projection.bias": bias}


def _mmaction2_non_local(weights: dict[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """MMAction2's last convolution has no bias; `use_scale=False` is no division by the square root of the width."""
    softmax = non_local_option(settings.config, "mode") != "dot_product"
    unscaled = softmax and non_local_option(settings.config, "use_scale") is False
    queries = {name: tensor for name, tensor in weights.items() if unscaled and ".theta." in name}
    scaled = {name: tensor * len(tensor) ** 0.5 for name, tensor in queries.items()}
    outputs = {name: tensor for name, tensor in weights.items() if name.endswith(".out.weight")}
    biases = {name.replace(".weight", ".bias"): torch.zeros(len(tensor)) for name, tensor in outputs.items()}
    return scaled | {name: bias for name, bias in biases.items() if name not in weights}


def _compare(converted: Converted, own: Mapping[str, Tensor], unknown: tuple[str, ...]) -> Report:
    """Compare the weights with the network's own state."""
    weights = converted.weights
    missing = tuple(name for name in own if name not in weights)
    unexpected = tuple(name for name in weights if name not in own)
    shared = [(name, tuple(weights[name].shape), tuple(own[name].shape)) for name in weights if name in own]
    shapes = tuple(entry for entry in shared if entry[1] != entry[2])
    return Report(len(shared) - len(shapes), missing, unexpected + unknown, shapes, converted.assumed)


def _agree(model: Model, clip: Clip, recipe: Recipe) -> None:
    """Raises InputError if the recipe's network or input differs from the checkpoint's."""
    found, asked = _decisive(model), _decisive(recipe.model)
    other = [f"model.{key} is {found.get(key)}, not {asked.get(key)}" for key in asked if found.get(key) != asked[key]]
    frames = {"T", "tau", "alpha", "sampling"}  # the recipe decides how videos of other frame rates are sampled
    if clip.model_dump(include=frames) != recipe.clip.model_dump(include=frames):
        other.append(f"clip is {clip}, not {recipe.clip}")
    if other:
        raise InputError(f"is another network: {'; '.join(other)}", recipe.name, "use the recipe of its training")


def _decisive(model: Model) -> dict[str, Any]:
    """The settings on which a model's outputs depend, with explicit defaults."""
    keys = {"pathways", "depth", "width", "classes", "head", "multi_label", "non_local", "pixels"}
    blocks = _temporal_blocks(model.res4_temporal_blocks, model.depth)
    fields: dict[str, Any] = {"res4_temporal_blocks": blocks}
    if model.pathways == "slowfast":
        keys |= {"lateral", "slow_frames"}
        keys |= {"lateral_kernel", "lateral_ratio", "lateral_norm"} if model.lateral == "t_conv" else set()
        fast_depth, asked = model.fast_depth or model.depth, model.fast_res4_temporal_blocks
        fast_blocks = _temporal_blocks(model.res4_temporal_blocks if asked is None else asked, fast_depth)
        fields |= {"fast_depth": fast_depth, "fast_width": model.fast_width, "fast_input": model.fast_input}
        fields["fast_res4_temporal_blocks"] = fast_blocks
    if model.head == "detect":
        keys |= {"roi_size", "roi_aligned", "res5_dilation", "head_temporal_pool"}
    return {**model.model_dump(include=keys), **fields}


def _temporal_blocks(asked: int | None, depth: int) -> int:
    blocks = DEPTHS[depth][2]
    return blocks if asked is None else min(asked, blocks)


def _resolved(peer: Peer, source: Path, converted: Converted, recipe: Recipe | None) -> Recipe:
    if recipe:
        return recipe.model_copy(update={"finetune": None})
    name = "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in source.stem)
    tree = {
        "name": f"{peer}/{name}",
        "description": f"Converted from {peer}'s {source.name}.",
        "data": {"name": converted.format, "format": converted.format, "source": converted.format},
        "model": converted.model.model_dump(),
        "clip": converted.clip.model_dump(),
        "evaluate": converted.test.model_dump(),
    }
    return parse_recipe(tree, str(source))


def _labels(path: Path | None, classes: int) -> list[str]:
    if path is None:
        return [f"class {index}" for index in range(classes)]
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError("cannot read the label names", path, "name a text file") from None
    if len(names) != classes:
        raise InputError(
            f"has {len(names)} label names, the checkpoint {classes} classes", path, "write one name per line"
        )
    return names


def _check_output(output: Path) -> None:
    """Raises InputError unless `output` is new or a converted checkpoint, which may be replaced."""
    if not output.exists():
        return
    if not (output / RECORD).is_file() or read_result(output).stage != STAGE:
        raise InputError("exists and is not a converted checkpoint", output, "name a new folder")


def _some(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
