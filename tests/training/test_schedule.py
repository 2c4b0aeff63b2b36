"""Learning rates against values computed by hand from the paper's formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import cos, pi

import pytest

from slowfast_core.recipe.load import Train, load_recipe
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


PER_EPOCH = 7  # iterations


def mmengine(base: float, epochs: int, *schedulers: Callable[[int, float], float]) -> list[float]:
    """Learning rate of each iteration by MMEngine's rule: each scheduler multiplies the rate before it."""
    rate, rates = base, []
    for iteration in range(epochs * PER_EPOCH):
        for scheduler in schedulers:
            rate = scheduler(iteration, rate)
        rates.append(rate)
    return rates


def linear(end: int, every: int, start: float = 0.1) -> Callable[[int, float], float]:
    """LinearLR over `end` steps of `every` iterations; its factor at the last of them is 1."""

    def step(iteration: int, rate: float) -> float:
        at, rest = divmod(iteration, every)
        if rest or at >= end:
            return rate
        return rate * start if at == 0 else rate * (1 + (1 - start) / ((end - 1) * start + (at - 1) * (1 - start)))

    return step


def cosine(begin: int, length: int, every: int) -> Callable[[int, float], float]:
    """CosineAnnealingLR with eta_min 0 over `length` steps of `every` iterations, from step `begin` on."""

    def step(iteration: int, rate: float) -> float:
        at, rest = divmod(iteration, every)
        if rest or at <= begin:
            return rate
        return rate * (1 + cos(pi * (at - begin) / length)) / (1 + cos(pi * (at - begin - 1) / length))

    return step


def steps(milestones: list[int]) -> Callable[[int, float], float]:
    return lambda iteration, rate: rate * (0.1 if iteration in [m * PER_EPOCH for m in milestones] else 1)


@pytest.mark.parametrize(
    ("recipe", "schedulers", "slack"),
    [
        # Warm-ups by iteration reach the full rate one iteration earlier in MMEngine: 1 of 14 or 238 here.
        ("ava22/slowfast_8x8_r50_mmaction2", (linear(2 * PER_EPOCH, 1), cosine(14, 56, 1)), 0.07),
        ("ava21/slowfast_8x8_r50_mmaction2", (linear(5, PER_EPOCH), steps([10, 15])), 1e-12),
        ("kinetics400/slowfast_4x16_r50_mmaction2", (linear(34 * PER_EPOCH, 1), cosine(0, 256, PER_EPOCH)), 0.005),
    ],
)
def test_recipes_of_mmaction2_have_the_rates_of_its_schedulers(
    recipe: str, schedulers: tuple[Callable[[int, float], float], ...], slack: float
) -> None:
    train = load_recipe(recipe).train
    expected = mmengine(train.learning_rate, train.epochs, *schedulers)
    warm = round(train.warmup_epochs * PER_EPOCH)
    for iteration, rate in enumerate(expected):
        allowed = slack if iteration < warm else 1e-9
        assert learning_rate(train, iteration / PER_EPOCH) == pytest.approx(rate, rel=allowed, abs=1e-15)


def test_the_cosine_may_start_after_the_warm_up_and_end_above_zero() -> None:
    train = Train(
        epochs=10, learning_rate=0.4, warmup_epochs=2, warmup_from=0.1, cosine_after_warmup=True, cosine_end=0.04
    )
    # PySlowFast: end + (base - end) * (cos(pi * (epoch - offset) / (epochs - offset)) + 1) / 2, and linear before
    expected = {0: 0.1, 1: 0.25, 2: 0.4, 4: 0.04 + 0.36 * (2**0.5 / 2 + 1) / 2, 6: 0.22, 10: 0.04}
    assert {epoch: learning_rate(train, epoch) for epoch in expected} == pytest.approx(expected)
    with pytest.raises(ValueError, match="need schedule 'cosine'"):
        Train(schedule="steps", steps=((1, 0.1),), cosine_end=0.01)


def test_the_papers_warm_up_starts_at_the_same_rate_for_any_batch() -> None:
    for name, first in (("kinetics400/slowfast_4x16_r50", 0.01), ("kinetics400/slowfast_4x16_r50_pyslowfast", 0.16)):
        train = load_recipe(name, ["train.batch=1024", "compute.workers=128"]).train
        assert learning_rate(train, 0) == pytest.approx(first)
        middle = (learning_rate(train, 34) + first) / 2
        assert learning_rate(train, 17) == pytest.approx(middle)
