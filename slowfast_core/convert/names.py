"""Translates tensor names of PySlowFast, Caffe2, PyTorchVideo and MMAction2 to ours.

The named groups of a rule are: `p` the pathway, `k` the stage, `i` the block, `x` a layer of a residual block, `n` a
layer of a non-local block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Peer = Literal["pyslowfast", "mmaction2", "pytorchvideo"]

PATHWAYS = {"": "slow", "0": "slow", "1": "fast", "t_": "fast", "slow": "slow", "fast": "fast"}
LAYERS = {"1": "a", "2": "b", "3": "c", "a": "a", "b": "b", "c": "c"}
CAFFE2_LEAVES = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var", "w": "weight"}
WRAPPER = "module."  # of data-parallel training


@dataclass(frozen=True)
class Rule:
    """A pattern of a peer's module names, and our name."""

    theirs: str
    ours: str
    first: int = 0  # the peer's number of the first stage or lateral


P_BLOCK = r"s(?P<k>[2-5])\.pathway(?P<p>[01])_res(?P<i>\d+)\."
P_NON_LOCAL = r"s(?P<k>[34])\.pathway(?P<p>0)_nonlocal(?P<i>\d+)\."
V_BLOCK = r"blocks\.(?P<k>[1-4])\.(multipathway_blocks\.(?P<p>[01])\.)?res_blocks\.(?P<i>\d+)\."
M_PATH = r"backbone\.((?P<p>slow|fast)_path\.)?"
M_BLOCK = M_PATH + r"layer(?P<k>[1-4])\.(?P<i>\d+)\."
OUR_BLOCK = "trunk.{p}.stages.{k}.{i}."
OUR_NON_LOCAL = "trunk.{p}.stages.{k}.nonlocal{i}."

RULES: dict[Peer, tuple[Rule, ...]] = {
    "pyslowfast": (
        Rule(r"s1\.pathway(?P<p>[01])_stem\.conv", "trunk.{p}.stem.0"),
        Rule(r"s1\.pathway(?P<p>[01])_stem\.bn", "trunk.{p}.stem.1"),
        Rule(P_BLOCK + r"branch2\.(?P<x>[abc])", OUR_BLOCK + "{x}", 2),
        Rule(P_BLOCK + r"branch2\.(?P<x>[abc])_bn", OUR_BLOCK + "{x}_bn", 2),
        Rule(P_BLOCK + r"branch1", OUR_BLOCK + "shortcut.0", 2),
        Rule(P_BLOCK + r"branch1_bn", OUR_BLOCK + "shortcut.1", 2),
        Rule(r"s(?P<k>[1-4])_fuse\.conv_f2s", "trunk.laterals.{k}.conv", 1),
        Rule(r"s(?P<k>[1-4])_fuse\.bn", "trunk.laterals.{k}.bn", 1),
        Rule(P_NON_LOCAL + r"conv_(?P<n>theta|phi|g|out)", OUR_NON_LOCAL + "{n}", 2),
        Rule(P_NON_LOCAL + r"(bn|norm)", OUR_NON_LOCAL + "bn", 2),
        Rule(r"head\.projection", "projection"),
    ),
    "pytorchvideo": (
        Rule(r"blocks\.0\.(multipathway_blocks\.(?P<p>[01])\.)?conv", "trunk.{p}.stem.0"),
        Rule(r"blocks\.0\.(multipathway_blocks\.(?P<p>[01])\.)?norm", "trunk.{p}.stem.1"),
        Rule(V_BLOCK + r"branch2\.conv_(?P<x>[abc])", OUR_BLOCK + "{x}", 1),
        Rule(V_BLOCK + r"branch2\.norm_(?P<x>[abc])", OUR_BLOCK + "{x}_bn", 1),
        Rule(V_BLOCK + r"branch1_conv", OUR_BLOCK + "shortcut.0", 1),
        Rule(V_BLOCK + r"branch1_norm", OUR_BLOCK + "shortcut.1", 1),
        Rule(r"blocks\.(?P<k>[0-3])\.multipathway_fusion\.conv_fast_to_slow", "trunk.laterals.{k}.conv"),
        Rule(r"blocks\.(?P<k>[0-3])\.multipathway_fusion\.norm", "trunk.laterals.{k}.bn"),
        Rule(r"blocks\.[56]\.proj|detection_head\.proj", "projection"),
    ),
    "mmaction2": (
        Rule(M_PATH + r"conv1\.conv", "trunk.{p}.stem.0"),
        Rule(M_PATH + r"conv1\.bn", "trunk.{p}.stem.1"),
        Rule(M_BLOCK + r"conv(?P<x>[123])\.conv", OUR_BLOCK + "{x}", 1),
        Rule(M_BLOCK + r"conv(?P<x>[123])\.bn", OUR_BLOCK + "{x}_bn", 1),
        Rule(M_BLOCK + r"downsample\.conv", OUR_BLOCK + "shortcut.0", 1),
        Rule(M_BLOCK + r"downsample\.bn", OUR_BLOCK + "shortcut.1", 1),
        Rule(r"backbone\.slow_path\.conv1_lateral\.conv", "trunk.laterals.0.conv"),
        Rule(r"backbone\.slow_path\.conv1_lateral\.bn", "trunk.laterals.0.bn"),
        Rule(r"backbone\.slow_path\.layer(?P<k>[1-3])_lateral\.conv", "trunk.laterals.{k}.conv"),
        Rule(r"backbone\.slow_path\.layer(?P<k>[1-3])_lateral\.bn", "trunk.laterals.{k}.bn"),
        Rule(M_BLOCK + r"non_local_block\.(conv_)?(?P<n>theta|phi|g|out)(\.0)?\.conv", OUR_NON_LOCAL + "{n}", 1),
        Rule(M_BLOCK + r"non_local_block\.conv_out\.bn", OUR_NON_LOCAL + "bn", 1),
        Rule(r"cls_head\.fc_cls|roi_head\.bbox_head\.fc_cls", "projection"),
    ),
}

