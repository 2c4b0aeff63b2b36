"""The multigrid schedule against the values that PySlowFast prints for Kinetics-400."""

from __future__ import annotations

import pytest

from slowfast_core.recipe.schema import Multigrid, Train
from slowfast_core.training.schedule import Grid, cycle_at, learning_rate, long_cycles, short_cycle

K400 = Train(
    epochs=239, schedule="steps", steps=((94, 0.1), (154, 0.01), (196, 0.001)), multigrid=Multigrid(), crop=224
)
CYCLES = long_cycles(K400, Multigrid(), frames=32)


def test_the_14_steps_and_358_epochs_of_kinetics_400() -> None:
    starts = [0, *(cycle.end for cycle in CYCLES)]
    assert starts == [0, 73, 110, 142, 158, 205, 228, 248, 259, 291, 308, 322, 329, 343, 358]


def test_frames_sides_and_batches_of_each_cycle() -> None:
    stage = [(8, 158, 8), (16, 158, 4), (16, 224, 2), (32, 224, 1)]
    assert [(c.grid.frames, c.grid.side, c.grid.batch_factor) for c in CYCLES] == [
        *stage,
        *stage,
        *stage,
        *stage[-1:] * 2,
    ]


def test_rates_follow_the_batch_and_the_steps() -> None:
    expected = [8, 4, 2, 1, 0.8, 0.4, 0.2, 0.1, 0.08, 0.04, 0.02, 0.01, 0.01, 0.001]
    assert [cycle.rate_factor for cycle in CYCLES] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.01),
        (17, 0.405),  # halfway from 0.01 to 8 x 0.1, the rate at the end of the warm-up
        (34, 0.8),
        (72.99, 0.8),
        (73, 0.4),
        (158, 0.08),
        (329, 0.001),
        (342.99, 0.001),
        (343, 0.0001),
        (357.99, 0.0001),
    ],
)
def test_learning_rate(epoch: float, rate: float) -> None:
    assert learning_rate(K400, epoch, CYCLES) == pytest.approx(rate)


def test_the_short_cycle_goes_through_three_sides() -> None:
    whole, small = CYCLES[3].grid, CYCLES[0].grid
    assert short_cycle(Multigrid(), whole, 224) == (Grid(32, 112, 4), Grid(32, 158, 2), Grid(32, 224, 1))
    assert short_cycle(Multigrid(), small, 224) == (Grid(8, 112, 16), Grid(8, 158, 8), Grid(8, 158, 8))


def test_cycle_at() -> None:
    assert cycle_at(CYCLES, 72).grid == Grid(8, 158, 8)
    assert cycle_at(CYCLES, 73).grid == Grid(16, 158, 4)
    assert cycle_at(CYCLES, 400) == CYCLES[-1]


def test_without_a_short_cycle() -> None:
    plain = long_cycles(K400, Multigrid(short_cycle=()), frames=32)
    assert [(c.grid.frames, c.grid.side) for c in plain[:4]] == [(8, 158), (16, 158), (16, 224), (32, 224)]
    assert plain[-1].end == 358
