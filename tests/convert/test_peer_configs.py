"""`slowfast convert` of files with the configuration of their training: it is obeyed, or the file is refused.

Golden numbers: loops over single frames and cells, or formulas written out here, without the project's pooling code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import mmaction2_state, pyslowfast_state, random_network, write
from torch import Tensor, nn
from typer.testing import CliRunner

from pipelines.cli.library import app
from slowfast_core.convert.config import python_config
from slowfast_core.convert.convert import convert, translate
from slowfast_core.convert.names import Peer
from slowfast_core.convert.pickles import PeerFile
from slowfast_core.errors import InputError
from slowfast_core.model.build import build_model
from slowfast_core.model.folder import read_checkpoint
from slowfast_core.model.roi_align import roi_align
from slowfast_core.model.weights import load_weights
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.recipe.schema import Clip, Model, Pixels

IMAGENET = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CLIP = Clip(T=4, tau=16, alpha=8)
DETECTOR = Model(
    depth=50,
    width=8,
    beta=0.25,
    classes=80,
    head="detect",
    roi_size=8,
    res5_dilation=1,
    lateral_kernel=7,
    pixels=IMAGENET,
)
BOXES_K5 = torch.tensor([[0, 2.0, 2, 30, 30], [0, 5, 4, 28, 31]])
MMACTION2_CONFIG = """
model = dict(
    type='FastRCNN',
    backbone=dict(
        type='mmaction.ResNet3dSlowFast', resample_rate=8, speed_ratio=8,
        slow_pathway=dict(type='resnet3d', dilations=(1, 1, 1, 1), spatial_strides=(1, 2, 2, 1)),
        fast_pathway=dict(type='resnet3d', spatial_strides=(1, 2, 2, 1))),
    roi_head=dict(
        bbox_roi_extractor=dict(type='SingleRoIExtractor3D', output_size=8, with_temporal_pool=True{extractor}),
        bbox_head=dict(type='BBoxHeadAVA', background_class=True, multilabel=True{head})))
val_pipeline = [
    dict(type='SampleAVAFrames', clip_len=32, frame_interval=2, test_mode=True),
    dict(type='Resize', scale=(-1, 256))]
