"""Training samples are the same for any number of workers and after a resume at any batch."""

from __future__ import annotations

import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from videos import ava_row, kinetics_row, moving_frames, write_video

from slowfast_core.data.loading.dataset import Batch, FrameCache, Sample, TrainingClips, training_loader
from slowfast_core.data.loading.render import rgb_of_planes
from slowfast_core.data.loading.sampling import boxes_in_view, centred_indices
from slowfast_core.data.manifest import SCHEMA, Manifest
from slowfast_core.data.video.decoding import pick_frames
from slowfast_core.recipe.load import Clip, Train
from slowfast_core.training.plan import Plan

CLIP = Clip(T=2, tau=4, alpha=2)
TRAIN = Train(batch=4, jitter=(40, 56), crop=32, clips_per_video=2)
SEED = 3
LENGTHS = (5, 8, 20, 12, 30, 9, 16)


def manifest(rows: list[dict[str, Any]]) -> Manifest:
    table = pd.DataFrame([{name: row.get(name) for name in SCHEMA.names} for row in rows], dtype=object)
    return Manifest(table, ("left", "right", "up"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for number, length in enumerate(LENGTHS):
        write_video(root / "clips" / f"{number}.mp4", moving_frames(length, 48, 64, seed=number), gop=4, b_frames=0)
    return root


@pytest.fixture(scope="module")
def kinetics() -> Manifest:
    """Seven clips of different lengths, 64 x 48."""
    info = {"fps": 10.0, "width": 64, "height": 48}
    return manifest(
        [
            {**kinetics_row(f"video{i}", f"clips/{i}.mp4", label=i % 3), **info, "frames": length}
            for i, length in enumerate(LENGTHS)
        ]
    )


def clips_of(store: Path, table: Manifest, train: Train = TRAIN, cache_mb: int = 0, seed: int = SEED) -> TrainingClips:
    return TrainingClips(store, table, CLIP, train, 3, seed, cache_mb)


def epoch_of(
    clips: TrainingClips, epoch: int, skip: int = 0, rank: int = 0, ranks: int = 1, loader_workers: int = 0
) -> list[list[Sample]]:
    batches = Plan(clips.train, CLIP, len(clips), SEED, rank, ranks)
    batches.start(epoch, skip)
    return [batch.samples for batch in training_loader(clips, batches, loader_workers)]


def sample_of(clips: TrainingClips, epoch: int, draw: int) -> Sample:
    [sample] = Batch.of([clips[epoch, draw]]).samples
    return sample


def same(a: Sample, b: Sample) -> bool:
    tensors = zip((a.frames, a.boxes_K4, a.targets_KA), (b.frames, b.boxes_K4, b.targets_KA), strict=True)
    return (a.index, a.view, a.label) == (b.index, b.view, b.label) and all(torch.equal(x, y) for x, y in tensors)


def all_same(a: list[list[Sample]], b: list[list[Sample]]) -> bool:
    pairs = [list(zip(x, y, strict=True)) for x, y in zip(a, b, strict=True)]
    return all(same(x, y) for pair in pairs for x, y in pair)


def test_a_clip_has_the_labels_of_its_own_time(store: Path) -> None:
    """A video of 3 s at 10 fps: class 0 ends at 1 s, class 2 begins at 2 s."""
    row = {**kinetics_row("long", "clips/4.mp4"), "fps": 10.0, "width": 64, "height": 48, "frames": 30}
    row |= {"labels": [0, 2], "spans": [[0, 0.0, 1.0], [2, 2.0, 3.0]]}
    clips = clips_of(store, manifest([row]))
    seen = set()
    for epoch in range(40):
        sample = sample_of(clips, epoch, 0)
        first = first_frame(sample, store)
        expected = [float(first <= 10), 0.0, float(first + 6 >= 20)]
        assert sample.targets_KA.tolist() == [expected]
        seen.add(tuple(expected))
    assert len(seen) == 3


def first_frame(sample: Sample, store: Path) -> int:
    """Number of the frame of the long video that is first in the sample."""
    whole = torch.from_numpy(pick_frames(store / "clips" / "4.mp4", range(30)))
    return next(i for i in range(30) if torch.equal(whole[i], sample.frames[0]))


def test_a_video_without_labels_has_no_target(store: Path) -> None:
    row = {**kinetics_row("long", "clips/4.mp4"), "fps": 10.0, "width": 64, "height": 48, "frames": 30}
    sample = sample_of(clips_of(store, manifest([{**row, "labels": [], "spans": []}])), 0, 0)
    assert (sample.label, sample.targets_KA.tolist()) == (-1, [[0.0, 0.0, 0.0]])


def test_an_epoch_has_each_sample_at_most_once_in_full_batches(store: Path, kinetics: Manifest) -> None:
    clips = clips_of(store, kinetics)
    batches = Plan(clips.train, CLIP, len(clips), SEED)
    assert (len(clips), len(batches)) == (14, 3)
    positions = [pick.position for batch in batches for pick in batch]
    assert len(positions) == len(set(positions)) == 12
    assert {pick.epoch for batch in batches for pick in batch} == {0}


def test_frames_are_a_span_of_the_video(store: Path, kinetics: Manifest) -> None:
    for sample in [s for batch in epoch_of(clips_of(store, kinetics), 0) for s in batch]:
        path, length = store / "clips" / f"{sample.index}.mp4", LENGTHS[sample.index]
        assert sample.frames.shape == (4, 48, 64, 3)
        assert sample.frames.dtype == torch.uint8
        assert sample.label == sample.index % 3
        spans = [[min(start + 2 * i, length - 1) for i in range(4)] for start in range(max(length - 8, 0) + 1)]
        assert any(np.array_equal(pick_frames(path, span), sample.frames.numpy()) for span in spans)
        assert (sample.view.out_height, sample.view.out_width) == (32, 32)
        assert 48 * 32 / 56 - 1e-6 <= sample.view.width <= 48 * 32 / 40 + 1e-6


def test_loader_workers_do_not_change_the_samples(store: Path, kinetics: Manifest) -> None:
    clips = clips_of(store, kinetics)
    batches = Plan(clips.train, CLIP, len(clips), SEED)
    loader = training_loader(clips, batches, 2)
    for epoch, skip in ((0, 0), (1, 2)):  # the same loader goes through several epochs
        batches.start(epoch, skip)
        assert all_same([batch.samples for batch in loader], epoch_of(clips, epoch, skip))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_divide_the_batches_of_a_single_process(store: Path, kinetics: Manifest, ranks: int) -> None:
    clips = clips_of(store, kinetics)
    split = [epoch_of(clips, 5, rank=rank, ranks=ranks) for rank in range(ranks)]
    together = [[sample for rank in step for sample in rank] for step in zip(*split, strict=True)]
    assert all(len(part) == 4 // ranks for rank in split for part in rank)
    assert all_same(together, epoch_of(clips, 5))


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_an_epoch_resumes_at_any_batch(store: Path, kinetics: Manifest, skip: int) -> None:
    clips = clips_of(store, kinetics)
    assert all_same(epoch_of(clips, 1, skip), epoch_of(clips, 1)[skip:])


def test_epochs_differ_in_order_views_and_omitted_samples(store: Path, kinetics: Manifest) -> None:
    clips = clips_of(store, kinetics)
    orders = [[s.index for batch in epoch_of(clips, epoch) for s in batch] for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    left_out = {frozenset(range(14)) - {p for batch in _positions(epoch) for p in batch} for epoch in range(6)}
    assert len(left_out) > 1
    assert sample_of(clips, 0, 4).view != sample_of(clips, 1, 4).view
    assert sample_of(clips, 0, 4).view != sample_of(clips_of(store, kinetics, seed=SEED + 1), 0, 4).view


def test_the_clips_of_a_video_in_an_epoch_differ(store: Path, kinetics: Manifest) -> None:
    clips = clips_of(store, kinetics)
    first, second = sample_of(clips, 0, 4), sample_of(clips, 0, 4 + len(LENGTHS))
    assert first.index == second.index == 4
    assert first.view != second.view


def test_the_cache_does_not_change_the_samples(store: Path, kinetics: Manifest) -> None:
    decoded = epoch_of(clips_of(store, kinetics), 0)
    cached = clips_of(store, kinetics, cache_mb=100)
    assert all_same(epoch_of(cached, 0), decoded)
    assert all_same(epoch_of(cached, 0), decoded)  # now from memory


def test_cached_frames_are_read_without_the_file(store: Path, tmp_path: Path) -> None:
    cache = FrameCache(1)
    path = tmp_path / "clip.mp4"
    path.write_bytes((store / "clips" / "4.mp4").read_bytes())
    first = cache.frames(path, [3, 1, 1], 30, 48 * 64 * 3)
    path.unlink()
    assert np.array_equal(cache.frames(path, [3, 1, 1], 30, 48 * 64 * 3), first)
    assert np.array_equal(first, pick_frames(store / "clips" / "4.mp4", [3, 1, 1]))


def test_the_cache_stays_within_its_limit(store: Path, tmp_path: Path) -> None:
    cache = FrameCache(1)  # room for three of these videos of 276 480 bytes
    paths = [tmp_path / f"{i}.mp4" for i in range(5)]
    for path in paths:
        path.write_bytes((store / "clips" / "4.mp4").read_bytes())
        cache.frames(path, [0], 30, 48 * 64 * 3)
    assert sum(video.nbytes for video in cache._videos.values()) <= 2**20
    assert len(cache._videos) == 3
    assert cache.frames(paths[-1], [29], 30, 48 * 64 * 3).shape == (1, 48, 64, 3)


def test_planes_are_converted_to_the_same_frames(store: Path, kinetics: Manifest) -> None:
    planes = TrainingClips(store, kinetics, CLIP, TRAIN, 3, SEED, 0, planes=True)
    for coded, rgb in zip(epoch_of(planes, 0)[0], epoch_of(clips_of(store, kinetics), 0)[0], strict=True):
        assert coded.frames.shape == (4, 72, 64)
        assert torch.equal(rgb_of_planes(coded.frames), rgb.frames)
        assert same(replace(coded, frames=rgb.frames), rgb)


def test_repeated_clips_of_a_video_are_loaded_together_and_equal_single_draws(store: Path, kinetics: Manifest) -> None:
    together = clips_of(store, kinetics, TRAIN.model_copy(update={"repeat": 2}))
    single = clips_of(store, kinetics)
    assert (len(together), len(single)) == (7, 14)
    for draw in range(7):
        group = Batch.of([together[3, draw]]).samples
        assert all_same([group], [[sample_of(single, 3, draw), sample_of(single, 3, draw + 7)]])


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_clip_damaged_after_extraction_is_skipped_and_listed(
    store: Path, kinetics: Manifest, tmp_path: Path, loader_workers: int
) -> None:
    shutil.copytree(store, tmp_path / "store")
    (tmp_path / "store/clips/2.mp4").unlink()
    (tmp_path / "store/clips/5.mp4").write_bytes(b"not a video")
    clips = clips_of(tmp_path / "store", kinetics)
    batches = Plan(clips.train, CLIP, len(clips), SEED)
    batches.start(0, 0)
    loaded = list(training_loader(clips, batches, loader_workers))
    whole = epoch_of(clips_of(store, kinetics), 0)
    for batch, samples in zip(loaded, whole, strict=True):
        assert batch.bad == [s.index for s in samples if s.index in (2, 5)]
        assert all_same([batch.samples], [[s for s in samples if s.index not in (2, 5)]])
    assert any(batch.bad for batch in loaded)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def growth(clips: TrainingClips, samples: int) -> float:
    """Megabytes by which the process grows after the first hundred samples."""
    for draw in range(100):
        clips[0, draw % len(clips)]
    before = resident_mb()
    for number in range(samples):
        clips[1 + number // len(clips), number % len(clips)]
    return resident_mb() - before


def test_memory_does_not_grow(store: Path, kinetics: Manifest) -> None:
    assert growth(clips_of(store, kinetics), 200) < 10


@pytest.mark.exhaustive
@pytest.mark.parametrize("planes", [False, True])
def test_memory_does_not_grow_over_thousands_of_samples(store: Path, kinetics: Manifest, planes: bool) -> None:
    assert growth(TrainingClips(store, kinetics, CLIP, TRAIN, 3, SEED, 0, planes=planes), 5000) < 10


def test_key_frames_have_boxes_in_the_view_and_their_actions(store: Path) -> None:
    boxes = [(0.05, 0.1, 0.3, 0.9), (0.4, 0.2, 0.7, 0.8), (0.9, 0.1, 1.0, 0.5)]
    row = {
        **ava_row("movie", "clips/4.mp4", 1, boxes=boxes),
        **{"frames": 30, "fps": 10.0, "width": 64, "height": 48, "box_labels": [[0, 2], [1], [2]]},
    }
    clips = clips_of(store, manifest([row]), TRAIN.model_copy(update={"batch": 1}))
    actions = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    counts = set()
    for epoch in range(8):
        sample = sample_of(clips, epoch, 0)
        assert sample.label == -1
        expected = centred_indices(CLIP, 10, 30)
        assert np.array_equal(sample.frames.numpy(), pick_frames(store / "clips" / "4.mp4", expected))
        kept = boxes_in_view(boxes, 64, 48, sample.view)
        assert sample.boxes_K4.tolist() == [pytest.approx(box) for _, box in kept]
        assert torch.equal(sample.targets_KA, actions[[i for i, _ in kept]])
        counts.add(len(kept))
    assert len(counts) > 1  # some views exclude boxes


def test_a_view_without_boxes_gives_empty_tensors(store: Path) -> None:
    row = ava_row("movie", "clips/4.mp4", 1, boxes=[(0.0, 0.0, 0.001, 0.001)])
    clips = clips_of(store, manifest([{**row, "frames": 30, "fps": 10.0, "width": 64, "height": 48}]))
    sample = sample_of(clips, 0, 0)
    assert sample.boxes_K4.shape == (0, 4)
    assert sample.targets_KA.shape == (0, 3)


def _positions(epoch: int) -> list[list[int]]:
    batches = Plan(TRAIN, CLIP, 14, SEED)
    batches.start(epoch, 0)
    return [[pick.position for pick in batch] for batch in batches]
