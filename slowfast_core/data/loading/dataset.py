"""Training samples from the clip store: decoded frames, the view to render, and labels.

Every random choice is a function of (seed, epoch, sample), so that the number of loader workers or training workers
and restarts have no effect. T frames, H height, W width, C channels; R rows of coded planes, 3/2 H.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slowfast_core.data.clip_store.optical_flow import decode_with_flow
from slowfast_core.data.clip_store.reader import read_frames, read_planes
from slowfast_core.data.loading.sampling import (
    Pick,
    View,
    boxes_in_view,
    centred_indices,
    evaluation_indices,
    labels_within,
    random_area_view,
    random_color,
    random_view,
    resized_clip,
    spatial_views,
    training_indices,
)
from slowfast_core.data.manifest import Manifest
from slowfast_core.data.video.info import DecodeError
from slowfast_core.recipe.load import Clip, Recipe, Train

Decode = Callable[[Path, Sequence[int]], NDArray[np.uint8]]
BYTES: dict[Decode, float] = {read_frames: 3.0, read_planes: 1.5, decode_with_flow: 5.0}  # bytes per pixel


@dataclass(frozen=True)
class Sample:
    """One clip: uint8 frames of the Fast pathway, the view to render, and its labels or boxes."""

    index: int
    frames: Tensor  # `[T, H, W, C]`, RGB and optionally flow; or planes `[T, R, W]`
    view: View
    label: int  # first label of the clip; -1 for detection, where boxes have labels
    boxes_K4: Tensor  # pixels of the view
    targets_KA: Tensor  # 1.0 if box k has action a; for classification, one row with all labels of the clip


@dataclass(frozen=True)
class Batch:
    """The samples of one worker's step, and the rows of undecodable clips, which are omitted, not replaced."""

    samples: list[Sample]
    bad: list[int]

    @classmethod
    def of(cls, drawn: Sequence[list[Sample] | int]) -> Batch:
        samples = [sample for group in drawn if not isinstance(group, int) for sample in group]
        return cls(samples, [row for row in drawn if isinstance(row, int)])

    def pin_memory(self) -> Batch:
        """Pin the frames; the loader calls this for CUDA devices, to overlap transfers with computation."""
        return Batch([replace(sample, frames=sample.frames.pin_memory()) for sample in self.samples], self.bad)


class FrameCache:
    """Caches decoded videos up to a memory limit; other videos are decoded at each use."""

    def __init__(self, megabytes: int, decode: Decode = read_frames) -> None:
        self.decode = decode
        self._left = megabytes * 2**20
        self._videos: dict[Path, NDArray[np.uint8]] = {}

    def frames(self, path: Path, indices: list[int], total: int, frame_bytes: float) -> NDArray[np.uint8]:
        if path in self._videos:
            return self._videos[path][indices]
        if total * frame_bytes > self._left:
            return self.decode(path, indices)
        self._videos[path] = self.decode(path, range(total))
        self._left -= self._videos[path].nbytes
        return self._videos[path][indices]


