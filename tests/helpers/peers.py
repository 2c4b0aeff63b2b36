"""Writes our weights under the tensor names of PySlowFast, its Caffe2 models and MMAction2.

Shares no code with the converter: an error stays unnoticed only if it is made twice.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slowfast_core.model.build import build_model
from slowfast_core.recipe.schema import Clip, Model

LEAVES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
State = dict[str, Tensor]


def random_network(model: Model, clip: Clip) -> nn.Module:
    """A network with random weights and batch norm statistics: any lost tensor changes its output."""
    torch.manual_seed(1)
    network = build_model(model, clip).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network


def pyslowfast_state(state: State) -> State:
    return {_pyslowfast(name): tensor for name, tensor in state.items()}


def caffe2_blobs(state: State) -> State:
    """Omits the counters of batch norm; blobs of laterals are named after the last Fast block before them."""
    blocks = [{int(n.split(".")[4]) for n in state if n.startswith(f"trunk.fast.stages.{s}.")} for s in range(3)]
    last = {s: max(found, default=0) for s, found in enumerate(blocks)}
    return {_caffe2(name, last): tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def mmaction2_state(state: State, head: str = "cls_head") -> State:
    """Changes names only; the classifier of MMAction2 also differs in its columns."""
    return {_mmaction2(name, head): tensor for name, tensor in state.items()}


def write_pkl(path: Path, blobs: State, **others: object) -> None:
    arrays = {name: tensor.numpy() for name, tensor in blobs.items()}
    path.write_bytes(pickle.dumps({"blobs": {**arrays, **others}, "cfg": "TRAIN: {}"}, protocol=2))


def write(path: Path, peer: str, network: nn.Module, config: str | None = None) -> Path:
    """Save the network as the other codebase would, with optimizer state and metadata."""
    state = network.state_dict()
    if path.suffix == ".pkl":
        solver = {"conv1_w_momentum": np.zeros(3, np.float32), "lr": np.float32(0.1), "model_iter": np.array([7])}
        write_pkl(path, caffe2_blobs(state), **solver)
    elif peer == "pyslowfast":
        content = {"epoch": 195, "model_state": pyslowfast_state(state), "optimizer_state": {"state": {}}}
        torch.save(content | ({"cfg": config} if config else {}), path)
    else:
        meta = {"epoch": 256, "mmaction_version": "1.0", "best": np.float64(0.7)}
        fast = len(state["trunk.fast.stages.3.0.c_bn.weight"])
        theirs = _classifier_of_mmaction2(mmaction2_state(state), fast)
        torch.save({"meta": meta, "state_dict": theirs, "optimizer": {"lr": 0.1}}, path)
    return path


def _classifier_of_mmaction2(state: State, fast: int) -> State:
    """Put the columns of the Fast features first."""
    weight = state["cls_head.fc_cls.weight"]
    return {**state, "cls_head.fc_cls.weight": torch.cat([weight[:, -fast:], weight[:, :-fast]], dim=1)}


def _parts(name: str) -> tuple[list[str], str, int]:
    """Parts of the module's name, the tensor's name in it, and the pathway (0 Slow, 1 Fast)."""
    module, _, leaf = name.rpartition(".")
    parts = module.split(".")
    return parts, leaf, int(len(parts) > 1 and parts[1] == "fast")


def _pyslowfast(name: str) -> str:
    parts, leaf, p = _parts(name)
    if parts[0] == "projection":
        return f"head.projection.{leaf}"
    if parts[1] == "laterals":
        return f"s{int(parts[2]) + 1}_fuse.{'conv_f2s' if parts[3] == 'conv' else 'bn'}.{leaf}"
    if parts[2] == "stem":
        return f"s1.pathway{p}_stem.{'conv' if parts[3] == '0' else 'bn'}.{leaf}"
    stage, block, layer = int(parts[3]) + 2, parts[4], parts[5]
    if block.startswith("nonlocal"):
        return f"s{stage}.pathway{p}_{block}.{'bn' if layer == 'bn' else 'conv_' + layer}.{leaf}"
    if layer == "shortcut":
        return f"s{stage}.pathway{p}_res{block}.{'branch1' if parts[6] == '0' else 'branch1_bn'}.{leaf}"
    return f"s{stage}.pathway{p}_res{block}.branch2.{layer}.{leaf}"


def _caffe2(name: str, last: dict[int, int]) -> str:
    parts, leaf, p = _parts(name)
    t = "t_" if p else ""
    kind = {"weight": "w", "bias": "b"}.get(leaf, "")
    if parts[0] == "projection":
        return f"pred_{kind}"
    if parts[1] == "laterals":
        before = int(parts[2])
        where = f"t_res{before + 1}_{last[before - 1]}_branch2c_bn" if before else "t_pool1"
        return f"{where}_subsample_{'w' if parts[3] == 'conv' else 'bn_' + LEAVES[leaf]}"
    if parts[2] == "stem":
        return f"{t}conv1_w" if parts[3] == "0" else f"{t}res_conv1_bn_{LEAVES[leaf]}"
    stage, block, layer = int(parts[3]) + 2, parts[4], parts[5]
    if block.startswith("nonlocal"):
        place = f"nonlocal_conv{stage}_{block.removeprefix('nonlocal')}"
        return f"{place}_bn_{LEAVES[leaf]}" if layer == "bn" else f"{place}_{layer}_{kind}"
    if layer == "shortcut":
        return f"{t}res{stage}_{block}_branch1_{'w' if parts[6] == '0' else 'bn_' + LEAVES[leaf]}"
    a, _, bn = layer.partition("_")
    return f"{t}res{stage}_{block}_branch2{a}_{'bn_' + LEAVES[leaf] if bn else 'w'}"


def _mmaction2(name: str, head: str) -> str:
    parts, leaf, p = _parts(name)
    if parts[0] == "projection":
        return f"{head}.fc_cls.{leaf}"
    if parts[1] == "laterals":
        before = int(parts[2])
        return f"backbone.slow_path.{f'layer{before}' if before else 'conv1'}_lateral.{parts[3]}.{leaf}"
    path = "backbone" if parts[1] == "pathway" else f"backbone.{'fast' if p else 'slow'}_path"
    if parts[2] == "stem":
        return f"{path}.conv1.{'conv' if parts[3] == '0' else 'bn'}.{leaf}"
    block = f"{path}.layer{int(parts[3]) + 1}.{parts[4]}"
    if parts[4].startswith("nonlocal"):
        block = f"{path}.layer{int(parts[3]) + 1}.{parts[4].removeprefix('nonlocal')}.non_local_block"
        layers = {
            "phi": "phi.0.conv",
            "g": "g.0.conv",
            "theta": "theta.conv",
            "out": "conv_out.conv",
            "bn": "conv_out.bn",
        }
        return f"{block}.{layers[parts[5]]}.{leaf}"
    if parts[5] == "shortcut":
        return f"{block}.downsample.{'conv' if parts[6] == '0' else 'bn'}.{leaf}"
    a, _, bn = parts[5].partition("_")
    return f"{block}.conv{'abc'.index(a) + 1}.{'bn' if bn else 'conv'}.{leaf}"
