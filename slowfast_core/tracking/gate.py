"""Whether a new model may be champion, and whether it replaces the one there is: pure decisions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LEAST_SAMPLES = 20  # of the held-out split, below which a measurement decides nothing


@dataclass(frozen=True)
class Decision:
    promote: bool
    reason: str


@dataclass(frozen=True)
class Evidence:
    """What an evaluation knows of its own metric."""

    samples: int  # videos, or key frames
    lower_bound: float  # of the metric's 95 % interval
    chance: float  # the metric without any recognition


def below_floor(metric: float, floor: Literal["chance"] | float | None, evidence: Evidence | None) -> str:
    """Why the metric does not reach the recipe's `register.floor`; "" where it does."""
    if floor is None:
        return ""
    if floor != "chance":
        return "" if metric >= floor else f"{metric:.4f} is below register.floor {floor:g}"
    if evidence is None:
        return "the evaluation does not record its number of samples: evaluate again"
    if evidence.samples < LEAST_SAMPLES:
        return f"{metric:.4f} is measured on {evidence.samples} samples, register.floor needs {LEAST_SAMPLES}"
    if not evidence.lower_bound > evidence.chance:
        known = f"the 95 % interval begins at {evidence.lower_bound:.4f}, chance is {evidence.chance:.4f}"
        return f"{metric:.4f} is not above chance: {known}"
    return ""


def decide(challenger: float, champion: float | None, min_gain: float) -> Decision:
    """Promote what is better than the champion by more than `min_gain`; None: there is no champion."""
    if not math.isfinite(challenger):
        return Decision(False, f"{challenger} is no measurement")
    if champion is None:
        return Decision(True, "no champion before")
    if not math.isfinite(champion):
        return Decision(True, f"the champion's {champion} is no measurement")
    needed = f" by more than {min_gain:g}" if min_gain else ""
    if challenger - champion > min_gain:
        return Decision(True, f"{challenger:.4f} beats the champion's {champion:.4f}{needed}")
    return Decision(False, f"{challenger:.4f} does not beat the champion's {champion:.4f}{needed}")
