"""Learning rates against numbers worked out by hand from the paper's formula."""

from __future__ import annotations

import pytest

from slowfast_core.recipe import Train
from slowfast_core.training.schedule import learning_rate

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
        (17, 0.77068390),  # half way to what the cosine has at epoch 34: 0.8 (cos(34 pi / 256) + 1) = 1.5313678
        (34, 1.53136780),
        (128, 0.8),
        (192, 0.8 * (1 - 0.5**0.5)),
        (256, 0.0),
    ],
)
def test_warm_up_is_a_line_that_meets_the_cosine(epoch: float, rate: float) -> None:
    assert learning_rate(PAPER, epoch) == pytest.approx(rate, rel=2e-5, abs=1e-12)


def test_there_is_no_step_where_the_warm_up_ends() -> None:
    assert learning_rate(PAPER, 34 - 1e-9) == pytest.approx(learning_rate(PAPER, 34), rel=1e-8)
