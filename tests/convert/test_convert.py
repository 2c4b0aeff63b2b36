"""`slowfast convert`: round trips through other codebases' names, and differences that silently change results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import mmaction2_state, random_network, write
from torch import Tensor

from slowfast_core.convert.convert import convert
from slowfast_core.convert.names import Peer
from slowfast_core.data.loading.render import render
from slowfast_core.data.loading.sampling import View
from slowfast_core.errors import InputError
from slowfast_core.model.build import build_model
from slowfast_core.model.folder import read_checkpoint
from slowfast_core.model.weights import load_weights
from slowfast_core.recipe.load import Recipe, parse_recipe
from slowfast_core.recipe.schema import Clip, Model, NonLocal, Pixels

CLIP = Clip(T=4, tau=16, alpha=8)
TINY = Model(depth=50, width=8, beta=0.25, classes=7, slow_frames="linspace")
IMAGENET = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
MMACTION2 = {"slow_frames": "strided", "pixels": IMAGENET}
CONFIG = """
DATA: {{NUM_FRAMES: 32, SAMPLING_RATE: 2, MEAN: [0.45, 0.45, 0.45], STD: [0.225, 0.225, 0.225]{data}}}
SLOWFAST: {{ALPHA: {alpha}}}
DETECTION: {{ENABLE: {detect}}}
NONLOCAL: {{INSTANTIATION: softmax, POOL: [[[1, 2, 2]], [[1, 2, 2]], [[2, 2, 2]], [[1, 2, 2]]]}}
"""


def changed(model: Model = TINY, **fields: Any) -> Model:
    return Model(**{**model.model_dump(), **fields})


def recipe_of(model: Model, clip: Clip = CLIP) -> Recipe:
    kind = "ava" if model.head == "detect" else "kinetics"
    fields = {"clip": clip.model_dump(), "model": model.model_dump()}
    return parse_recipe({"name": "own", "data": {"name": "own", "format": kind}, **fields})


def converted(folder: Path) -> tuple[Recipe, torch.nn.Module]:
    recipe, labels = read_checkpoint(folder)
    assert len(labels) == recipe.model.classes
    network = build_model(recipe.model, recipe.clip).eval()
    network.load_state_dict(load_weights(folder / "model.safetensors"))
    return recipe, network


def logits(network: torch.nn.Module, *boxes: Tensor, frames: int = 32) -> Tensor:
    clips_BCTHW = torch.randn(2, 3, frames, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        result: Tensor = network(clips_BCTHW, *boxes)
    return result


def decisive(model: Model) -> dict[str, Any]:
    return model.model_dump(exclude={"dropout", "zero_init_last_bn", "head_pool"})


ROUND_TRIPS = {
    "pyth": ("pyslowfast", ".pyth", TINY),
    "pkl": ("pyslowfast", ".pkl", TINY),
    "pth": ("mmaction2", ".pth", changed(**MMACTION2)),
    "pth without lateral norm": ("mmaction2", ".pth", changed(**MMACTION2, lateral_norm=False)),
    "pth of two depths": ("mmaction2", ".pth", changed(**MMACTION2, depth=101, fast_depth=50)),
    "pkl non-local": ("pyslowfast", ".pkl", changed(non_local=NonLocal(attention="dot_product", pool_time=1))),
    "pyth of few temporal blocks": ("pyslowfast", ".pyth", changed(res4_temporal_blocks=2)),
    "pyth of R18": ("pyslowfast", ".pyth", changed(depth=18)),
    "pyth Slow-only": ("pyslowfast", ".pyth", changed(pathways="slow", slow_frames="strided", beta=1 / 8)),
}


@pytest.mark.parametrize(("peer", "suffix", "model"), ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_our_weights_survive_a_round_trip_through_the_names_of_another_codebase(
    peer: Peer, suffix: str, model: Model, tmp_path: Path
) -> None:
    network = random_network(model, CLIP)
    source = write(tmp_path / f"model{suffix}", peer, network)
    result, report = convert(peer, source, tmp_path / "out")
    assert report.fits
    assert report.mapped == len(network.state_dict())
    recipe, ours = converted(tmp_path / "out")
    assert decisive(recipe.model) == decisive(model)
    own, theirs = network.state_dict(), ours.state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in own.items())
    record = json.loads((tmp_path / "out" / "checkpoint.json").read_text())
    assert record["converted_from"]["file"] == source.name
    assert record["weights_digest"] == result.weights_digest


def test_the_columns_of_fast_come_first_in_mmaction2(tmp_path: Path) -> None:
    network = random_network(changed(**MMACTION2), CLIP)
    convert("mmaction2", write(tmp_path / "model.pth", "mmaction2", network), tmp_path / "out")
    _, ours = converted(tmp_path / "out")
    torch.testing.assert_close(logits(ours), logits(network))


@pytest.mark.parametrize(
    ("peer", "suffix", "slow"),
    [
        ("pyslowfast", ".pyth", [0, 4, 8, 13, 17, 22, 26, 31]),
        ("pyslowfast", ".pkl", [0, 4, 8, 13, 17, 22, 26, 31]),
        ("mmaction2", ".pth", [0, 4, 8, 12, 16, 20, 24, 28]),
    ],
)
def test_the_slow_frames_are_selected_as_in_the_other_codebase(
    peer: Peer, suffix: str, slow: list[int], tmp_path: Path
) -> None:
    network = random_network(changed(lateral_kernel=7), CLIP)
    convert(peer, write(tmp_path / f"model{suffix}", peer, network), tmp_path / "out")
    _, ours = converted(tmp_path / "out")
    clips_BCTHW = torch.arange(32.0).reshape(1, 1, 32, 1, 1).expand(1, 3, 32, 2, 2)
    assert ours.trunk.slow_frames(clips_BCTHW)[0, 0, :, 0, 0].tolist() == slow


def test_laterals_of_mmaction2_may_have_no_batch_norm(tmp_path: Path) -> None:
    network = random_network(changed(**MMACTION2, lateral_norm=False), CLIP)
    source = write(tmp_path / "model.pth", "mmaction2", network)
    assert "backbone.slow_path.conv1_lateral.bn.weight" not in torch.load(source, weights_only=False)["state_dict"]
    convert("mmaction2", source, tmp_path / "out")
    recipe, ours = converted(tmp_path / "out")
    assert not recipe.model.lateral_norm
    torch.testing.assert_close(logits(ours), logits(network))


@pytest.mark.parametrize(
    ("peer", "suffix", "classes", "pixels"),
    [
        ("pyslowfast", ".pyth", 7, ("rgb", 0.45, 0.225)),
        ("mmaction2", ".pth", 7, ("rgb", None, None)),
        ("pyslowfast", ".pyth", 157, ("bgr", 0.45, 0.225)),
        ("pyslowfast", ".pyth", 174, ("bgr", 0.45, 0.225)),
    ],
)
def test_pixels_are_normalised_as_in_the_other_codebase(
    peer: Peer, suffix: str, classes: int, pixels: tuple[str, float, float], tmp_path: Path
) -> None:
    network = random_network(changed(classes=classes), CLIP)
    convert(peer, write(tmp_path / f"model{suffix}", peer, network), tmp_path / "out")
    recipe, _ = converted(tmp_path / "out")
    frame_THWC = torch.tensor([10, 100, 200], dtype=torch.uint8).reshape(1, 1, 1, 3)
    seen_C = render(frame_THWC, View(0, 0, 1, 1, 1, 1), recipe.model.pixels).flatten()
    rgb_C = torch.tensor([10.0, 100, 200])
    order, mean, std = pixels
    if peer == "mmaction2":
        expected_C = (rgb_C - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    else:
        expected_C = ((rgb_C.flip(0) if order == "bgr" else rgb_C) / 255 - mean) / std
    torch.testing.assert_close(seen_C, expected_C)


@pytest.mark.parametrize(
    ("dataset", "data", "order"),
    [
        ("kinetics", "", "rgb"),
        ("kinetics", ", REVERSE_INPUT_CHANNEL: true", "bgr"),
        ("charades", "", "bgr"),
        ("ssv2", ", REVERSE_INPUT_CHANNEL: false", "bgr"),
        ("charades", ", REVERSE_INPUT_CHANNEL: true", "rgb"),
        ("ssv2", ", REVERSE_INPUT_CHANNEL: true", "rgb"),
    ],
)
def test_the_channel_order_depends_on_the_data_set_and_its_reversal_in_pyslowfast(
    dataset: str, data: str, order: str, tmp_path: Path
) -> None:
    network = random_network(changed(classes=157), CLIP)
    config = CONFIG.format(alpha=8, detect=False, data=data) + f"TRAIN: {{DATASET: {dataset}}}\n"
    convert("pyslowfast", write(tmp_path / "m.pyth", "pyslowfast", network, config), tmp_path / "out")
    recipe, _ = converted(tmp_path / "out")
    assert recipe.model.pixels.order == order


def test_detection_of_mmaction2_has_an_unused_class_and_an_undilated_res5(tmp_path: Path) -> None:
    model = changed(**MMACTION2, head="detect", classes=80, roi_size=8, res5_dilation=1, lateral_kernel=7)
    network = random_network(model, Clip(T=8, tau=8, alpha=4))
    state = mmaction2_state(network.state_dict(), "roi_head.bbox_head")
    for leaf in ("weight", "bias"):
        name = f"roi_head.bbox_head.fc_cls.{leaf}"
        state[name] = torch.cat([torch.full_like(state[name][:1], 9), state[name]])
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    convert("mmaction2", tmp_path / "model.pth", tmp_path / "out")
    recipe, ours = converted(tmp_path / "out")
    assert decisive(recipe.model) == decisive(model)
    boxes_K5 = torch.tensor([[0, 2.0, 2, 30, 30], [1, 5, 4, 28, 31]])
    found = logits(ours, boxes_K5)
    assert found.shape == (2, 80)
    torch.testing.assert_close(found, logits(network, boxes_K5))


def mmaction2_block(x_BCTHW: Tensor, weights: dict[str, Tensor], scale: bool) -> Tensor:
    """mmcv's NonLocal3d in its mode `embedded_gaussian`, position by position: pooled after the convolutions."""

    def convolved(name: str) -> Tensor:
        return torch.einsum("dc,bcthw->bdthw", weights[f"{name}.weight"].flatten(1), x_BCTHW) + weights[
            f"{name}.bias"
        ].reshape(1, -1, 1, 1, 1)

    def pooled(y_BDTHW: Tensor) -> Tensor:
        windows = y_BDTHW.unfold(3, 2, 2).unfold(4, 2, 2)
        return windows.flatten(5).max(dim=5).values.flatten(2)

    theta_BDQ, phi_BDK, g_BDK = convolved("theta").flatten(2), pooled(convolved("phi")), pooled(convolved("g"))
    pairs_BQK = torch.einsum("bdq,bdk->bqk", theta_BDQ, phi_BDK) / (theta_BDQ.shape[1] ** 0.5 if scale else 1)
    shares_BQK = (pairs_BQK - pairs_BQK.amax(dim=2, keepdim=True)).exp()
    attention_BQK = shares_BQK / shares_BQK.sum(dim=2, keepdim=True)
    y_BDTHW = torch.einsum("bqk,bdk->bdq", attention_BQK, g_BDK).unflatten(2, x_BCTHW.shape[2:])
    out_BCTHW = torch.einsum("cd,bdthw->bcthw", weights["out.weight"].flatten(1), y_BDTHW)
    shape = (1, -1, 1, 1, 1)
    normal = (out_BCTHW - weights["bn.running_mean"].reshape(shape)) / (
        weights["bn.running_var"].reshape(shape) + 1e-5
    ).sqrt()
    return x_BCTHW + normal * weights["bn.weight"].reshape(shape) + weights["bn.bias"].reshape(shape)


