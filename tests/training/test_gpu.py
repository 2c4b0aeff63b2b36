"""Rendering, networks, steps and trainings give the same results on a GPU as on a CPU.

B clips, C channels, T frames, H height, W width, R rows of coded planes, K boxes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from trainings import Training, lines_of

from slowfast_core.data.loading.dataset import Sample
from slowfast_core.data.loading.render import render_batch, rgb_of_planes
from slowfast_core.data.loading.sampling import View
from slowfast_core.model.build import build_model
from slowfast_core.model.folding import for_inference
from slowfast_core.recipe.load import Clip, Model
from slowfast_core.recipe.schema import Pixels, Precision, Train
from slowfast_core.training.batch_norm import begin_step, with_norm
from slowfast_core.training.step import forward_loss, make_optimizer
from slowfast_core.workspace import Workspace

pytestmark = pytest.mark.gpu
CPU, GPU = torch.device("cpu"), torch.device("cuda")
CLIP = Clip(T=2, tau=4, alpha=4)
TINY: dict[str, Any] = {"depth": 18, "width": 8, "beta": 0.25, "classes": 5, "dropout": 0.0, "zero_init_last_bn": False}
NETWORKS: dict[str, dict[str, Any]] = {
    "slowfast": {},
    "bottlenecks": {"depth": 50},
    "concatenation": {"lateral": "ttoc_concat"},
    "slow": {"pathways": "slow", "lateral": "none"},
    "detector": {"head": "detect"},
}
BOXES_K5 = torch.tensor([[0, 3.0, 4, 60, 50], [1, 10, 20, 30, 60], [1, 0, 0, 64, 64]])


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Disable TF32, so that results differ only by the order of sums."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def samples(count: int) -> list[Sample]:
    generator = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (count, CLIP.fast_frames, 96, 64), dtype=torch.uint8, generator=generator)
    view = View(4, 2, 50, 48, 64, 64, flip=True)
    none = torch.zeros(0)
    return [Sample(i, planes_TRW, view, i % 5, none, none) for i, planes_TRW in enumerate(frames)]


def test_planes_are_converted_to_the_same_bytes() -> None:
    planes_TRW = samples(1)[0].frames
    assert torch.equal(rgb_of_planes(planes_TRW.to(GPU)).cpu(), rgb_of_planes(planes_TRW))


def test_views_are_rendered_equally() -> None:
    chosen = samples(3)
    frames, views = [sample.frames for sample in chosen], [sample.view for sample in chosen]
    here, there = (render_batch(frames, views, Pixels(), device) for device in (CPU, GPU))
    assert there.device.type == "cuda"
    assert there.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_agree(name: str) -> None:
    torch.manual_seed(0)
    model = Model.model_validate({**TINY, **NETWORKS[name]})
    here = build_model(model, CLIP)
    there = copy.deepcopy(here).to(GPU)
    clips_BCTHW = torch.randn(2, 3, CLIP.fast_frames, 64, 64)
    given = [clips_BCTHW, BOXES_K5] if model.head == "detect" else [clips_BCTHW]
    ours, theirs = here(*given), there(*(tensor.to(GPU) for tensor in given))
    torch.testing.assert_close(theirs.cpu(), ours, atol=1e-3, rtol=1e-3)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    for (where, own), other in zip(here.named_parameters(), there.parameters(), strict=True):
        if own.grad is not None and other.grad is not None:
            distance = (other.grad.cpu() - own.grad).norm() / own.grad.norm().clamp(min=1e-6)
            assert distance < 1e-2, where


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_for_inference_agree(name: str) -> None:
    torch.manual_seed(0)
    model = Model.model_validate({**TINY, **NETWORKS[name]})
    plain = build_model(model, CLIP).eval()
    clips_BCTHW = torch.randn(2, 3, CLIP.fast_frames, 64, 64)
    given = [clips_BCTHW, BOXES_K5] if model.head == "detect" else [clips_BCTHW]
    with torch.no_grad():
        ours = plain(*given)
        ready = for_inference(copy.deepcopy(plain).to(GPU))
        theirs = ready(*(tensor.to(GPU) for tensor in given)).cpu()
    torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_in_half_precision_is_close_to_full_precision(precision: Precision) -> None:
    losses: list[Tensor] = []
    for chosen in ("fp32", precision):
        torch.manual_seed(0)
        model, train = Model.model_validate(TINY), Train(learning_rate=0.01)
        network = with_norm(build_model(model, CLIP).to(GPU), train, GPU)
        optimizer = make_optimizer(network, train)
        scaler = torch.amp.GradScaler("cuda", enabled=chosen == "fp16")
        for _ in range(5):
            begin_step(network, train, [8])
            optimizer.zero_grad()
            mean = forward_loss(network, samples(8), train, model, GPU, chosen).mean  # type: ignore[arg-type]
            scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
        losses.append(mean.detach())
    assert losses[0].isfinite()
    torch.testing.assert_close(losses[1], losses[0], rtol=0.1, atol=0.05)


def test_the_fused_optimizer_equals_the_plain_one() -> None:
    weights = torch.randn(1000)
    results = []
    for device in (CPU, GPU):
        layer = torch.nn.Linear(1000, 1).to(device)
        with torch.no_grad():
            layer.weight.copy_(weights)
        optimizer = make_optimizer(layer, Train(learning_rate=0.1))
        for _ in range(3):
            optimizer.zero_grad()
            functional.linear(weights.to(device), layer.weight).square().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        results.append(layer.weight.detach().cpu())
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)


@pytest.fixture
def start(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> Iterator[Callable[..., Training]]:
    """Start `slowfast train` with one worker on a GPU."""
    started: list[Training] = []

    def begin(name: str, *overrides: str) -> Training:
        settings = ("compute.workers=1", "compute.gpus_per_worker=1", "train.checkpoint_steps=3", *overrides)
        started.append(Training(tiny_recipe, tiny_workspace(tmp_path / name), settings))
        started[-1].start()
        return started[-1]

    yield begin
    for training in started:
        training.kill()


def test_deterministic_trainings_give_the_same_weights_also_after_a_kill(start: Callable[..., Training]) -> None:
    settings = ("compute.deterministic=true", "model.dropout=0.5")
    digests = {start(name, *settings).finish()["weights_digest"] for name in ("first", "second")}
    assert len(digests) == 1
    killed = start("killed", *settings)
    killed.kill_in_epoch(4.5)
    killed.start()
    result = killed.finish()
    assert "resumed from checkpoint" in result["summary"]
    assert {result["weights_digest"]} == digests


@pytest.mark.parametrize(
    "setting", ["compute.precision=bf16", "compute.precision=fp16", "compute.compile=true", "train.batch_norm=sync"]
)
def test_the_loss_decreases_with_each_setting(start: Callable[..., Training], setting: str) -> None:
    training = start("one", setting)
    training.finish()
    losses = [line["loss"] for line in lines_of(training.folder / "log.jsonl") if "loss" in line]
    assert losses[-1] < losses[0]