class TrainingClips(Dataset[list[Sample] | int]):
    """Item `(epoch, draw)` is a list of `train.repeat` randomly augmented clips of the row `draw % rows`.

    The clips of a draw share one decoding of the video. If it fails, the item is the number of the row.
    """

    def __init__(
        self,
        store: Path,
        manifest: Manifest,
        clip: Clip,
        train: Train,
        classes: int,
        seed: int,
        cache_mb: int,
        flow: bool = False,
        planes: bool = False,
    ) -> None:
        """`clip` counts in frames of the store. `planes`: leave the conversion to RGB to the device."""
        self.rows = manifest.rows.to_dict("records")
        self.store = store
        self.clip = clip
        self.train = train
        self.classes = classes
        self.seed = seed
        self.decode: Decode = decode_with_flow if flow else read_planes if planes else read_frames
        self.cache = FrameCache(cache_mb, self.decode)
        self.channels = 5 if flow else 3

    @classmethod
    def of(cls, recipe: Recipe, store: Path, manifest: Manifest, planes: bool = False) -> TrainingClips:
        clip = recipe.clip.every(recipe.data.store.every)
        flow, cache_mb = recipe.model.takes_flow, recipe.compute.frame_cache_mb
        planes = planes and recipe.data.store.codec == "h264"
        return cls(store, manifest, clip, recipe.train, recipe.model.classes, recipe.seed, cache_mb, flow, planes)

    def __len__(self) -> int:
        """Number of draws per epoch."""
        return len(self.rows) * self.train.clips_per_video // self.train.repeat

    def __getitem__(self, item: Pick | tuple[int, int]) -> list[Sample] | int:
        pick = Pick(*item)
        places = [pick.position + i * len(self) for i in range(self.train.repeat)]
        return self._samples(
            pick.position % len(self.rows), [self._draw(pick._replace(position=place)) for place in places]
        )

    def centred(self, index: int, size: int) -> list[Sample] | int:
        """The clip in the middle or around the key frame, with one view of `size`, without augmentation."""
        row = self.rows[index]
        width, height, total = int(row["width"]), int(row["height"]), int(row["frames"])
        if row["boxes"] is not None:
            indices = centred_indices(self.clip, round(row["key"] * row["fps"]), total, row["fps"])
        else:
            indices = evaluation_indices(self.clip, total, 1, fps=row["fps"])[0]
        return self._samples(index, [(indices, spatial_views(width, height, size, 1)[0])])

    def blank(self) -> Sample:
        """An empty sample for a worker without any good clip in a step, because all workers must take part."""
        size = self.train.crop
        frames = torch.zeros(self.clip.fast_frames, size, size, self.channels, dtype=torch.uint8)
        rows = 0 if self.rows[0]["boxes"] is not None else 1
        targets_KA = torch.zeros(rows, self.classes)
        return Sample(-1, frames, View(0, 0, size, size, size, size), 0, torch.empty(0, 4), targets_KA)

    def _draw(self, pick: Pick) -> tuple[list[int], View]:
        """Frame indices and view of one sample, the only random choices."""
        row = self.rows[pick.position % len(self.rows)]
        random = np.random.default_rng([self.seed, pick.epoch, pick.position])
        width, height, total = int(row["width"]), int(row["height"]), int(row["frames"])
        clip = resized_clip(self.clip, pick.frames, random) if pick.frames else self.clip
        if row["boxes"] is not None:
            indices = centred_indices(clip, round(row["key"] * row["fps"]), total, row["fps"])
        else:
            indices = training_indices(clip, total, random, row["fps"])
        view = self._view(width, height, pick.side or self.train.crop, random)
        color = random_color(self.train.color_jitter, self.train.lighting_jitter, random)
        return indices, replace(view, color=color) if color else view

    def _view(self, width: int, height: int, crop: int, random: np.random.Generator) -> View:
        train = self.train
        if train.crop_area:
            return random_area_view(width, height, train.crop_area, train.crop_aspect, crop, train.flip, random)
        jitter = (round(train.jitter[0] * crop / train.crop), train.jitter[1])
        return random_view(width, height, jitter, crop, train.flip, random, train.jitter_scale == "inverse")

    def _samples(self, index: int, drawn: list[tuple[list[int], View]]) -> list[Sample] | int:
        """Samples of one row from one decoding, or the row's number if it does not decode."""
        row = self.rows[index]
        wanted = [frame for indices, _ in drawn for frame in indices]
        frame_bytes = BYTES[self.decode] * row["width"] * row["height"]
        try:
            frames = self.cache.frames(self.store / row["path"], wanted, int(row["frames"]), frame_bytes)
        except DecodeError:
            return index
        parts = torch.from_numpy(frames).reshape(len(drawn), -1, *frames.shape[1:])
        return [self._sample(index, row, part, *each) for part, each in zip(parts, drawn, strict=True)]

    def _sample(self, index: int, row: dict[Hashable, Any], frames: Tensor, indices: list[int], view: View) -> Sample:
        detect = row["boxes"] is not None
        label = -1 if detect or not len(row["labels"]) else int(row["labels"][0])
        boxes_K4, targets_KA = self._boxes(row, view) if detect else (torch.empty(0, 4), self._labels(row, indices))
        return Sample(index, frames, view, label, boxes_K4, targets_KA)

    def _labels(self, row: dict[Hashable, Any], indices: list[int]) -> Tensor:
        """Labels of a clip; for videos with timed actions, the actions that overlap with the clip."""
        labels, spans = row["labels"], row.get("spans")
        if spans is not None:
            labels = labels_within(spans, min(indices) / row["fps"], max(indices) / row["fps"])
        return torch.zeros(1, self.classes).index_fill_(1, torch.tensor(labels, dtype=torch.long), 1)

    def _boxes(self, row: dict[Hashable, Any], view: View) -> tuple[Tensor, Tensor]:
        kept = boxes_in_view(row["boxes"], int(row["width"]), int(row["height"]), view)
        targets_KA = torch.zeros(len(kept), self.classes)
        for k, (box, _) in enumerate(kept):
            targets_KA[k, torch.tensor(row["box_labels"][box], dtype=torch.long)] = 1
        return torch.tensor([pixels for _, pixels in kept]).reshape(-1, 4), targets_KA


def training_loader(
    clips: TrainingClips, batches: Iterable[list[Pick]], loader_workers: int, pin: bool = False
) -> DataLoader[Batch]:
    """A loader of batches. Frames stay uint8 until they are on the device; `pin` overlaps transfers and computation."""
    return DataLoader(
        clips,  # type: ignore[arg-type]
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=loader_workers,
        collate_fn=Batch.of,
        pin_memory=pin,
        persistent_workers=loader_workers > 0,  # they take seconds to start, and contain the frame cache
        multiprocessing_context="forkserver" if loader_workers else None,
    )