# Caffe2's names, and PySlowFast's; `leaf` is the parameter of the layer.
CAFFE2 = tuple(
    (re.compile(pattern), module)
    for pattern, module in (
        (r"(?P<p>t_)?(res_)?conv1_bn_(?P<leaf>\w+)", "s1.pathway{p}_stem.bn"),
        (r"(?P<p>t_)?conv1_(?P<leaf>w)", "s1.pathway{p}_stem.conv"),
        (r"t_pool1_subsample_bn_(?P<leaf>\w+)", "s1_fuse.bn"),
        (r"t_pool1_subsample_(?P<leaf>w)", "s1_fuse.conv_f2s"),
        (r"t_res(?P<k>\d)_\d+_branch2c_bn_subsample_bn_(?P<leaf>\w+)", "s{k}_fuse.bn"),
        (r"t_res(?P<k>\d)_\d+_branch2c_bn_subsample_(?P<leaf>w)", "s{k}_fuse.conv_f2s"),
        (r"(?P<p>t_)?res(?P<k>\d)_(?P<i>\d+)_branch2(?P<x>[abc])_bn_(?P<leaf>\w+)", "{block}.branch2.{x}_bn"),
        (r"(?P<p>t_)?res(?P<k>\d)_(?P<i>\d+)_branch2(?P<x>[abc])_(?P<leaf>w)", "{block}.branch2.{x}"),
        (r"(?P<p>t_)?res(?P<k>\d)_(?P<i>\d+)_branch1_bn_(?P<leaf>\w+)", "{block}.branch1_bn"),
        (r"(?P<p>t_)?res(?P<k>\d)_(?P<i>\d+)_branch1_(?P<leaf>w)", "{block}.branch1"),
        (r"nonlocal_conv(?P<k>\d)_(?P<i>\d+)_bn_(?P<leaf>\w+)", "s{k}.pathway0_nonlocal{i}.bn"),
        (
            r"nonlocal_conv(?P<k>\d)_(?P<i>\d+)_(?P<n>theta|phi|g|out)_(?P<leaf>[wb])",
            "s{k}.pathway0_nonlocal{i}.conv_{n}",
        ),
        (r"pred_(?P<leaf>[wb])", "head.projection"),
    )
)
CAFFE2_SOLVER = re.compile(r".*_momentum|lr|model_iter|.*_grad")


def caffe2_name(name: str) -> str:
    """PySlowFast's name of a Caffe2 blob; names without a rule are returned unchanged."""
    for pattern, module in CAFFE2:
        found = pattern.fullmatch(name)
        if found and found["leaf"] in CAFFE2_LEAVES:
            fields = {key: value or "" for key, value in found.groupdict().items()}
            fields["p"] = "1" if fields.get("p") else "0"
            fields["block"] = "s{k}.pathway{p}_res{i}".format(**{"k": "", "i": "", **fields})
            return f"{module.format(**fields)}.{CAFFE2_LEAVES[fields['leaf']]}"
    return name


def our_name(peer: Peer, name: str) -> str | None:
    """Our name of a peer's tensor, None without a matching rule."""
    name = name.removeprefix(WRAPPER)
    if peer == "pytorchvideo":
        name = name.removeprefix("model.")
    module, _, leaf = name.rpartition(".")
    for rule in RULES[peer]:
        if found := re.fullmatch(rule.theirs, module):
            return f"{_filled(rule, found.groupdict())}.{leaf}"
    return None


def _filled(rule: Rule, fields: dict[str, str | None]) -> str:
    return rule.ours.format(
        p=PATHWAYS[fields.get("p") or ""],
        k=int(fields.get("k") or 0) - rule.first,
        i=fields.get("i"),
        n=fields.get("n"),
        x=LAYERS[fields.get("x") or "a"],
    )
