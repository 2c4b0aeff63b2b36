"""Losses of clips and boxes, weight decay and momentum of the optimizer.

B clips, C channels, T frames, H height, W width, K boxes over all clips, A classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from slowfast_core.data.loading.dataset import Sample
from slowfast_core.data.loading.sampling import View
from slowfast_core.model.build import build_model
from slowfast_core.recipe.load import Clip, Model, Train
from slowfast_core.recipe.schema import Precision
from slowfast_core.training.step import boxes_of, clip_gradient, forward_loss, make_optimizer

CPU = torch.device("cpu")
CLIP = Clip(T=1, tau=2, alpha=2)
TINY = Model(depth=18, width=4, beta=0.25, classes=3, dropout=0)
DETECT = TINY.model_copy(update={"head": "detect"})
TRAIN = Train(weight_decay=0.5, learning_rate=0.1, momentum=0.9)


class Fixed(nn.Module):
    """Returns the given logits and records its inputs."""

    def __init__(self, logits: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32).reshape(-1, 3))

    def forward(self, clips_BCTHW: Tensor, boxes_K5: Tensor | None = None) -> Tensor:
        self.clips_BCTHW, self.boxes_K5 = clips_BCTHW, boxes_K5
        return self.logits * 1


def sample(label: int, boxes: Sequence[Sequence[float]] = (), targets: Sequence[Sequence[float]] = ()) -> Sample:
    frames = torch.full((2, 32, 32, 3), 20 * (label + 2), dtype=torch.uint8)
    pixels, actions = (
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(targets, dtype=torch.float32).reshape(-1, 3),
    )
    return Sample(0, frames, View(0, 0, 32, 32, 32, 32), label, pixels, actions)


def test_the_loss_of_clips_is_cross_entropy() -> None:
    network = Fixed([[2, 0, 0], [0, 0, 0]])
    outcome = forward_loss(network, [sample(0), sample(1)], TRAIN, TINY, CPU)
    first, second = math.log(1 + 2 * math.exp(-2)), math.log(3)
    assert outcome.mean.item() == pytest.approx((first + second) / 2)
    assert (int(outcome.right), outcome.decisions) == (1, 2)
    assert network.clips_BCTHW.shape == (2, 3, 2, 32, 32)


def test_labels_may_be_smoothed() -> None:
    smooth = TRAIN.model_copy(update={"label_smoothing": 0.3})
    outcome = forward_loss(Fixed([[2, 0, 0]]), [sample(0)], smooth, TINY, CPU)
    right = math.log(1 + 2 * math.exp(-2))
    assert outcome.mean.item() == pytest.approx(0.8 * right + 0.2 * (right + 2))


def test_the_loss_of_multi_label_clips_is_sigmoid_cross_entropy() -> None:
    logits = [[4.0, -1, 0.5], [-3, 2, 1]]
    samples = [sample(0, targets=[[1, 0, 1]]), sample(1, targets=[[0, 1, 0]])]
    network = Fixed(logits)
    outcome = forward_loss(network, samples, TRAIN, TINY.model_copy(update={"multi_label": True}), CPU)
    signed = [4.0, 1, 0.5, 3, 2, -1]
    assert outcome.mean.item() == pytest.approx(sum(math.log(1 + math.exp(-x)) for x in signed) / 6)
    assert (int(outcome.right), outcome.decisions) == (5, 6)
    assert network.boxes_K5 is None


def test_the_loss_of_boxes_is_sigmoid_cross_entropy() -> None:
    logits = [[4.0, -1, 0.5], [-3, 2, 1], [0, 0, 0]]
    targets = [[1.0, 0, 1], [0, 1, 0], [0, 0, 0]]
    samples = [
        sample(-1, [[1, 2, 3, 4], [5, 6, 7, 8]], targets[:2]),
        sample(-1),
        sample(-1, [[9, 10, 11, 12]], targets[2:]),
    ]
    network = Fixed(logits)
    outcome = forward_loss(network, samples, TRAIN, DETECT, CPU)
    pairs = [(x, t) for xs, ts in zip(logits, targets, strict=True) for x, t in zip(xs, ts, strict=True)]
    losses = [math.log(1 + math.exp(-x if t else x)) for x, t in pairs]
    assert outcome.mean.item() == pytest.approx(sum(losses) / 9)
    assert (int(outcome.right), outcome.decisions) == (8, 9)  # all but the logit of 1 in the second box
    boxes_K5 = torch.tensor([[0.0, 1, 2, 3, 4], [0, 5, 6, 7, 8], [2, 9, 10, 11, 12]])
    assert network.boxes_K5 is not None
    assert torch.equal(network.boxes_K5, boxes_K5)
    outcome.mean.backward()
    assert network.logits.grad is not None
    assert (network.logits.grad.sign() == torch.tensor([[-1, 1, -1], [1, -1, 1], [1, 1, 1]])).all()


def test_boxes_have_the_index_of_their_clip() -> None:
    samples = [sample(-1), sample(-1, [[1, 2, 3, 4]], [[0, 0, 1]]), sample(-1, [[5, 6, 7, 8]], [[0, 0, 1]])]
    assert boxes_of(samples, CPU).tolist() == [[1, 1, 2, 3, 4], [2, 5, 6, 7, 8]]
    assert boxes_of([sample(-1)], CPU).shape == (0, 5)


def test_a_step_without_boxes_has_zero_loss_and_zero_gradients() -> None:
    """Other workers may have boxes, so this worker must take part in the reduction with zeros."""
    torch.manual_seed(0)
    network = build_model(DETECT, CLIP)
    outcome = forward_loss(network, [sample(-1), sample(-1)], TRAIN, DETECT, CPU)
    assert (outcome.mean.item(), outcome.decisions) == (0, 0)
    outcome.mean.backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_boxes_give_gradients_to_every_weight_of_a_detector() -> None:
    torch.manual_seed(0)
    network = build_model(DETECT, CLIP)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)  # blocks that start as identity have no gradient before their last BN
    outcome = forward_loss(network, [sample(-1, [[2, 2, 30, 30]], [[1, 0, 1]]), sample(-1)], TRAIN, DETECT, CPU)
    outcome.mean.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    # The gradient of the bias is (sigmoid - target) / classes; initial logits are close to zero.
    assert network.projection.bias.grad.tolist() == pytest.approx([-0.5 / 3, 0.5 / 3, -0.5 / 3], abs=0.02)


def test_only_batch_norm_is_not_decayed() -> None:
    network = build_model(TINY, CLIP)
    optimizer = make_optimizer(network, TRAIN)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(network.parameters()))
    norms = {id(p) for m in network.modules() if isinstance(m, nn.BatchNorm3d) for p in m.parameters()}
    assert norms
    for parameter in network.parameters():
        assert decay[id(parameter)] == (0.0 if id(parameter) in norms else 0.5)


def test_steps_use_nesterov_momentum() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    optimizer = make_optimizer(network, TRAIN)
    weight, velocity = 1.0, 0.0
    for _ in range(3):
        network.weight.grad = torch.ones_like(network.weight)
        optimizer.step()
        gradient = 1 + 0.5 * weight
        velocity = 0.9 * velocity + gradient
        weight -= 0.1 * (gradient + 0.9 * velocity)
        assert network.weight.item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("model", [TINY, DETECT], ids=["classify", "detect"])
def test_only_the_network_computes_in_bf16(model: Model) -> None:
    torch.manual_seed(0)
    network = build_model(model, CLIP).train()
    dtypes: list[torch.dtype] = []
    network.trunk.get_submodule("slow.stages.0.0.a").register_forward_hook(lambda _m, _x, y: dtypes.append(y.dtype))
    samples = [sample(0, [[2, 2, 30, 30]], [[1, 0, 1]]), sample(1, [[4, 4, 20, 20]], [[0, 1, 0]])]
    exact = forward_loss(network, samples, TRAIN, model, CPU)
    outcome = forward_loss(network, samples, TRAIN, model, CPU, "bf16")
    assert dtypes == [torch.float32, torch.bfloat16]
    assert outcome.mean.dtype == torch.float32
    assert outcome.mean.item() == pytest.approx(exact.mean.item(), rel=0.05)
    outcome.mean.backward()
    make_optimizer(network, TRAIN).step()
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_learn_to_distinguish_two_clips(precision: Precision) -> None:
    torch.manual_seed(0)
    network = build_model(TINY, CLIP).train()
    train = TRAIN.model_copy(update={"weight_decay": 0.0})
    optimizer = make_optimizer(network, train)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        outcome = forward_loss(network, [sample(0), sample(1)], train, TINY, CPU, precision)
        outcome.mean.backward()
        optimizer.step()
        losses.append(outcome.mean.item())
    assert losses[0] == pytest.approx(math.log(3), rel=0.2)
    assert losses[-1] < 0.2


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    """The first step of AdamW by its formula: w - rate * (decay * w + g / (|g| + eps))."""
    network = nn.Linear(2, 1, bias=False)
    start, gradient = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.3, -4.0]])
    network.weight.data.copy_(start)
    network.weight.grad = gradient.clone()
    make_optimizer(network, TRAIN.model_copy(update={"optimizer": "adamw"})).step()
    torch.testing.assert_close(network.weight.data, start - 0.1 * (0.5 * start + gradient.sign()))


@pytest.mark.parametrize(("by", "clipped"), [("norm", [0.6, -0.8]), ("value", [1.0, -1.0])])
def test_gradients_are_clipped_by_norm_or_by_value(by: str, clipped: list[float]) -> None:
    network = nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, -4.0]])
    clip_gradient(network, TRAIN.model_copy(update={"clip_gradient": 1.0, "clip_gradient_by": by}))
    torch.testing.assert_close(network.weight.grad, torch.tensor([clipped]), atol=1e-5, rtol=1e-5)


def test_a_frozen_trunk_needs_frozen_batch_norm() -> None:
    with pytest.raises(ValueError, match="frozen_trunk needs batch_norm 'frozen'"):
        Train(frozen_trunk=True)
    assert Train(frozen_trunk=True, batch_norm="frozen").frozen_trunk
