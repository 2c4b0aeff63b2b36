"""Rendering views of decoded frames. B clips, C channels, T frames, H height, W width."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slowfast_core.data.loading import render as augment
from slowfast_core.data.loading.sampling import Color, View, random_color, spatial_views, whole_view
from slowfast_core.recipe.load import Pixels

CPU = torch.device("cpu")
MEAN, STD = 0.45, 0.225


def render(frames_THWC: Tensor, view: View) -> Tensor:
    return augment.render(frames_THWC, view, Pixels())


def render_batch(frames: list[Tensor], views: list[View], device: torch.device) -> Tensor:
    return augment.render_batch(frames, views, Pixels(), device)


def frames(count: int = 3, height: int = 24, width: int = 36, seed: int = 0) -> Tensor:
    """uint8 noise `[T, H, W, C]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def normalised(frames_THWC: Tensor) -> Tensor:
    return ((frames_THWC.double() / 255 - MEAN) / STD).permute(3, 0, 1, 2)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), atol=2e-4, rtol=0)


def resized(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    pictures = normalised(frames_THWC).transpose(0, 1)
    return functional.interpolate(pictures, (height, width), mode="bilinear", align_corners=False).transpose(0, 1)


@pytest.mark.parametrize(("height", "width"), [(48, 72), (20, 30), (31, 17), (24, 50)])
def test_a_plain_resize_equals_interpolate(height: int, width: int) -> None:
    clip = frames()
    rendered_CTHW = render(clip, View(0, 0, 36, 24, height, width))
    assert rendered_CTHW.shape == (3, 3, height, width)
    close(rendered_CTHW, resized(clip, height, width))


def test_an_unscaled_view_of_the_whole_frame_is_exact() -> None:
    clip = frames()
    expected = clip.float().permute(3, 0, 1, 2).div(255).sub(MEAN).div(STD)
    assert torch.equal(render(clip, View(0, 0, 36, 24, 24, 36)), expected)


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_of_whole_pixels_is_a_slice(flip: bool) -> None:
    clip = frames()
    sliced = clip[:, 3:19, 7:27]
    close(render(clip, View(7, 3, 20, 16, 16, 20, flip)), normalised(sliced.flip(2) if flip else sliced))


def test_a_mirrored_view_of_the_whole_frame_is_mirrored() -> None:
    clip = frames()
    close(render(clip, View(0, 0, 36, 24, 24, 36, flip=True)), normalised(clip.flip(2)))


def test_resize_then_crop_is_one_view() -> None:
    """A view of a box equals a crop of the resized frame."""
    clip = frames()
    twice = resized(clip, 48, 72)
    close(render(clip, View(5, 2, 20, 20, 40, 40)), twice[:, :, 4:44, 10:50])
    close(render(clip, View(5, 2, 20, 20, 40, 40, flip=True)), twice[:, :, 4:44, 10:50].flip(3))


def test_evaluation_views_equal_resize_and_crops() -> None:
    clip = frames()
    whole = resized(clip, 48, 72)
    for view, left in zip(spatial_views(36, 24, 48, 3), (0, 12, 24), strict=True):
        close(render(clip, view), whole[:, :, :, left : left + 48])
    close(render(clip, whole_view(36, 24, 48)), whole)


def test_the_input_is_not_modified() -> None:
    clip = frames()
    before = clip.clone()
    for view in (View(0, 0, 36, 24, 24, 36), View(1, 1, 9, 9, 5, 5)):
        assert render(clip, view).dtype == torch.float32
    assert torch.equal(clip, before)
    assert clip.dtype == torch.uint8


def test_black_and_white_are_normalised() -> None:
    white = render(torch.full((1, 4, 4, 3), 255, dtype=torch.uint8), View(0, 0, 4, 4, 4, 4))
    black = render(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), View(0, 0, 4, 4, 8, 8))
    torch.testing.assert_close(white, torch.full((3, 1, 4, 4), 0.55 / 0.225))
    torch.testing.assert_close(black, torch.full((3, 1, 8, 8), -2.0))


def test_a_batch_may_have_sources_of_different_sizes() -> None:
    clips = [frames(4), frames(4, 30, 20, seed=1)]
    views = [View(2, 2, 18, 18, 16, 16, flip=True), View(0, 0, 20, 20, 16, 16)]
    batch_BCTHW = render_batch(clips, views, CPU)
    assert batch_BCTHW.shape == (2, 3, 4, 16, 16)
    assert batch_BCTHW.is_contiguous(memory_format=torch.channels_last_3d)
    for b, (clip, view) in enumerate(zip(clips, views, strict=True)):
        assert torch.equal(batch_BCTHW[b], render(clip, view))


@pytest.mark.parametrize("view", [View(0, 0, 36, 24, 24, 36), View(3, 2, 20, 20, 10, 10)])
def test_order_mean_and_std_are_those_of_the_recipe(view: View) -> None:
    clip = frames()
    plain_CTHW = augment.render(clip, view, Pixels(mean=(0, 0, 0), std=(1, 1, 1)))
    own_CTHW = augment.render(clip, view, Pixels(order="bgr", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    for channel, (source, mean, std) in enumerate([(2, 0.1, 0.4), (1, 0.2, 0.5), (0, 0.3, 0.6)]):
        torch.testing.assert_close(own_CTHW[channel], (plain_CTHW[source] - mean) / std)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_view_of_whole_pixels_equals_a_crop(order: Literal["rgb", "bgr"]) -> None:
    frames_THWC = torch.randint(0, 256, (2, 20, 30, 3), dtype=torch.uint8)
    part_THWC = frames_THWC[:, 3:15, 7:27]
    pixels = Pixels(order=order)
    view_CTHW = augment.render(frames_THWC, View(7, 3, 20, 12, 12, 20), pixels)
    assert torch.equal(view_CTHW, augment.render(part_THWC, View(0, 0, 20, 12, 12, 20), pixels))
    near_CTHW = augment.render(frames_THWC, View(7 + 1e-6, 3, 20, 12, 12, 20), pixels)
    torch.testing.assert_close(view_CTHW, near_CTHW, atol=1e-3, rtol=0)


@pytest.mark.parametrize("view", [View(0, 0, 30, 20, 20, 30), View(2.5, 1, 17, 17, 8, 8, flip=True)])
def test_long_videos_are_rendered_in_parts(view: View) -> None:
    frames_THWC = torch.randint(0, 256, (2 * augment.AT_ONCE + 3, 20, 30, 5), dtype=torch.uint8)
    one_by_one = [augment.render(frame_THWC[None], view, Pixels()) for frame_THWC in frames_THWC]
    assert torch.equal(augment.render(frames_THWC, view, Pixels()), torch.cat(one_by_one, dim=1))


def recolored_pixel_by_pixel(frames_THWC: Tensor, color: Color) -> Tensor:
    """The same in NumPy on single frames, by the formula of each change: x * factor + other * (1 - factor)."""
    frames = frames_THWC.numpy().astype(np.float64) / 255
    for t, frame in enumerate(frames):
        for name, factor in color.factors:
            gray = frame @ np.array([0.299, 0.587, 0.114])
            other = {"brightness": 0.0, "saturation": gray[..., None], "contrast": gray.mean()}[name]
            frame = frame * factor + other * (1 - factor)
        frames[t] = frame + np.array(color.shift)
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float()


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_colors_are_changed_before_they_are_normalised(order: Literal["rgb", "bgr"]) -> None:
    frames_THWC = torch.randint(0, 256, (3, 24, 36, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    color = Color((("contrast", 1.3), ("brightness", 0.7), ("saturation", 0.6)), (0.05, -0.02, 0.1))
    found_CTHW = augment.render(frames_THWC, View(0, 0, 36, 24, 24, 36, color=color), Pixels(order=order))
    expected_CTHW = (recolored_pixel_by_pixel(frames_THWC, color) - 0.45) / 0.225
    close(found_CTHW, expected_CTHW if order == "rgb" else expected_CTHW.flip(0))


def test_random_colors_have_the_asked_spread_and_none_by_default() -> None:
    random = np.random.default_rng(0)
    assert random_color(0, 0, random) is None
    assert random.random() == np.random.default_rng(0).random()  # draws nothing
    drawn = [random_color(0.4, 0.1, random) for _ in range(2000)]
    colors = [color for color in drawn if color]
    factors = np.array([factor for color in colors for _, factor in color.factors])
    assert (factors.min(), factors.max()) == pytest.approx((0.6, 1.4), abs=0.01)
    assert len({tuple(name for name, _ in color.factors) for color in colors}) == 6
    # the variance of a channel: sum of (component * value * 0.1) ** 2
    rows = [(-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)]
    expected = [0.1 * sum((c * v) ** 2 for c, v in zip(row, (0.225, 0.224, 0.229), strict=True)) ** 0.5 for row in rows]
    assert np.std([color.shift for color in colors], axis=0) == pytest.approx(expected, rel=0.08)
