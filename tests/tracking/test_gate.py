from __future__ import annotations

from typing import Literal

import pytest

from slowfast_core.tracking.gate import Evidence, below_floor, decide


@pytest.mark.parametrize(
    ("challenger", "champion", "min_gain", "promote", "reason"),
    [
        (0.1, None, 0.5, True, "no champion before"),
        (0.9, 0.8, 0.0, True, "0.9000 beats the champion's 0.8000"),
        (0.8, 0.8, 0.0, False, "0.8000 does not beat the champion's 0.8000"),
        (0.7, 0.8, 0.0, False, "0.7000 does not beat the champion's 0.8000"),
        (0.82, 0.8, 0.05, False, "0.8200 does not beat the champion's 0.8000 by more than 0.05"),
        (0.9, 0.8, 0.05, True, "0.9000 beats the champion's 0.8000 by more than 0.05"),
        (0.79, 0.8, -0.05, True, "0.7900 beats the champion's 0.8000 by more than -0.05"),
        (float("nan"), None, 0.0, False, "nan is no measurement"),
        (0.1, float("nan"), 0.0, True, "the champion's nan is no measurement"),
    ],
)
def test_only_a_model_that_is_better_by_the_gain_is_promoted(
    challenger: float, champion: float | None, min_gain: float, promote: bool, reason: str
) -> None:
    decision = decide(challenger, champion, min_gain)
    assert (decision.promote, decision.reason) == (promote, reason)


@pytest.mark.parametrize(
    ("metric", "floor", "evidence", "reason"),
    [
        (0.6, "chance", Evidence(100, 0.5, 0.25), ""),
        (0.6, "chance", Evidence(20, 0.5, 0.25), ""),
        (1.0, "chance", Evidence(19, 0.8, 0.25), "1.0000 is measured on 19 samples, register.floor needs 20"),
        (0.3, "chance", Evidence(100, 0.25, 0.25), "0.3000 is not above chance: the 95 % interval begins at 0.2500"),
        (0.3, "chance", Evidence(100, float("nan"), 0.25), "0.3000 is not above chance"),
        (1.0, "chance", None, "the evaluation does not record its number of samples: evaluate again"),
        (0.6, 0.6, None, ""),
        (0.59, 0.6, Evidence(100, 0.5, 0.25), "0.5900 is below register.floor 0.6"),
        (float("nan"), 0.0, None, "nan is below register.floor 0"),
        (0.1, None, None, ""),
    ],
)
def test_models_below_the_floor_are_reported(
    metric: float, floor: Literal["chance"] | float | None, evidence: Evidence | None, reason: str
) -> None:
    below = below_floor(metric, floor, evidence)
    assert below.startswith(reason)
    assert bool(below) == bool(reason)
