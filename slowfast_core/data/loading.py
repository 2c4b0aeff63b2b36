"""Training samples from the clip store: which, in which order, on which worker, and their decoded frames.

Every random choice is a function of (seed, epoch, sample), so that the number of loader workers, of training workers,
and a restart change nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
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
    View,
    boxes_in_view,
    centred_indices,
    labels_within,
    random_view,
    training_indices,
)
from slowfast_core.recipe import Clip, Train


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

    def __len__(self) -> int:
        return len(self.rows) * self.train.clips_per_video

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, position = item
        index = position % len(self.rows)
        row = self.rows[index]
        random = np.random.default_rng([self.seed, epoch, position])
        width, height, total = int(row["width"]), int(row["height"]), int(row["frames"])
        detect = row["boxes"] is not None
        if detect:
            indices = centred_indices(self.clip, round(row["key"] * row["fps"]), total)
        else:
            indices = training_indices(self.clip, total, random)
        view = random_view(width, height, self.train.jitter, self.train.crop, self.train.flip, random)
        frame_bytes = self.channels * width * height
        frames = torch.from_numpy(self.cache.frames(self.store / row["path"], indices, total, frame_bytes))
        label = -1 if detect or not len(row["labels"]) else int(row["labels"][0])
        boxes_K4, targets_KA = self._boxes(row, view) if detect else (torch.empty(0, 4), self._labels(row, indices))
        return Sample(index, frames, view, label, boxes_K4, targets_KA)

    def _labels(self, row: dict[Hashable, Any], indices: list[int]) -> Tensor:
        """Of a video with actions at their times those that go on in the clip."""
        labels, spans = row["labels"], row.get("spans")
        if spans is not None:
            labels = labels_within(spans, indices[0] / row["fps"], indices[-1] / row["fps"])
        return torch.zeros(1, self.classes).index_fill_(1, torch.as_tensor(labels, dtype=torch.long), 1)

    def _boxes(self, row: dict[Hashable, Any], view: View) -> tuple[Tensor, Tensor]:
        kept = boxes_in_view(row["boxes"], int(row["width"]), int(row["height"]), view)
        targets_KA = torch.zeros(len(kept), self.classes)
        for k, (box, _) in enumerate(kept):
            targets_KA[k, torch.as_tensor(row["box_labels"][box], dtype=torch.long)] = 1
        return torch.tensor([pixels for _, pixels in kept]).reshape(-1, 4), targets_KA


class EpochBatches:
    """Batches of `(epoch, position)` for one worker: the epoch's permutation, cut into global batches, cut by rank.

    A last batch that is not full is left out; each epoch leaves out other samples.
    """

    def __init__(self, samples: int, batch: int, seed: int, rank: int, workers: int) -> None:
        self.samples, self.batch, self.seed = samples, batch, seed
        self.each = batch // workers
        self.first = rank * self.each
        self.epoch, self.skip = 0, 0

    @property
    def steps(self) -> int:
        return self.samples // self.batch

    def start(self, epoch: int, skip: int) -> None:
        """Position the next iteration at batch `skip` of `epoch`."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return self.steps - self.skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        for step in range(self.skip, self.steps):
            mine = order[step * self.batch + self.first :][: self.each]
            yield [(self.epoch, int(position)) for position in mine]


def training_loader(clips: TrainingClips, batches: EpochBatches, loader_workers: int) -> DataLoader[Sample]:
    """Lists of samples; frames stay uint8 until they are on the device."""
    return DataLoader(
        clips,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=loader_workers,
        collate_fn=list,
        persistent_workers=loader_workers > 0,  # starting them takes seconds, and they hold the frame cache
        multiprocessing_context="forkserver" if loader_workers else None,
    )
