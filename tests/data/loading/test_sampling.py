"""Exact frame indices and views of the sampling methods."""

from __future__ import annotations

import numpy as np
import pytest

from slowfast_core.data.loading.sampling import (
    Starts,
    View,
    boxes_in_view,
    centred_indices,
    clip_indices,
    evaluation_indices,
    labels_within,
    random_area_view,
    random_start,
    random_view,
    spatial_views,
    training_indices,
    uniform_starts,
    whole_view,
)
from slowfast_core.recipe.load import Clip, load_recipe

SPAN_64 = Clip(T=4, tau=16, alpha=8)  # 32 frames, every second one


def test_a_clip_takes_32_frames_every_second_one() -> None:
    assert clip_indices(SPAN_64, 10, 300) == list(range(10, 74, 2))
    assert clip_indices(Clip(T=8, tau=8, alpha=4), 0, 64) == list(range(0, 64, 2))
    assert clip_indices(Clip(T=2, tau=3, alpha=1), 4, 100) == [4, 7]


def test_slow_frames_are_tau_apart() -> None:
    assert clip_indices(SPAN_64, 0, 300)[:: SPAN_64.alpha] == [0, 16, 32, 48]


@pytest.mark.parametrize("frames", [1, 5, 62, 63, 64])
def test_a_short_video_repeats_its_last_frame(frames: int) -> None:
    indices = clip_indices(SPAN_64, 0, frames)
    assert len(indices) == 32
    assert indices == [min(i, frames - 1) for i in range(0, 64, 2)]


def test_uniform_starts_are_spread_from_the_first_span_to_the_last() -> None:
    assert uniform_starts(SPAN_64, 300, 10) == [0, 26, 52, 78, 104, 131, 157, 183, 209, 236]
    assert uniform_starts(SPAN_64, 73, 10) == list(range(10))
    assert uniform_starts(SPAN_64, 300, 2) == [0, 236]
    assert uniform_starts(SPAN_64, 300, 1) == [118]


@pytest.mark.parametrize("frames", [1, 63, 64])
def test_a_video_no_longer_than_a_span_has_all_its_clips_at_the_start(frames: int) -> None:
    assert uniform_starts(SPAN_64, frames, 10) == [0] * 10
    assert {random_start(SPAN_64, frames, np.random.default_rng(i)) for i in range(20)} == {0}


def test_random_starts_reach_both_ends_and_not_beyond() -> None:
    random = np.random.default_rng(0)
    starts = [random_start(SPAN_64, 70, random) for _ in range(500)]
    assert set(starts) == set(range(7))


def test_dense_sampling_is_a_span_from_a_random_start() -> None:
    random, again = np.random.default_rng(1), np.random.default_rng(1)
    assert training_indices(SPAN_64, 300, random) == clip_indices(SPAN_64, random_start(SPAN_64, 300, again), 300)
    starts = uniform_starts(SPAN_64, 300, 10)
    assert evaluation_indices(SPAN_64, 300, 10) == [clip_indices(SPAN_64, start, 300) for start in starts]


SEGMENTS = Clip(T=4, tau=2, alpha=2, sampling="segments")  # 8 frames of the whole video


@pytest.mark.parametrize(
    ("frames", "middle"),
    [
        (9, [0, 1, 2, 3, 4, 5, 6, 7]),
        (49, [3, 9, 15, 21, 27, 33, 39, 45]),
        (42, [2, 7, 12, 17, 23, 28, 33, 38]),  # parts of 5.125 frames
        (4, [0, 0, 1, 1, 2, 2, 2, 3]),
        (1, [0] * 8),
    ],
)
def test_segments_give_their_middle_in_evaluation_and_any_frame_in_training(frames: int, middle: list[int]) -> None:
    assert evaluation_indices(SEGMENTS, frames, 1) == [middle]
    random = np.random.default_rng(0)
    drawn = np.array([training_indices(SEGMENTS, frames, random) for _ in range(400)])
    size = (frames - 1) / 8
    borders = [round(size * part) for part in range(9)]
    for part in range(8):
        assert set(drawn[:, part]) == set(range(borders[part], borders[part + 1] + 1))


