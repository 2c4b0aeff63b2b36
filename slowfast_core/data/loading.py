"""Training samples from the clip store: decoded frames, the view to take of them, and what is true of them.

Every random choice is a function of (seed, epoch, sample), so that the number of loader workers, of training workers,
and a restart change nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slowfast_core.data.decoding import decode_frames
from slowfast_core.data.flow import decode_with_flow
from slowfast_core.data.manifest import Manifest
from slowfast_core.data.sampling import (
    Pick,
    View,
    boxes_in_view,
    centred_indices,
    clip_indices,
    random_start,
    random_view,
    resized_clip,
    spatial_views,
    uniform_starts,
)
from slowfast_core.recipe import Clip, Recipe, Train


@dataclass(frozen=True)
class Sample:
    """One clip: uint8 frames `[T, H, W, C]` of the Fast pathway, the view to render, and what is true of it."""

    index: int
    frames_THWC: Tensor  # RGB and, for a network that takes it, flow
    view: View
    label: int  # of the clip, its first; -1 where boxes have labels
    boxes_K4: Tensor  # pixels of the view
    targets_KA: Tensor  # 1.0 where box k does action a; of a clip without boxes one row, all its labels


class FrameCache:
    """Decoded videos kept in memory while they fit; the rest is decoded at each use."""

    def __init__(self, megabytes: int, flow: bool = False) -> None:
        self.decode = decode_with_flow if flow else decode_frames
        self._left = megabytes * 2**20
        self._videos: dict[Path, NDArray[np.uint8]] = {}

    def frames(self, path: Path, indices: list[int], total: int, frame_bytes: int) -> NDArray[np.uint8]:
        if path in self._videos:
            return self._videos[path][indices]
        if total * frame_bytes > self._left:
            return self.decode(path, indices)
        self._videos[path] = self.decode(path, range(total))
        self._left -= self._videos[path].nbytes
        return self._videos[path][indices]


class TrainingClips(Dataset[Sample]):
    """Item `(epoch, position)` is a randomly augmented clip of the row `position % rows`."""

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
    ) -> None:
        self.rows = manifest.rows.to_dict("records")
        self.store, self.clip, self.train, self.classes, self.seed = store, clip, train, classes, seed
        self.cache = FrameCache(cache_mb, flow)
        self.channels = 5 if flow else 3

    @classmethod
    def of(cls, recipe: Recipe, store: Path, manifest: Manifest) -> TrainingClips:
        flow, cache_mb = recipe.model.takes_flow, recipe.compute.frame_cache_mb
        return cls(store, manifest, recipe.clip, recipe.train, recipe.model.classes, recipe.seed, cache_mb, flow)

    def __len__(self) -> int:
        return len(self.rows) * self.train.clips_per_video

    def __getitem__(self, item: Pick | tuple[int, int]) -> Sample:
        epoch, position, frames, side = Pick(*item)
        index = position % len(self.rows)
        row = self.rows[index]
        random = np.random.default_rng([self.seed, epoch, position])
        total = int(row["frames"])
        clip = resized_clip(self.clip, frames, random) if frames else self.clip
        if row["boxes"] is not None:
            indices = centred_indices(clip, round(row["key"] * row["fps"]), total)
        else:
            indices = clip_indices(clip, random_start(clip, total, random), total)
        (shortest, longest), crop = self.train.jitter, side or self.train.crop
        jitter = (round(shortest * crop / self.train.crop), longest)
        view = random_view(int(row["width"]), int(row["height"]), jitter, crop, self.train.flip, random)
        return self._sample(index, indices, view)

    def centred(self, index: int, size: int) -> Sample:
        """The middle clip, or that around the key frame: one view of `size`, without augmentation."""
        row = self.rows[index]
        width, height, total = int(row["width"]), int(row["height"]), int(row["frames"])
        if row["boxes"] is not None:
            indices = centred_indices(self.clip, round(row["key"] * row["fps"]), total)
        else:
            indices = clip_indices(self.clip, uniform_starts(self.clip, total, 1)[0], total)
        return self._sample(index, indices, spatial_views(width, height, size, 1)[0])

    def _sample(self, index: int, indices: list[int], view: View) -> Sample:
        row = self.rows[index]
        width, height, total = int(row["width"]), int(row["height"]), int(row["frames"])
        detect = row["boxes"] is not None
        frame_bytes = self.channels * width * height
        frames = torch.from_numpy(self.cache.frames(self.store / row["path"], indices, total, frame_bytes))
        label = -1 if detect else int(row["labels"][0])
        boxes_K4, targets_KA = self._boxes(row, view) if detect else (torch.empty(0, 4), self._labels(row))
        return Sample(index, frames, view, label, boxes_K4, targets_KA)

    def _labels(self, row: dict[Hashable, Any]) -> Tensor:
        return torch.zeros(1, self.classes).index_fill_(1, torch.as_tensor(row["labels"], dtype=torch.long), 1)

    def _boxes(self, row: dict[Hashable, Any], view: View) -> tuple[Tensor, Tensor]:
        kept = boxes_in_view(row["boxes"], int(row["width"]), int(row["height"]), view)
        targets_KA = torch.zeros(len(kept), self.classes)
        for k, (box, _) in enumerate(kept):
            targets_KA[k, torch.as_tensor(row["box_labels"][box], dtype=torch.long)] = 1
        return torch.tensor([pixels for _, pixels in kept]).reshape(-1, 4), targets_KA


def training_loader(clips: TrainingClips, batches: Iterable[list[Pick]], loader_workers: int) -> DataLoader[Sample]:
    """Lists of samples; frames stay uint8 until they are on the device."""
    return DataLoader(
        clips,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=loader_workers,
        collate_fn=list,
        persistent_workers=loader_workers > 0,  # starting them takes seconds, and they hold the frame cache
        multiprocessing_context="forkserver" if loader_workers else None,
    )