"""


def write_detector(path: Path, network: nn.Module, config: str | None) -> Path:
    """An `.pth` file of MMAction2 with the unused first class of its detector."""
    state = mmaction2_state(network.state_dict(), "roi_head.bbox_head")
    for name in [name for name in state if "fc_cls" in name]:
        state[name] = torch.cat([torch.zeros_like(state[name][:1]), state[name]])
    torch.save({"meta": {"epoch": 10} | ({"cfg": config} if config else {}), "state_dict": state}, path)
    return path


def converted(folder: Path) -> tuple[Recipe, nn.Module]:
    recipe, _ = read_checkpoint(folder)
    network = build_model(recipe.model, recipe.clip).eval()
    network.load_state_dict(load_weights(folder / "model.safetensors"))
    return recipe, network


def clips(frames: int = 32, side: int = 32) -> Tensor:
    return torch.randn(1, 3, frames, side, side, generator=torch.Generator().manual_seed(2))


def test_temporal_max_of_mmaction2_is_the_largest_value_of_any_frame(tmp_path: Path) -> None:
    network = random_network(DETECTOR, CLIP)
    config = MMACTION2_CONFIG.format(extractor=", temporal_pool_mode='max'", head=", focal_alpha=3.0, focal_gamma=1.0")
    convert("mmaction2", write_detector(tmp_path / "m.pth", network, config), tmp_path / "out")
    recipe, ours = converted(tmp_path / "out")
    assert recipe.model.head_temporal_pool == "max"
    assert recipe.clip == CLIP.model_copy(update={"fps": 30.0})
    with torch.no_grad():
        pooled = []
        for map_BCTHW in network.trunk.features(clips()):
            largest_BCHW = map_BCTHW[:, :, 0]
            for t in range(1, map_BCTHW.shape[2]):
                largest_BCHW = torch.where(map_BCTHW[:, :, t] > largest_BCHW, map_BCTHW[:, :, t], largest_BCHW)
            pooled.append(roi_align(largest_BCHW, BOXES_K5, 8, 1 / 16).flatten(2).max(dim=2).values)
        expected_KA = torch.cat(pooled, dim=1) @ network.projection.weight.T + network.projection.bias
        found_KA = ours(clips(), BOXES_K5)
        assert not torch.allclose(found_KA, network(clips(), BOXES_K5), atol=1e-3)
    torch.testing.assert_close(found_KA, expected_KA)


@pytest.mark.parametrize("mode", ["", ", temporal_pool_mode='avg'"])
def test_a_configuration_of_mmaction2_with_the_mean_over_time_is_obeyed(mode: str, tmp_path: Path) -> None:
    config = MMACTION2_CONFIG.format(extractor=mode, head="")
    source = write_detector(tmp_path / "m.pth", random_network(DETECTOR, CLIP), config)
    _, report = convert("mmaction2", source, tmp_path / "out")
    assert converted(tmp_path / "out")[0].model.head_temporal_pool == "mean"
    assert not [line for line in report.assumed if "head_temporal_pool" in line]


def test_the_temporal_pooling_of_a_file_without_configuration_is_reported_as_assumed(tmp_path: Path) -> None:
    source = write_detector(tmp_path / "m.pth", random_network(DETECTOR, CLIP), None)
    _, report = convert("mmaction2", source, tmp_path / "out")
    assert "model.head_temporal_pool mean" in report.assumed


@pytest.mark.parametrize(
    ("extractor", "head", "key"),
    [
        (", with_global=True", "", "with_global True"),
        (", roi_layer_type='RoIPool'", "", "roi_layer_type 'RoIPool'"),
        ("", ", mlp_head=True", "mlp_head True"),
        ("", ", spatial_pool_type='avg'", "spatial_pool_type 'avg'"),
    ],
)
def test_a_configuration_of_mmaction2_that_no_network_computes_is_refused(
    extractor: str, head: str, key: str, tmp_path: Path
) -> None:
    config = MMACTION2_CONFIG.format(extractor=extractor, head=head)
    source = write_detector(tmp_path / "m.pth", random_network(DETECTOR, CLIP), config)
    with pytest.raises(InputError, match=key):
        convert("mmaction2", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a = dict(b=dict(c=[1, -2.5], d='x'), e=None)", {"a.b.c": [1, -2.5], "a.b.d": "x", "a.e": None}),
        ("a = {'b': 1}\nimport os\nc = os.system('true')", {"a.b": 1, "c": None}),
        ("a = dict(", {}),
        ("(" * 5000, {}),
        ("a = " + "-" * 100_000 + "1", {}),
        ("a = 1" + " + 1" * 100_000, {}),
        ("a = 1\0", {}),
    ],
)
def test_a_configuration_in_python_is_parsed_without_running_it(text: str, found: dict[str, Any]) -> None:
    assert python_config(text) == found or (not found and set(python_config(text).values()) <= {None})


CLASSIFIER = Model(depth=50, width=8, beta=0.25, classes=7, slow_frames="linspace")


def window_logits(network: nn.Module, frames: Tensor) -> Tensor:
    """The logits `[P, A]` of each window of 7 x 7 cells of the res5 maps, cell by cell."""
    slow, fast = (x_BCTHW[0].double() for x_BCTHW in network.trunk.features(frames))
    rows = []
    for y in range(slow.shape[2] - 6):
        for x in range(slow.shape[3] - 6):
            cells = [(j, i) for j in range(y, y + 7) for i in range(x, x + 7)]
            means = [sum(map_CTHW[:, :, j, i].mean(dim=1) for j, i in cells) / 49 for map_CTHW in (slow, fast)]
            rows.append(network.projection.weight.double() @ torch.cat(means) + network.projection.bias.double())
    return torch.stack(rows)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_fully_convolutional_head_averages_the_scores_of_the_windows(multi_label: bool) -> None:
    fields = CLASSIFIER.model_dump() | {"multi_label": multi_label}
    network = random_network(Model(**fields), CLIP)
    for pool in ("convolutional", "convolutional_logits"):
        ours = build_model(Model(**{**fields, "head_pool": pool}), CLIP).eval()
        ours.load_state_dict(network.state_dict())
        score = torch.sigmoid if multi_label else (lambda logits: logits.softmax(dim=-1))
        with torch.no_grad():
            for parameter in (network.projection.weight, ours.projection.weight):
                parameter.mul_(50)  # windows that differ clearly
            logits_PA = window_logits(network, clips(side=256))
            assert len(logits_PA) == 4
            expected_A = score(logits_PA).mean(0) if pool == "convolutional" else score(logits_PA.mean(0))
            found_A = score(ours(clips(side=256))[0])
            assert (score(network(clips(side=256))[0]) - expected_A).abs().max() > 1e-4  # the mean of all cells
            torch.testing.assert_close(found_A.double(), expected_A, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours(clips(side=224)), network(clips(side=224)))
            for parameter in (network.projection.weight, ours.projection.weight):
                parameter.div_(50)


@pytest.mark.parametrize(
    ("peer", "config", "pool"),
    [
        ("pyslowfast", None, "convolutional"),
        ("pyslowfast", "MULTIGRID: {SHORT_CYCLE: false}", "convolutional"),
        ("pyslowfast", "MULTIGRID: {SHORT_CYCLE: true}", "global"),  # pools adaptively
        ("mmaction2", None, "global"),
    ],
)
def test_the_pooling_of_the_head_is_that_of_the_other_codebase(
    peer: Peer, config: str | None, pool: str, tmp_path: Path
) -> None:
    source = write(
        tmp_path / ("m.pth" if peer == "mmaction2" else "m.pyth"), peer, random_network(CLASSIFIER, CLIP), config
    )
    convert(peer, source, tmp_path / "out")
    assert converted(tmp_path / "out")[0].model.head_pool == pool


# The keys of the published configurations that decide about a test, and the fields that the converted model must have.
PYSLOWFAST_CONFIG = """
DATA: {{NUM_FRAMES: 64, SAMPLING_RATE: 2, TEST_CROP_SIZE: {size}, TARGET_FPS: 30, REVERSE_INPUT_CHANNEL: true{data}}}
SLOWFAST: {{ALPHA: 4}}
RESNET: {{SPATIAL_STRIDES: {strides}, SPATIAL_DILATIONS: {dilations}, STRIDE_1X1: false, NUM_GROUPS: 1}}
MODEL: {{ARCH: slowfast, HEAD_ACT: {act}}}
DETECTION: {{ENABLE: {detect}, ALIGNED: true, ROI_XFORM_RESOLUTION: 7, SPATIAL_SCALE_FACTOR: 16}}
TEST: {{DATASET: {dataset}, NUM_ENSEMBLE_VIEWS: {views}, NUM_SPATIAL_CROPS: {crops}}}
MULTIGRID: {{SHORT_CYCLE: false}}
"""
KINETICS_CONFIG: dict[str, Any] = {
    "size": 256, "data": "", "act": "softmax", "detect": "false", "dataset": "kinetics", "views": 10, "crops": 3,
    "strides": "[[1, 1], [2, 2], [2, 2], [2, 2]]", "dilations": "[[1, 1], [1, 1], [1, 1], [1, 1]]",
}  # fmt: skip
CHARADES_CONFIG = KINETICS_CONFIG | {"dataset": "charades", "act": "sigmoid", "data": ", ENSEMBLE_METHOD: max"}
SSV2_CONFIG = KINETICS_CONFIG | {"dataset": "ssv2", "views": 1, "crops": 1}
AVA_SHORT_CONFIG = KINETICS_CONFIG | {
    "dataset": "ava", "act": "sigmoid", "detect": "true", "size": 224,
    "strides": "[[1, 1], [2, 2], [2, 2], [1, 1]]", "dilations": "[[1, 1], [1, 1], [1, 1], [2, 2]]",
}  # fmt: skip
PROTOCOLS: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "Kinetics": (
        KINETICS_CONFIG,
        400,
        {"evaluate": {"clips": 10, "crops": 3, "size": 256, "aggregation": "mean", "starts": "pyslowfast"},
         "model": {"multi_label": False, "head_pool": "convolutional"}, "clip": {"fps": 30.0, "sampling": "dense"},
         "data": {"format": "kinetics"}},
    ),
    "Kinetics with offsets": (
        KINETICS_CONFIG | {"data": ", USE_OFFSET_SAMPLING: true"}, 400, {"evaluate": {"starts": "offset"}},
    ),
    "Charades": (
        CHARADES_CONFIG,
        157,
        {"evaluate": {"clips": 10, "crops": 3, "size": 256, "aggregation": "max", "starts": "rounded"},
         "model": {"multi_label": True, "pixels": Pixels(order="rgb").model_dump(mode="json")},
         "clip": {"fps": None, "sampling": "dense"}, "data": {"format": "charades"}},
    ),
    "Something-Something": (
        SSV2_CONFIG,
        174,
        {"evaluate": {"clips": 1, "crops": 1, "size": 256, "aggregation": "mean"},
         "clip": {"fps": None, "sampling": "segments"}, "data": {"format": "something"}},
    ),
    "AVA SHORT": (
        AVA_SHORT_CONFIG, 80,
        {"evaluate": {"size": 224, "protocol": "pyslowfast"},
         "model": {"head": "detect", "res5_dilation": 2, "roi_aligned": True},
         "clip": {"fps": 30.0}, "data": {"format": "ava"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_test_of_a_pyslowfast_configuration_is_read(name: str, tmp_path: Path) -> None:
    config, classes, expected = PROTOCOLS[name]
    clip = Clip(T=16, tau=8, alpha=4)
    head = "detect" if config["detect"] == "true" else "classify"
    network = random_network(Model(**CLASSIFIER.model_dump() | {"classes": classes, "head": head}), clip)
    source = write(tmp_path / "m.pyth", "pyslowfast", network, PYSLOWFAST_CONFIG.format(**config))
    _, report = convert("pyslowfast", source, tmp_path / "out")
    assert report.assumed == ()
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "out"), "--json"])
    tree = json.loads(shown.stdout)
    assert {key: tree["clip"][key] for key in ("T", "tau", "alpha")} == {"T": 16, "tau": 8, "alpha": 4}
    for section, fields in expected.items():
        assert {key: tree[section][key] for key in fields} == fields


def test_a_recipe_of_this_project_fits_a_file_with_its_configuration(tmp_path: Path) -> None:
    ours = {"something/slowfast_16x8_r50_v2": SSV2_CONFIG, "charades/slowfast_16x8_r50_pyslowfast": CHARADES_CONFIG}
    for name, config in ours.items():
        recipe = load_recipe(name)
        with torch.device("meta"):
            state = pyslowfast_state(build_model(recipe.model, recipe.clip).state_dict())
        for given in (recipe, None):
            found, report = translate("pyslowfast", PeerFile(state, PYSLOWFAST_CONFIG.format(**config)), given)
            assert report.fits
            assert (found.clip, found.model.multi_label) == (recipe.clip, recipe.model.multi_label)
            assert found.test == recipe.evaluate


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"act": "none"}, "MODEL.HEAD_ACT 'none'"),
        ({"data": ", ENSEMBLE_METHOD: median"}, "DATA.ENSEMBLE_METHOD 'median'"),
        ({"crops": 5}, "TEST.NUM_SPATIAL_CROPS 5"),
        ({"strides": "[[1, 1], [2, 2], [2, 2], [1, 1]]"}, "RESNET.SPATIAL_STRIDES"),
        ({"dilations": "[[1, 1], [1, 1], [1, 1], [2, 2]]"}, "RESNET.SPATIAL_DILATIONS"),
    ],
)
def test_a_pyslowfast_configuration_that_no_network_computes_is_refused(
    changed: dict[str, Any], key: str, tmp_path: Path
) -> None:
    config = PYSLOWFAST_CONFIG.format(**KINETICS_CONFIG | changed)
    source = write(tmp_path / "m.pyth", "pyslowfast", random_network(CLASSIFIER, CLIP), config)
    with pytest.raises(InputError, match=re.escape(key)):
        convert("pyslowfast", source, tmp_path / "out")


MMACTION2_CLASSIFIER = """
model = dict(
    type='Recognizer3D',
    backbone=dict(type='ResNet3dSlowFast', resample_rate=8, speed_ratio=8),
    cls_head=dict(type='SlowFastHead', spatial_type='avg', average_clips={average}))
