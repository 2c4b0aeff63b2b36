"""Whether a new model replaces the champion: a pure decision."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    promote: bool
    reason: str


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
