"""A network that is prepared for inference gives the same outputs as before, in either precision.

B clips, C channels, T frames, H height, W width, K boxes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slowfast_core.errors import InputError
from slowfast_core.evaluation.scoring import Scorer
from slowfast_core.model import folding
from slowfast_core.model.blocks import Basic, Bottleneck
from slowfast_core.model.build import build_model
from slowfast_core.model.detection import Detector
from slowfast_core.model.folding import FoldedConv, FoldedTrunk, cpu_has_bf16, for_inference, inference_dtype
from slowfast_core.model.slowfast import Classifier
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.recipe.load import Clip, Model, load_recipe, parse_recipe

CLIP = Clip(T=2, tau=4, alpha=4)
CPU = torch.device("cpu")


def random_network(**changed: Any) -> Classifier | Detector:
    """A network with non-trivial batch-norm statistics and blocks that are not the identity."""
    torch.manual_seed(0)
    model = Model.model_validate({"depth": 18, "width": 8, "beta": 0.25, "classes": 5, **changed})
    network = build_model(model, CLIP)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.3, 1)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    nn.init.normal_(network.projection.weight, std=0.2)
    return network.eval()


def inputs(network: Classifier | Detector) -> list[Tensor]:
    clips_BCTHW = torch.randn(2, 3, CLIP.fast_frames, 64, 64)
    if isinstance(network, Classifier):
        return [clips_BCTHW]
    return [clips_BCTHW, torch.tensor([[0, 3.0, 4, 60, 50], [1, 10, 20, 30, 60], [1, 0, 0, 64, 64]])]


VARIANTS: list[dict[str, Any]] = [
    {},
    {"depth": 50},
    {"pathways": "slow", "depth": 50},
    {"pathways": "fast"},
    {"lateral_norm": False},
    {"lateral": "ttoc_concat"},
    {"lateral": "none"},
    {"fast_input": "difference"},
    {"non_local": {"res4": [1]}, "slow_frames": "linspace"},
    {"non_local": {"res3": [1], "res4": [1], "attention": "dot_product"}, "depth": 50},
    {"head": "detect"},
    {"head": "detect", "depth": 50},
]


@pytest.mark.parametrize("one_dnn", [True, False])
@pytest.mark.parametrize("changed", VARIANTS, ids=str)
@torch.inference_mode()
def test_folding_keeps_the_outputs(changed: dict[str, Any], one_dnn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(**changed)
    given = inputs(network)
    expected = network(*given)
    assert 0.05 < expected.std() < 20
    copies = [tensor.clone() for tensor in given]
    if not one_dnn:  # the path that a GPU takes
        monkeypatch.setattr(folding, "has_one_dnn", lambda: False)
    folded = for_inference(network)
    torch.testing.assert_close(folded(*given), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(folded(*given), expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(now, before) for now, before in zip(given, copies, strict=True))


@torch.inference_mode()
def test_reordered_weights_work_for_other_input_sizes() -> None:
    """oneDNN's layout of the weights depends on the size of the first input."""
    plain, folded = random_network(depth=50), for_inference(random_network(depth=50))
    for batch, size in ((1, 64), (3, 96), (2, 33)):
        clips_BCTHW = torch.randn(batch, 3, CLIP.fast_frames, size, size)
        torch.testing.assert_close(folded(clips_BCTHW), plain(clips_BCTHW), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", VARIANTS, ids=str)
def test_every_convolution_is_folded(changed: dict[str, Any]) -> None:
    network = random_network(**changed)
    convolutions = sum(isinstance(m, nn.Conv3d) for m in network.modules())
    folded = list(for_inference(network).modules())
    assert sum(isinstance(m, FoldedConv) for m in folded) == convolutions
    assert not any(isinstance(m, nn.Conv3d | nn.BatchNorm3d | nn.ReLU | Basic | Bottleneck) for m in folded)


@pytest.mark.parametrize("changed", [{}, {"non_local": {"res4": [1]}}, {"head": "detect"}], ids=str)
@torch.inference_mode()
def test_a_bf16_trunk_is_close_to_fp32(changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds for emulated bf16, too; the head and the boxes stay fp32."""
    network = random_network(**changed)
    given = inputs(network)
    expected = network(*given)
    if not cpu_has_bf16():
        monkeypatch.setattr(folding, "inference_dtype", lambda *_: torch.bfloat16)
        monkeypatch.setattr(folding, "has_one_dnn", lambda: False)
    folded = for_inference(network, "bf16")
    assert isinstance(folded.trunk, FoldedTrunk)
    found = folded(*given)
    assert (folded.trunk.dtype, found.dtype) == (torch.bfloat16, torch.float32)
    assert 0 < (found - expected).abs().max() < 0.1 * expected.std()


def test_bf16_is_used_only_if_the_device_supports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(folding, "cpu_has_bf16", lambda has=has: has)
        assert inference_dtype("bf16", CPU) == dtype
        assert inference_dtype("fp32", CPU) == torch.float32


def test_the_scorer_uses_the_folded_network(tmp_path: Path) -> None:
    recipe = load_recipe("demo")
    weights = build_model(recipe.model, recipe.clip).state_dict()
    save_weights(tmp_path / "model.safetensors", weights)
    record = f', "labels": ["a"], "weights_digest": "{weights_digest(weights)}"}}'
    (tmp_path / "checkpoint.json").write_text(recipe.to_json()[:-1] + record)
    assert isinstance(Scorer(tmp_path).network.trunk, FoldedTrunk)


def test_precision_is_fp32_or_bf16() -> None:
    tree: dict[str, Any] = {"name": "x", "data": {"name": "x"}}
    assert parse_recipe(tree).compute.precision == "fp32"
    assert parse_recipe({**tree, "compute": {"precision": "bf16"}}).compute.precision == "bf16"
    with pytest.raises(InputError, match=r"compute\.precision: .*'fp32'.*'bf16'.*'fp16'"):
        parse_recipe({**tree, "compute": {"precision": "fp8"}})
