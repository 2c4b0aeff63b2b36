"""Tensor names of other codebases are translated: one example of each kind of name."""

from __future__ import annotations

import pytest

from slowfast_core.convert.names import Peer, caffe2_name, our_name


@pytest.mark.parametrize(
    ("peer", "theirs", "ours"),
    [
        ("pyslowfast", "s1.pathway1_stem.bn.running_var", "trunk.fast.stem.1.running_var"),
        ("pyslowfast", "s4.pathway0_res5.branch2.b_bn.bias", "trunk.slow.stages.2.5.b_bn.bias"),
        ("pyslowfast", "s2.pathway1_res0.branch1_bn.weight", "trunk.fast.stages.0.0.shortcut.1.weight"),
        ("pyslowfast", "s1_fuse.conv_f2s.weight", "trunk.laterals.0.conv.weight"),
        ("pyslowfast", "s4.pathway0_nonlocal6.conv_theta.bias", "trunk.slow.stages.2.nonlocal6.theta.bias"),
        ("pyslowfast", "s4.pathway0_nonlocal6.norm.bias", "trunk.slow.stages.2.nonlocal6.bn.bias"),
        ("pyslowfast", "module.head.projection.bias", "projection.bias"),
        ("mmaction2", "backbone.fast_path.conv1.conv.weight", "trunk.fast.stem.0.weight"),
        ("mmaction2", "backbone.slow_path.layer4.2.conv3.bn.bias", "trunk.slow.stages.3.2.c_bn.bias"),
        ("mmaction2", "backbone.slow_path.layer1.0.downsample.conv.weight", "trunk.slow.stages.0.0.shortcut.0.weight"),
        ("mmaction2", "backbone.slow_path.conv1_lateral.bn.bias", "trunk.laterals.0.bn.bias"),
        ("mmaction2", "backbone.slow_path.layer3_lateral.conv.weight", "trunk.laterals.3.conv.weight"),
        ("mmaction2", "roi_head.bbox_head.fc_cls.bias", "projection.bias"),
        ("pytorchvideo", "blocks.0.multipathway_blocks.1.norm.bias", "trunk.fast.stem.1.bias"),
        ("pytorchvideo", "blocks.3.multipathway_fusion.conv_fast_to_slow.weight", "trunk.laterals.3.conv.weight"),
        ("pytorchvideo", "model.blocks.1.multipathway_blocks.0.res_blocks.0.branch1_norm.bias",
         "trunk.slow.stages.0.0.shortcut.1.bias"),
        ("pytorchvideo", "blocks.4.res_blocks.2.branch2.conv_b.weight", "trunk.slow.stages.3.2.b.weight"),
        ("pytorchvideo", "detection_head.proj.weight", "projection.weight"),
        ("pytorchvideo", "blocks.7.proj.weight", None),
    ],
)  # fmt: skip
def test_names_are_translated_to_ours(peer: Peer, theirs: str, ours: str | None) -> None:
    assert our_name(peer, theirs) == ours


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("conv1_w", "s1.pathway0_stem.conv.weight"),
        ("t_res_conv1_bn_riv", "s1.pathway1_stem.bn.running_var"),
        ("res2_0_branch1_bn_rm", "s2.pathway0_res0.branch1_bn.running_mean"),
        ("t_res5_2_branch2c_bn_s", "s5.pathway1_res2.branch2.c_bn.weight"),
        ("t_res4_22_branch2c_bn_subsample_w", "s4_fuse.conv_f2s.weight"),
        ("t_res3_3_branch2c_bn_subsample_bn_b", "s3_fuse.bn.bias"),
        ("t_pool1_subsample_bn_rm", "s1_fuse.bn.running_mean"),
        ("nonlocal_conv4_13_out_b", "s4.pathway0_nonlocal13.conv_out.bias"),
        ("nonlocal_conv4_13_bn_s", "s4.pathway0_nonlocal13.bn.weight"),
        ("pred_b", "head.projection.bias"),
        ("something_else", "something_else"),
    ],
)
def test_caffe2_names_are_translated_to_those_of_pyslowfast(blob: str, name: str) -> None:
    assert caffe2_name(blob) == name