def test_labels_of_a_span_are_those_of_the_actions_it_overlaps() -> None:
    spans = [[3, 1.0, 2.0], [1, 1.5, 4.0], [3, 6.0, 7.0], [2, 8.0, 9.0]]
    assert labels_within(spans, 0.0, 0.99) == []
    assert labels_within(spans, 2.0, 2.5) == [1, 3]
    assert labels_within(spans, 4.5, 6.0) == [3]
    assert labels_within(spans, 1.6, 1.6) == [1, 3]
    assert labels_within(spans, 0.0, 99.0) == [1, 2, 3]


def test_a_key_frame_is_in_the_middle_of_both_pathways() -> None:
    indices = centred_indices(SPAN_64, 100, 300)
    assert indices == list(range(68, 132, 2))
    assert indices[16] == 100
    assert 100 in indices[:: SPAN_64.alpha]


def test_a_key_frame_near_an_end_is_clamped() -> None:
    assert centred_indices(SPAN_64, 4, 300) == [0] * 14 + list(range(0, 36, 2))
    assert centred_indices(SPAN_64, 299, 300) == [*range(267, 299, 2), *[299] * 16]
    assert centred_indices(SPAN_64, 0, 1) == [0] * 32


@pytest.mark.parametrize(("width", "height"), [(340, 256), (256, 340), (256, 256), (100, 80)])
def test_random_views_are_square_and_in_the_picture(width: int, height: int) -> None:
    random = np.random.default_rng(0)
    views = [random_view(width, height, (256, 320), 224, True, random) for _ in range(300)]
    for view in views:
        assert view.width == view.height
        assert view.x >= 0
        assert view.y >= 0
        assert view.x + view.width <= width + 1e-9
        assert view.y + view.height <= height + 1e-9
        assert (view.out_height, view.out_width) == (224, 224)
    # resized so that the short side is 256 to 320, the crop of 224 is 224/320 to 224/256 of the short side
    shares = [view.width / min(width, height) for view in views]
    assert min(shares) == pytest.approx(224 / 320)
    assert max(shares) == pytest.approx(224 / 256)
    assert len({round(share, 6) for share in shares}) > 40
    assert 100 < sum(view.flip for view in views) < 200


def test_a_crop_larger_than_the_picture_is_the_largest_square() -> None:
    view = random_view(64, 48, (40, 40), 56, False, np.random.default_rng(0))
    assert (view.width, view.height, view.y, view.flip) == (48, 48, 0, False)


def test_random_views_depend_only_on_the_generator() -> None:
    draw = [random_view(340, 256, (256, 320), 224, True, np.random.default_rng([3, 1])) for _ in range(2)]
    assert draw[0] == draw[1]


def test_three_crops_lie_along_the_longer_side() -> None:
    assert spatial_views(340, 256, 224, 3) == [View(x, 0, 256, 256, 224, 224) for x in (0, 42, 84)]
    assert spatial_views(256, 341, 224, 3) == [View(0, y, 256, 256, 224, 224) for y in (0, 42.5, 85)]
    assert spatial_views(340, 256, 224, 1) == [View(42, 0, 256, 256, 224, 224)]
    assert set(spatial_views(64, 64, 32, 3)) == {View(0, 0, 64, 64, 32, 32)}


def test_the_whole_view_keeps_the_shape() -> None:
    assert whole_view(640, 480, 256) == View(0, 0, 640, 480, 256, 341)
    assert whole_view(480, 640, 256) == View(0, 0, 480, 640, 341, 256)


@pytest.mark.parametrize("sides", [(0, 4, 4, 4), (4, -1, 4, 4), (4, 4, 0, 4), (4, 4, 4, 0)])
def test_an_empty_view_is_refused(sides: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="empty view"):
        View(0, 0, *sides)


def test_boxes_become_pixels_of_the_view() -> None:
    whole = View(0, 0, 200, 100, 50, 100)
    assert boxes_in_view([(0.1, 0.2, 0.5, 1.0)], 200, 100, whole) == [(0, (10, 10, 50, 50))]


def test_boxes_follow_crop_and_mirror() -> None:
    boxes = [(0.30, 0.20, 0.40, 0.40)]  # pixels 60..80, 20..40 of 200 x 100
    [(_, box)] = boxes_in_view(boxes, 200, 100, View(50, 10, 50, 50, 100, 100))
    assert box == pytest.approx((20, 20, 60, 60))
    [(_, mirrored)] = boxes_in_view(boxes, 200, 100, View(50, 10, 50, 50, 100, 100, flip=True))
    assert mirrored == pytest.approx((40, 20, 80, 60))


