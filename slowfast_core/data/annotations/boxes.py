"""Boxes of people in key frames: their types, and intersection over union (IoU)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

KeyFrame = tuple[str, int]  # video id, second
Box = tuple[float, float, float, float]  # x1 y1 x2 y2


@dataclass(frozen=True)
class PersonBoxes:
    """Boxes of a person detector by key frame, `[x1, y1, x2, y2, score]` in fractions of the frame."""

    name: str  # of the file, in error messages
    found: Mapping[KeyFrame, list[list[float]]]  # in the order of the file


def box_iou(boxes_D4: NDArray[Any], others_G4: NDArray[Any]) -> NDArray[Any]:
    """Intersection over union [D, G] of boxes with others."""
    import numpy as np

    boxes_D4, others_G4 = boxes_D4.astype(np.float64), others_G4.astype(np.float64)
    corner = np.maximum(boxes_D4[:, None, :2], others_G4[:, :2])
    opposite = np.minimum(boxes_D4[:, None, 2:], others_G4[:, 2:])
    shared_DG = np.maximum(opposite - corner, 0).prod(axis=2)
    areas_D = (boxes_D4[:, 2:] - boxes_D4[:, :2]).prod(axis=1)
    areas_G = (others_G4[:, 2:] - others_G4[:, :2]).prod(axis=1)
    return np.asarray(shared_DG / (areas_D[:, None] + areas_G - shared_DG))