@pytest.mark.parametrize("scale", [True, False, None])  # None: a file without configuration has mmcv's default, True
def test_non_local_blocks_of_mmaction2_pool_after_their_convolutions(scale: bool | None, tmp_path: Path) -> None:
    model = changed(**MMACTION2, non_local=NonLocal(res3=(1,), res4=(2, 5), pool_time=1, pool_after=True))
    network = random_network(model, CLIP)
    for name, tensor in network.state_dict().items():
        if name.endswith("out.bias"):
            tensor.zero_()
        elif ".theta.weight" in name:
            tensor.mul_(30)  # attention that is far from uniform
    source = write(tmp_path / "m.pth", "mmaction2", network)
    content = torch.load(source, weights_only=False)
    content["state_dict"] = {n: t for n, t in content["state_dict"].items() if not n.endswith("conv_out.conv.bias")}
    if scale is not None:
        slow = f"slow_pathway=dict(non_local_cfg=dict(sub_sample=True, use_scale={scale}, mode='embedded_gaussian'))"
        content["meta"]["cfg"] = f"model = dict(backbone=dict(type='ResNet3dSlowFast', {slow}))"
    torch.save(content, source)
    convert("mmaction2", source, tmp_path / "out")
    recipe, ours = converted(tmp_path / "out")
    assert recipe.model.non_local == model.non_local
    block, theirs = (each.trunk.slow.stages[2].nonlocal5 for each in (ours, network))
    x_BCTHW = torch.randn(1, block.theta.in_channels, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected_BCTHW = mmaction2_block(x_BCTHW, theirs.state_dict(), scale is not False)
        torch.testing.assert_close(block(x_BCTHW), expected_BCTHW, rtol=1e-4, atol=1e-5)


def test_non_local_blocks_of_mmaction2_without_pooling_are_refused(tmp_path: Path) -> None:
    network = random_network(changed(**MMACTION2, non_local=NonLocal(res4=(2,), pool_time=1)), CLIP)
    source = write(tmp_path / "m.pth", "mmaction2", network)
    content = torch.load(source, weights_only=False)  # only pooled convolutions are in a sequence, with a number
    content["state_dict"] = {
        name.replace("phi.0.", "phi.").replace("g.0.", "g."): t for name, t in content["state_dict"].items()
    }
    torch.save(content, source)
    with pytest.raises(InputError, match="sub_sample"):
        convert("mmaction2", source, tmp_path / "out")


@pytest.mark.parametrize(("suffix", "aligned"), [(".pyth", True), (".pkl", False)])
def test_detection_of_pyslowfast_has_a_dilated_res5(suffix: str, aligned: bool, tmp_path: Path) -> None:
    network = random_network(changed(head="detect", classes=80), CLIP)
    _, report = convert("pyslowfast", write(tmp_path / f"m{suffix}", "pyslowfast", network), tmp_path / "out")
    recipe, _ = converted(tmp_path / "out")
    expected = {"head": "detect", "roi_size": 7, "roi_aligned": aligned, "res5_dilation": 2, "slow_frames": "linspace"}
    assert recipe.model.model_dump(include=set(expected)) == expected
    assert "model.head detect" in report.assumed  # 80 classes alone do not prove it
    assert recipe.data.format == "ava"


@pytest.mark.parametrize("suffix", [".pyth", ".pkl", ".pth"])
@pytest.mark.parametrize(("kernel", "clip"), [(5, CLIP), (7, Clip(T=8, tau=8, alpha=4))])
def test_the_lateral_kernel_is_read_from_the_weights(suffix: str, kernel: int, clip: Clip, tmp_path: Path) -> None:
    network = random_network(changed(lateral_kernel=kernel), clip)
    peer: Peer = "mmaction2" if suffix == ".pth" else "pyslowfast"
    _, report = convert(peer, write(tmp_path / f"m{suffix}", peer, network), tmp_path / "out")
    recipe, _ = converted(tmp_path / "out")
    sampling = {"short": "loop"} if peer == "mmaction2" else {"fps": 30.0}
    assert (recipe.model.lateral_kernel, recipe.clip) == (kernel, clip.model_copy(update=sampling))
    assert report.assumed == (f"clip {clip.T}x{clip.tau}, alpha {clip.alpha}",)


def test_the_configuration_in_a_pyslowfast_file_is_used(tmp_path: Path) -> None:
    network = random_network(changed(classes=80, non_local=NonLocal()), CLIP)
    config = CONFIG.format(alpha=4, detect=False, data=", REVERSE_INPUT_CHANNEL: true")
    _, report = convert("pyslowfast", write(tmp_path / "m.pyth", "pyslowfast", network, config), tmp_path / "out")
    recipe, _ = converted(tmp_path / "out")
    assert recipe.clip == Clip(T=8, tau=8, alpha=4, fps=30)
    assert recipe.model.head == "classify"
    assert recipe.model.pixels.order == "bgr"
    assert recipe.model.non_local == NonLocal(attention="softmax", pool_time=2)
    assert report.assumed == ()


def test_a_recipe_that_matches_the_weights_is_used(tmp_path: Path) -> None:
    source = write(tmp_path / "m.pyth", "pyslowfast", random_network(TINY, CLIP))
    clip = Clip(T=2, tau=16, alpha=16)
    recipe = recipe_of(TINY, clip)
    _, report = convert("pyslowfast", source, tmp_path / "out", recipe)
    assert converted(tmp_path / "out")[0] == recipe
    assert report.assumed == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 101}, "model.depth is 50, not 101"),
        ({"slow_frames": "strided"}, "model.slow_frames is linspace, not strided"),
        ({"pixels": IMAGENET}, "model.pixels is"),
        ({"lateral_norm": False}, "model.lateral_norm is True, not False"),
        ({"classes": 8}, "model.classes is 7, not 8"),
        ({"beta": 0.5}, "model.fast_width is 2, not 4"),
    ],
)
def test_a_recipe_that_contradicts_the_weights_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "m.pyth", "pyslowfast", random_network(TINY, CLIP))
    with pytest.raises(InputError, match=message):
        convert("pyslowfast", source, tmp_path / "out", recipe_of(changed(**fields)))
    assert [path.name for path in tmp_path.iterdir()] == ["m.pyth"]


def test_an_unchanged_conversion_is_skipped_and_other_folders_are_not_replaced(tmp_path: Path) -> None:
    source = write(tmp_path / "m.pyth", "pyslowfast", random_network(TINY, CLIP))
    assert convert("pyslowfast", source, tmp_path / "out")[0].status == "done"
    assert convert("pyslowfast", source, tmp_path / "out")[0].status == "unchanged"
    (tmp_path / "own").mkdir()
    with pytest.raises(InputError, match="is not a converted checkpoint"):
        convert("pyslowfast", source, tmp_path / "own")
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg"))
    assert convert("pyslowfast", source, tmp_path / "out", labels=names)[0].status == "done"
    assert read_checkpoint(tmp_path / "out")[1] == tuple("abcdefg")
