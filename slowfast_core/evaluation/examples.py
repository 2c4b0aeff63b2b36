"""Single predictions worth a look, as both kinds of report list them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    id: str
    truth: str
    predicted: str
    score: float  # of what was predicted