def test_boxes_are_clipped_at_the_border_and_removed_beyond_it() -> None:
    view = View(50, 0, 100, 100, 100, 100)
    boxes = [
        (0.0, 0.1, 0.2, 0.5),  # left of the view
        (0.2, 0.1, 0.5, 0.5),  # across its left border
        (0.6, 0.5, 1.0, 1.0),  # across its right border
        (0.252, 0.1, 0.256, 0.5),  # narrower than a pixel
        (0.1, 0.1, 0.2525, 0.5),  # half a pixel of it is in the view
    ]
    assert boxes_in_view(boxes, 200, 100, view) == [
        (1, pytest.approx((0, 10, 50, 50))),
        (2, pytest.approx((70, 50, 100, 100))),
    ]


def test_no_boxes_give_an_empty_list() -> None:
    assert boxes_in_view([], 200, 100, View(0, 0, 200, 100, 50, 100)) == []


SPAN_64_AT_30 = SPAN_64.model_copy(update={"fps": 30.0})
# Written down from the sources of the other codebases for 300 frames at 30 fps, not computed here.
STARTS = {
    "uniform": [0, 26, 52, 78, 104, 131, 157, 183, 209, 236],
    "pyslowfast": [0, 24, 48, 71, 95, 118, 142, 166, 189, 213],
    "offset": [0, 26, 52, 78, 104, 130, 156, 182, 208, 234],
    "rounded": [0, 26, 53, 79, 105, 132, 158, 184, 211, 237],
}


@pytest.mark.parametrize(
    ("clip", "starts"), [(c, s) for c in (SPAN_64, SPAN_64_AT_30) for s in STARTS if (c.fps, s) != (30.0, "rounded")]
)
def test_test_clips_start_where_each_codebase_starts_them(clip: Clip, starts: Starts) -> None:
    found = [indices[0] for indices in evaluation_indices(clip, 300, 10, starts, 30.0)]
    assert found == STARTS[starts]


def test_clips_of_mmaction2_start_at_the_nearest_frames() -> None:
    assert [indices[0] for indices in evaluation_indices(SPAN_64, 300, 10, "rounded")] == STARTS["rounded"]
    assert evaluation_indices(SPAN_64, 300, 1, "rounded")[0][0] == 118  # (300 - 63) // 2
    assert [indices[0] for indices in evaluation_indices(SPAN_64, 40, 10, "rounded")] == [0] * 10


def test_frames_of_a_clip_at_a_frame_rate_are_spread_evenly_and_rounded_down() -> None:
    # PySlowFast: torch.linspace(0, 63, 32).long() in the frames from 24 to 86 (23.6 to 86.6), clamped to the last.
    expected = [24 + min(i * 63 // 31, 62) for i in range(32)]
    assert evaluation_indices(SPAN_64_AT_30, 300, 10, "pyslowfast", 30.0)[1] == expected
    slow = Clip(T=8, tau=8, alpha=1, fps=30)
    assert evaluation_indices(slow, 64, 1, "uniform", 30.0) == [[0, 9, 18, 27, 36, 45, 54, 63]]


@pytest.mark.parametrize(("fps", "covered_frames"), [(25.0, 53), (30.0, 64), (60.0, 128), (12.5, 26)])
def test_a_clip_at_a_frame_rate_covers_the_same_time_of_any_video(fps: float, covered_frames: int) -> None:
    indices = clip_indices(SPAN_64_AT_30, 0, 1000, fps)
    assert len(indices) == 32
    assert abs(indices[-1] + 1 - covered_frames) <= 1
    instants = np.array(indices) / fps
    assert np.abs(instants - np.linspace(0, 63 / 30, 32)).max() <= 1.5 / fps
    random = np.random.default_rng(0)
    drawn = [training_indices(SPAN_64_AT_30, round(10 * fps), random, fps) for _ in range(300)]
    assert min(each[0] for each in drawn) <= 3 * fps / 25
    assert 10 * fps - 1 - 3 * fps / 25 <= max(each[-1] for each in drawn) < 10 * fps
    with pytest.raises(ValueError, match="frame rate"):
        clip_indices(SPAN_64_AT_30, 0, 1000)


@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0])
def test_a_key_frame_at_a_frame_rate_has_the_same_instants_around_it(fps: float) -> None:
    centre = round(5 * fps)
    instants = (np.array(centred_indices(SPAN_64_AT_30, centre, round(10 * fps), fps)) - centre) / fps
    assert np.abs(instants - np.arange(-32, 32, 2) / 30).max() <= 0.5 / fps
    if fps == 30:
        assert centred_indices(SPAN_64_AT_30, centre, 300, fps) == centred_indices(SPAN_64, centre, 300)