test_pipeline = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len=32, frame_interval=2, num_clips={clips}, test_mode=True{more}),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='{crop}', crop_size={size})]
"""


@pytest.mark.parametrize(
    ("given", "fields", "clip"),
    [
        ({}, {"clips": 10, "crops": 3, "size": 256, "starts": "rounded"}, {"short": "loop", "fps": None}),
        ({"clips": 1, "crop": "CenterCrop", "size": 224}, {"clips": 1, "crops": 1, "size": 224}, {"short": "loop"}),
        (
            {"more": ", out_of_bound_opt='repeat_last', target_fps=30"},
            {"starts": "offset"},
            {"short": "repeat", "fps": 30},
        ),
    ],
)
def test_the_test_of_an_mmaction2_configuration_is_read(
    given: dict[str, Any], fields: dict[str, Any], clip: dict[str, Any], tmp_path: Path
) -> None:
    usual = {"average": "'prob'", "clips": 10, "crop": "ThreeCrop", "size": 256, "more": ""}
    network = random_network(CLASSIFIER, CLIP)
    source = write(tmp_path / "m.pth", "mmaction2", network)
    content = torch.load(source, weights_only=False)
    content["meta"]["cfg"] = MMACTION2_CLASSIFIER.format(**usual | given)
    torch.save(content, source)
    _, report = convert("mmaction2", source, tmp_path / "out")
    recipe, _ = read_checkpoint(tmp_path / "out")
    assert recipe.evaluate.model_dump(include=set(fields)) == fields
    assert recipe.clip.model_dump(include=set(clip)) == clip
    small = any("from a short side of 256" in line for line in report.assumed)
    assert small == (given.get("size") == 224)
