"""Intersection over union of boxes."""

from __future__ import annotations

import numpy as np
import pytest

from slowfast_core.data.annotations.boxes import box_iou


def test_iou_by_hand() -> None:
    boxes = np.array([[0, 0, 2, 2]])
    others = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [0, 0, 1, 2], [5, 5, 6, 6]])
    np.testing.assert_allclose(box_iou(boxes, others), [[1.0, 1 / 7, 0.5, 0.0]])


@pytest.mark.parametrize(("other", "iou"), [((0, 0, 1, 1), 1), ((1, 0, 2, 1), 0), ((2, 2, 3, 3), 0)])
def test_equal_adjacent_and_distant_boxes_are_exact(other: tuple[float, ...], iou: float) -> None:
    assert box_iou(np.array([[0, 0, 1, 1]]), np.array([other])) == iou