@pytest.mark.parametrize("clip", [SPAN_64, SPAN_64_AT_30])
def test_a_short_video_may_loop(clip: Clip) -> None:
    looped = clip_indices(clip.model_copy(update={"short": "loop"}), 0, 40, 30.0)
    assert looped == [i % 40 for i in clip_indices(clip, 0, 64, 30.0)]
    assert looped[:20] == clip_indices(clip, 0, 40, 30.0)[:20]


def test_a_store_of_every_second_frame_has_the_same_instants() -> None:
    whole = np.array(evaluation_indices(SPAN_64_AT_30, 500, 10, "pyslowfast", 50.0)) / 50
    half = np.array(evaluation_indices(SPAN_64_AT_30.every(2), 250, 10, "pyslowfast", 25.0)) / 25
    assert np.abs(whole - half).max() <= 2 / 25


def test_the_reciprocal_of_the_short_side_may_be_uniform() -> None:
    random = np.random.default_rng(0)
    views = [random_view(400, 256, (256, 340), 100, False, random, inverse=True) for _ in range(4000)]
    sides = np.array([256 * 100 / view.width for view in views])
    assert (sides.min().round(), sides.max().round()) == (256, 340)
    # the median of a uniform reciprocal between 1/340 and 1/256 is the harmonic mean; a uniform side has 298
    assert np.median(sides) == pytest.approx(2 / (1 / 256 + 1 / 340), abs=2)
    assert np.mean(1 / sides) == pytest.approx((1 / 256 + 1 / 340) / 2, rel=2e-3)


@pytest.mark.parametrize(("width", "height"), [(340, 256), (256, 340)])
def test_crops_by_area_have_uniform_areas_and_log_uniform_aspects(width: int, height: int) -> None:
    random = np.random.default_rng(0)
    views = [random_area_view(width, height, (0.08, 1), (3 / 4, 4 / 3), 224, True, random) for _ in range(4000)]
    areas = np.array([view.width * view.height / (width * height) for view in views])
    aspects = np.array([view.width / view.height for view in views])
    assert areas.min() == pytest.approx(0.08, abs=0.01)
    assert areas.max() > 0.9
    small = areas < 0.5  # boxes that always fit, so that no draw was rejected
    assert np.median(areas[small]) == pytest.approx(0.29, abs=0.015)
    assert np.median(np.log(aspects[small])) == pytest.approx(0, abs=0.02)
    assert np.abs(np.log(aspects)).max() == pytest.approx(np.log(4 / 3), abs=0.02)
    for view in views:
        assert 0 <= view.x <= view.x + view.width <= width
        assert 0 <= view.y <= view.y + view.height <= height
        assert (view.out_width, view.out_height) == (224, 224)
    assert {view.flip for view in views} == {True, False}


def test_a_picture_that_no_crop_by_area_fits_gives_its_middle_square() -> None:
    view = random_area_view(1000, 10, (0.9, 1), (3 / 4, 4 / 3), 224, False, np.random.default_rng(0))
    assert view == View(495, 0, 10, 10, 224, 224)


def test_recipes_draw_crops_like_their_codebase() -> None:
    assert load_recipe("kinetics400/slowfast_8x8_r50_mmaction2").train.crop_area == (0.08, 1.0)
    charades, something = "charades/slowfast_16x8_r50_pyslowfast", "something/slowfast_16x8_r50_v2"
    for name in (charades, something, "ava22/slowfast_8x8_r50_pyslowfast"):
        assert load_recipe(name).train.jitter_scale == "inverse"
    assert load_recipe("kinetics400/slowfast_8x8_r50_pyslowfast").train.jitter_scale == "uniform"
