"""Decides, without side effects, whether a new model may become champion and replaces the current one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LEAST_SAMPLES = 20  # fewest held-out samples on which a decision is based


@dataclass(frozen=True)
class Decision:
    promote: bool
    reason: str


@dataclass(frozen=True)
class Evidence:
    """The statistical evidence of an evaluation for its metric."""

    samples: int  # videos, or key frames
    lower_bound: float  # of the metric's 95 % interval
    chance: float  # expected metric of random predictions


def below_floor(metric: float, floor: Literal["chance"] | float | None, evidence: Evidence | None) -> str:
    """Return why the metric does not reach the recipe's `register.floor`; "" if it does."""
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
    """Promote the challenger if its metric exceeds the champion's by more than `min_gain`; None: no champion."""
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
