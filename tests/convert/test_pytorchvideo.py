"""Networks of PyTorchVideo and ours with their converted weights have the same logits, to 1e-5.

PyTorchVideo needs RoIAlign of torchvision, which is not installed: a module with our RoIAlign replaces it.
B clips, C channels, T frames, H height, W width, K boxes, A classes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slowfast_core.convert.convert import Report, convert
from slowfast_core.model.build import build_model
from slowfast_core.model.folder import read_checkpoint
from slowfast_core.model.roi_align import roi_align
from slowfast_core.model.weights import load_weights
from slowfast_core.recipe.schema import Clip

SIZE = 64
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
Hub = Callable[..., nn.Module]


class RoIAlign(nn.Module):
    """With torchvision's defaults: no half-pixel shift."""

    def __init__(self, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int) -> None:
        super().__init__()
        assert sampling_ratio == 0
        self.size, self.scale = output_size[0], spatial_scale

    def forward(self, maps_NCHW: Tensor, boxes_K5: Tensor) -> Tensor:
        return roi_align(maps_NCHW, boxes_K5, self.size, self.scale, aligned=False)


@pytest.fixture(scope="module")
def hub() -> Iterator[Any]:
    """`pytorchvideo.models.hub`, imported with the replacement of torchvision."""
    torchvision, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
    torchvision.ops, ops.RoIAlign = ops, RoIAlign  # type: ignore[attr-defined]
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchvision", torchvision)
        patch.setitem(sys.modules, "torchvision.ops", ops)
        from pytorchvideo.models.hub import resnet, slowfast

        yield {**vars(resnet), **vars(slowfast)}
    torch.set_num_threads(threads)


def randomise(network: nn.Module) -> nn.Module:
    """Set random statistics of batch norm, small enough that logits stay near 1 after a hundred layers."""
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm3d):
            high = 0.3 if name.endswith("norm_c") else 1.0
            nn.init.uniform_(module.weight, high / 2, high)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.AvgPool3d) and module.kernel_size[1:] == (7, 7):
            module.kernel_size = (module.kernel_size[0], SIZE // 32, SIZE // 32)  # made for 224 pixels otherwise
    return network.eval()


def convert_and_load(theirs: nn.Module, folder: Path) -> tuple[nn.Module, Clip, Report]:
    torch.save({"model_state": theirs.state_dict()}, folder / "model.pyth")
    _, report = convert("pytorchvideo", folder / "model.pyth", folder / "out")
    recipe, _ = read_checkpoint(folder / "out")
    network = build_model(recipe.model, recipe.clip).eval()
    network.load_state_dict(load_weights(folder / "out" / "model.safetensors"))
    return network, recipe.clip, report


def pathways(clips_BCTHW: Tensor) -> list[Tensor]:
    """Subsampled as by PyTorchVideo's transforms, which cannot be imported without torchvision."""
    frames = clips_BCTHW.shape[2]
    return [clips_BCTHW[:, :, torch.linspace(0, frames - 1, frames // 4).long()], clips_BCTHW.clone()]


def check_spread(logits: Tensor) -> None:
    """Check that logits differ enough from each other, and from zero, for a tolerance of 1e-5 to be meaningful."""
    assert 0.05 < logits.std() < 10


@pytest.mark.parametrize(
    ("name", "clip", "parameters"),
    [
        ("slowfast_r50", Clip(T=8, tau=8, alpha=4, fps=30), 34_566_488),
        ("slowfast_r101", Clip(T=8, tau=8, alpha=4, fps=30), None),
        ("slowfast_16x8_r101_50_50", Clip(T=16, tau=8, alpha=4, fps=30), None),
    ],
)
@torch.inference_mode()
def test_slowfast_networks_have_the_logits_of_pytorchvideo(
    hub: dict[str, Hub], name: str, clip: Clip, parameters: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = randomise(hub[name]())
    ours, found, report = convert_and_load(theirs, tmp_path)
    assert found == clip
    assert report.mapped == len(theirs.state_dict())
    if parameters:
        assert sum(p.numel() for p in ours.parameters()) == parameters
    clips_BCTHW = torch.randn(2, 3, clip.fast_frames, SIZE, SIZE)
    expected_BA = theirs(pathways(clips_BCTHW))
    check_spread(expected_BA)
    torch.testing.assert_close(ours(clips_BCTHW), expected_BA, **CLOSE)


@torch.inference_mode()
def test_a_slow_network_has_the_logits_of_pytorchvideo(hub: dict[str, Hub], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = randomise(hub["slow_r50"]())
    ours, clip, _ = convert_and_load(theirs, tmp_path)
    assert clip.fast_frames == 8
    clips_BCTHW = torch.randn(2, 3, 8, SIZE, SIZE)
    expected_BA = theirs(clips_BCTHW)
    check_spread(expected_BA)
    torch.testing.assert_close(ours(clips_BCTHW), expected_BA, **CLOSE)


@torch.inference_mode()
def test_a_detection_network_has_the_logits_of_pytorchvideo(hub: dict[str, Hub], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = randomise(hub["slowfast_r50_detection"]())
    theirs.detection_head.activation = None  # logits, not their sigmoid
    ours, _, _ = convert_and_load(theirs, tmp_path)
    assert sum(p.numel() for p in ours.parameters()) == 33_828_888
    clips_BCTHW = torch.randn(2, 3, 32, SIZE, SIZE)
    boxes_K5 = torch.tensor([[0, 3.0, 4, 60, 50], [1, 10, 20, 30, 60], [0, 5, 5, 12, 11], [1, 0, 0, 64, 64]])
    expected_KA = theirs(pathways(clips_BCTHW), boxes_K5)
    check_spread(expected_KA)
    torch.testing.assert_close(ours(clips_BCTHW, boxes_K5), expected_KA, **CLOSE)
