"""RoIAlign against a point-by-point reference of Mask R-CNN's RoIAlign (adaptive sampling; aligned or not)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from slowfast_core.model.roi_align import roi_align


def reference(maps: Tensor, boxes: Tensor, size: int, scale: float, aligned: bool = True) -> Tensor:
    height, width = maps.shape[-2:]
    out = torch.zeros(len(boxes), maps.shape[1], size, size, dtype=maps.dtype)
    for k, (index, *corners) in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (c * scale - 0.5 * aligned for c in corners)
        if not aligned:
            x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
        bin_h, bin_w = (y2 - y1) / size, (x2 - x1) / size
        rows, columns = max(math.ceil(bin_h), 1), max(math.ceil(bin_w), 1)
        for i in range(size):
            for j in range(size):
                for a in range(rows):
                    for b in range(columns):
                        y, x = y1 + (i + (a + 0.5) / rows) * bin_h, x1 + (j + (b + 0.5) / columns) * bin_w
                        out[k, :, i, j] += bilinear(maps[int(index)], y, x, height, width) / (rows * columns)
    return out


def bilinear(picture: Tensor, y: float, x: float, height: int, width: int) -> Tensor:
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(len(picture), dtype=picture.dtype)
    y, x = max(y, 0.0), max(x, 0.0)
    y0, x0 = int(y), int(x)
    if y0 >= height - 1:
        y0, y = height - 1, float(height - 1)
    if x0 >= width - 1:
        x0, x = width - 1, float(width - 1)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    ly, lx = y - y0, x - x0
    upper = picture[:, y0, x0] * (1 - lx) + picture[:, y0, x1] * lx
    lower = picture[:, y1, x0] * (1 - lx) + picture[:, y1, x1] * lx
    return upper * (1 - ly) + lower * ly


def random_boxes(count: int, maps: int, height: float, width: float, low: float, high: float, seed: int) -> Tensor:
    """Boxes with sides between `low` and `high` of the image; centres may lie slightly outside."""
    random = np.random.default_rng(seed)
    centre = random.uniform(-0.2, 1.2, (count, 2)) * (width, height)
    half = random.uniform(low, high, (count, 2)) * (width, height) / 2
    index = random.integers(0, maps, (count, 1))
    return torch.tensor(np.hstack([index, centre - half, centre + half]))


@pytest.mark.parametrize(("size", "scale"), [(7, 1 / 16), (3, 1 / 16), (1, 1.0), (4, 0.37)])
@pytest.mark.parametrize(("low", "high"), [(0.3, 1.0), (1.0, 3.0), (0.001, 0.02)])
@pytest.mark.parametrize("aligned", [True, False])
def test_equals_the_reference(aligned: bool, low: float, high: float, size: int, scale: float) -> None:
    maps = torch.randn(3, 2, 9, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    boxes = random_boxes(12, 3, 9 / scale, 14 / scale, low, high, seed=size)
    expected = reference(maps, boxes, size, scale, aligned)
    torch.testing.assert_close(roi_align(maps, boxes, size, scale, aligned), expected)


def test_equals_the_reference_in_single_precision() -> None:
    maps = torch.randn(2, 4, 14, 14, generator=torch.Generator().manual_seed(5))
    boxes = random_boxes(10, 2, 224, 224, 0.1, 0.9, seed=1).float()
    torch.testing.assert_close(roi_align(maps, boxes, 7, 1 / 16), reference(maps, boxes, 7, 1 / 16), atol=1e-4, rtol=0)


def test_a_box_outside_the_map_is_zero() -> None:
    maps = torch.ones(1, 1, 8, 8)
    boxes = torch.tensor([[0.0, 200, 200, 260, 260], [0.0, -90, 10, -40, 60]])
    assert not roi_align(maps, boxes, 7, 1 / 16).any()


def test_a_linear_map_gives_the_positions_of_the_bins() -> None:
    column = torch.arange(16.0).expand(1, 1, 16, 16)
    aligned = roi_align(column, torch.tensor([[0.0, 32, 32, 160, 160]]), 4, 1 / 16)  # cells 2 to 10, bins of 2
    torch.testing.assert_close(aligned[0, 0, 0], torch.tensor([2.5, 4.5, 6.5, 8.5]))


@pytest.mark.parametrize("box", [(40, 40, 40, 60), (20, 60, 60, 20), (60, 20, 20, 60), (30, 30, 30, 30)])
def test_an_empty_or_inverted_box_gives_0(box: tuple[float, ...]) -> None:
    """As Mask R-CNN's RoIAlign, which takes ceil(bin size) samples, that is none."""
    maps, whole = torch.rand(1, 2, 8, 8), (20.0, 20.0, 60.0, 60.0)
    both = torch.tensor([[0, *box], [0, *whole]])
    empty, other = roi_align(maps, both, 3, 1 / 16)
    assert (empty == 0).all()
    torch.testing.assert_close(other, reference(maps, both[1:], 3, 1 / 16)[0])


def test_no_boxes_give_an_empty_result() -> None:
    assert roi_align(torch.randn(2, 3, 8, 8), torch.empty(0, 5), 7, 1 / 16).shape == (0, 3, 7, 7)


def test_gradients_reach_only_the_map_of_the_box() -> None:
    maps = torch.randn(2, 1, 8, 8, requires_grad=True)
    roi_align(maps, torch.tensor([[1.0, 16, 16, 64, 64]]), 2, 1 / 16).sum().backward()
    assert maps.grad is not None
    assert not maps.grad[0].any()
    assert maps.grad[1].sum() == pytest.approx(4)  # the weights of the samples of each bin add up to one
