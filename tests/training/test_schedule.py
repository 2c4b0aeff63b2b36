"""Learning rates against values computed by hand from the paper's formula."""

from __future__ import annotations

import math

import pytest

from slowfast_core.recipe.load import Train
from slowfast_core.training.schedule import learning_rate, scaling_line, warnings

PAPER = Train(epochs=256, learning_rate=1.6, warmup_epochs=34, warmup_from=0.01)
PLAIN = Train(epochs=12, learning_rate=0.1, warmup_epochs=0)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.1),
        (3, 0.08535533905932738),  # cos(pi/4) = 0.7071
        (4, 0.075),  # cos(pi/3) = 1/2
        (6, 0.05),
        (8, 0.025),
        (9, 0.014644660940672627),
        (12, 0.0),
    ],
)
def test_half_cosine(epoch: float, rate: float) -> None:
    assert learning_rate(PLAIN, epoch) == pytest.approx(rate, abs=1e-15)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.01),
        (17, 0.77068390),  # halfway to the cosine at epoch 34: 0.8 (cos(34 pi / 256) + 1) = 1.5313678
        (34, 1.53136780),
        (128, 0.8),
        (192, 0.8 * (1 - 0.5**0.5)),
        (256, 0.0),
    ],
)
def test_warm_up_is_linear_and_ends_at_the_cosine(epoch: float, rate: float) -> None:
    assert learning_rate(PAPER, epoch) == pytest.approx(rate, rel=2e-5, abs=1e-12)


def test_the_rate_is_continuous_at_the_end_of_the_warm_up() -> None:
    assert learning_rate(PAPER, 34 - 1e-9) == pytest.approx(learning_rate(PAPER, 34), rel=1e-8)


STEPS = Train(epochs=239, learning_rate=0.1, schedule="steps", steps=((94, 0.1), (154, 0.01), (196, 0.001)))


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.01),
        (17, 0.055),
        (34, 0.1),
        (93.999, 0.1),
        (94, 0.01),
        (153.9, 0.01),
        (154, 1e-3),
        (196, 1e-4),
        (238, 1e-4),
    ],
)
def test_steps_of_pyslowfast_8x8_step(epoch: float, rate: float) -> None:
    assert learning_rate(STEPS, epoch) == pytest.approx(rate)


def test_absolute_steps_are_learning_rates() -> None:
    train = Train(
        epochs=20, learning_rate=0.1, warmup_epochs=0, schedule="steps", steps=((10, 0.03),), absolute_steps=True
    )
    assert [learning_rate(train, epoch) for epoch in (9.5, 10)] == [0.1, 0.03]


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0.01), (17, 0.055 * 0.9891765), (34, 0.1 * 0.9572), (128, 0.05)],  # (cos(pi epoch / 256) + 1) / 2
)
def test_a_composed_warm_up_multiplies_the_cosine(epoch: float, rate: float) -> None:
    mmaction2 = Train(epochs=256, learning_rate=0.1, warmup_epochs=34, warmup_from=0.01, warmup="compose")
    assert learning_rate(mmaction2, epoch) == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize(("batch", "rate"), [(64, 0.1), (1024, 1.6), (8, 0.0125)])
def test_another_batch_scales_the_rate_linearly(batch: int, rate: float) -> None:
    train = Train(batch=batch, learning_rate=0.1, reference_batch=64, warmup_epochs=10, warmup_from=0.01)
    assert learning_rate(train, 10) == pytest.approx(rate * 0.5 * (1 + math.cos(math.pi * 10 / 256)))
    assert learning_rate(train, 0) == pytest.approx(0.01 * batch / 64)


def test_the_line_about_scaling() -> None:
    train = Train(batch=128, accumulate=2, learning_rate=0.1, reference_batch=64)
    line = "batch 128 (4 x 16 x 2), learning rate 0.2 (0.1 x 128 / 64), batch norm in groups of 8 clips"
    assert scaling_line(train, 4) == line


def test_differences_from_the_recipe_give_warnings() -> None:
    assert warnings(Train(batch=64, reference_batch=64), 8) == []
    assert warnings(Train(batch=32, reference_batch=64), 8) == [
        "warning: the learning rate is for a batch of 64 and was scaled to 32",
        "warning: batch norm uses 4 clips at a time, the recipe asks for 8",
    ]
    assert warnings(Train(batch=32, reference_batch=None, batch_norm="frozen"), 8) == []
