from __future__ import annotations

import pytest

from slowfast_core.tracking.gate import decide


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
def test_only_what_is_better_by_the_gain_is_promoted(
    challenger: float, champion: float | None, min_gain: float, promote: bool, reason: str
) -> None:
    decision = decide(challenger, champion, min_gain)
    assert (decision.promote, decision.reason) == (promote, reason)
