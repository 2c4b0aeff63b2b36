"""A trained network on videos: the test protocol of the paper (section 4), or of detection (section 5).

B clips, C channels, T frames, H height, W width, V views, K boxes, A classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from slowfast_core.data.clip_store import reader as store_reader
from slowfast_core.data.clip_store.optical_flow import decode_with_flow
from slowfast_core.data.loading.render import render, render_batch
from slowfast_core.data.loading.sampling import (
    boxes_in_view,
    centred_indices,
    evaluation_indices,
    spatial_views,
    whole_view,
)
from slowfast_core.data.video.decoding import pick_frames, probe
from slowfast_core.data.video.info import DecodeError, VideoInfo
from slowfast_core.errors import InputError
from slowfast_core.model.build import build_model
from slowfast_core.model.folder import load_verified, read_checkpoint
from slowfast_core.model.folding import for_inference
from slowfast_core.recipe.data import Store
from slowfast_core.recipe.load import Evaluate
from slowfast_core.recipe.schema import Precision

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Decoded:
    """Of a video each frame that its test clips take, once, and for each clip where its frames are among them."""

    info: VideoInfo
    frames: torch.Tensor
    clips: list[list[int]]


class Scorer:
    """The network in a checkpoint folder (`model.safetensors`, `checkpoint.json`), verified and ready to score."""

    def __init__(
        self,
        checkpoint: Path,
        test: Evaluate | None = None,
        precision: Precision | None = None,
        store: Store | None = None,
    ) -> None:
        """`test` are other views, and `precision` is another, than the checkpoint's own recipe has.

        `store` tells how the clip store was written from which the videos are; None: they are from anywhere.
        """
        recipe, self.labels = read_checkpoint(checkpoint)
        self.clip = recipe.clip.every(store.every) if store else recipe.clip
        self.test = test or recipe.evaluate
        self.pixels, self.multi_label = recipe.model.pixels, recipe.model.multi_label
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        read = store_reader.read_planes if self.device.type == "cuda" else store_reader.read_frames
        self.probe = store_reader.probe if store else probe
        self.decode = decode_with_flow if recipe.model.takes_flow else read if store else pick_frames
        network = build_model(recipe.model, recipe.clip)
        network.load_state_dict(load_verified(checkpoint))
        self.network = for_inference(network.to(self.device), precision or recipe.compute.precision)

    def score_video(self, path: Path) -> Floats:
        """Softmax, or sigmoids, `[A]`: mean or maximum over the clips x crops. The video is decoded once."""
        return self._score(self.read(path))

    def score_videos(self, paths: Sequence[Path], readers: int = 1) -> Iterator[Floats]:
        """The same of each of the videos, in order, while as many threads decode the next ones."""
        waiting, reading = iter(paths), deque[Future[Decoded]]()
        with ThreadPoolExecutor(readers) as pool:
            reading.extend(pool.submit(self.read, path) for path in islice(waiting, readers))
            while reading:
                video = reading.popleft().result()
                reading.extend(pool.submit(self.read, path) for path in islice(waiting, 1))
                yield self._score(video)

    def read(self, path: Path) -> Decoded:
        """Raises InputError. However long the video is, no more is in memory than the frames of the test clips."""
        try:
            info = self.probe(path)
            wanted = evaluation_indices(self.clip, info.frames, self.test.clips)
            unique = sorted({i for indices in wanted for i in indices})
            frames = torch.from_numpy(self.decode(path, unique))
        except DecodeError as error:
            raise InputError(f"cannot decode: {error.reason}", path, "mend or leave out the video") from None
        place = {frame: i for i, frame in enumerate(unique)}
        return Decoded(info, frames, [[place[i] for i in indices] for indices in wanted])

    def views(self, video: Decoded) -> Iterator[torch.Tensor]:
        """Rendered clips `[B, C, T, H, W]` on the device, crop by crop, B no more than `batch_views`."""
        places_BT = torch.tensor(video.clips, device=self.device)
        info, frames = video.info, video.frames.to(self.device)
        crops = spatial_views(info.width, info.height, self.test.size, self.test.crops)
        for view in crops if info.width != info.height else crops[:1]:  # the crops of a square picture are one
            video_CTHW = render(frames, view, self.pixels)
            for first in range(0, len(places_BT), self.test.batch_views):
                yield video_CTHW[:, places_BT[first : first + self.test.batch_views]].transpose(0, 1)

    def _score(self, video: Decoded) -> Floats:
        views_VA = torch.cat([self._scores(clips) for clips in self.views(video)])
        scores_A: Floats = (views_VA.amax(0) if self.test.aggregation == "max" else views_VA.mean(0)).numpy()
        return scores_A

    def detect(self, path: Path, key: float, boxes: Sequence[Sequence[float]]) -> tuple[list[int], Floats]:
        """Sigmoid scores `[K, A]` of relative boxes at `key` seconds, and which of the boxes they belong to."""
        info = self.probe(path)
        indices = centred_indices(self.clip, round(key * info.fps), info.frames)
        view = whole_view(info.width, info.height, self.test.size)
        kept = boxes_in_view(boxes, info.width, info.height, view)
        frames = torch.from_numpy(self.decode(path, indices))
        boxes_K5 = torch.tensor([(0.0, *box) for _, box in kept]).reshape(-1, 5).to(self.device)
        with torch.inference_mode():
            clips_BCTHW = render_batch([frames], [view], self.pixels, self.device)
            logits_KA = self.network(clips_BCTHW, boxes_K5)
        return [i for i, _ in kept], logits_KA.sigmoid().cpu().numpy()

    def _scores(self, clips_BCTHW: torch.Tensor) -> torch.Tensor:
        clips_BCTHW = clips_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            logits_BA: torch.Tensor = self.network(clips_BCTHW)
            return (logits_BA.sigmoid() if self.multi_label else functional.softmax(logits_BA, dim=1)).cpu()
