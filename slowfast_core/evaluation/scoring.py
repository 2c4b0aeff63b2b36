"""Runs a trained network on videos by the paper's test protocol of classification (section 4) or detection (section 5).

B clips, C channels, T frames, H height, W width, V views, K boxes, A classes.
"""

from __future__ import annotations

import time
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
    """The frames of a video that its test clips use."""

    info: VideoInfo
    frames: torch.Tensor  # each frame once
    clips: list[list[int]]  # for each clip, the positions of its frames in `frames`
    seconds: float = 0.0  # that decoding took


@dataclass(frozen=True)
class Scored:
    """Scores of a video `[A]`, or of the boxes of a key frame `[K, A]`, and the seconds that they took."""

    scores: Floats
    decode_seconds: float
    inference_seconds: float
    boxes: tuple[int, ...] = ()  # detection: indices of the K boxes in view


class Scorer:
    """The network of a checkpoint folder (`model.safetensors`, `checkpoint.json`), verified and ready for inference."""

    def __init__(
        self,
        checkpoint: Path,
        test: Evaluate | None = None,
        precision: Precision | None = None,
        store: Store | None = None,
    ) -> None:
        """Load the weights. Raises InputError when they are damaged or were changed.

        `test` and `precision` override those of the checkpoint's recipe. `store` describes the clip store that the
        videos belong to; None: any video files.
        """
        recipe, self.labels = read_checkpoint(checkpoint)
        self.clip = recipe.clip.every(store.every) if store else recipe.clip
        self.test = test or recipe.evaluate
        self.pixels = recipe.model.pixels
        self.multi_label = recipe.model.multi_label
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        read = store_reader.read_planes if self.device.type == "cuda" else store_reader.read_frames
        self.probe = store_reader.probe if store else probe
        self.decode = decode_with_flow if recipe.model.takes_flow else read if store else pick_frames
        network = build_model(recipe.model, recipe.clip)
        network.load_state_dict(load_verified(checkpoint))
        self.network = for_inference(network.to(self.device), precision or recipe.compute.precision)

    def score_video(self, path: Path) -> Floats:
        """Softmax or sigmoid scores `[A]`, averaged (or maximum) over clips x crops. The video is decoded once."""
        return self._score(self.read(path))

    def score_videos(self, paths: Sequence[Path], readers: int = 1) -> Iterator[Scored]:
        """`score_video` for each video, in order, while `readers` threads decode the next ones."""
        remaining = iter(paths)
        reading = deque[Future[Decoded]]()
        with ThreadPoolExecutor(readers) as pool:
            reading.extend(pool.submit(self.read, path) for path in islice(remaining, readers))
            while reading:
                video = reading.popleft().result()
                reading.extend(pool.submit(self.read, path) for path in islice(remaining, 1))
                started = time.perf_counter()
                scores_A = self._score(video)
                yield Scored(scores_A, video.seconds, time.perf_counter() - started)

    def read(self, path: Path) -> Decoded:
        """Decode the frames of the test clips; memory does not grow with the length of the video.

        Raises InputError when the video cannot be decoded.
        """
        started = time.perf_counter()
        try:
            info = self.probe(path)
            clips = evaluation_indices(self.clip, info.frames, self.test.clips, self.test.starts, info.fps)
            unique = sorted({i for indices in clips for i in indices})
            frames = torch.from_numpy(self.decode(path, unique))
        except DecodeError as error:
            raise InputError(f"cannot decode: {error.reason}", path, "repair or leave out the video") from None
        position = {frame: i for i, frame in enumerate(unique)}
        positions = [[position[i] for i in indices] for indices in clips]
        return Decoded(info, frames, positions, time.perf_counter() - started)

    def views(self, video: Decoded) -> Iterator[torch.Tensor]:
        """Rendered clips `[B, C, T, H, W]` on the device, crop by crop, with B at most `batch_views`."""
        positions_BT = torch.tensor(video.clips, device=self.device)
        info = video.info
        frames = video.frames.to(self.device)
        crops = spatial_views(info.width, info.height, self.test.size, self.test.crops)
        for view in crops if info.width != info.height else crops[:1]:  # all crops of a square video are the same
            video_CTHW = render(frames, view, self.pixels)
            for first in range(0, len(positions_BT), self.test.batch_views):
                yield video_CTHW[:, positions_BT[first : first + self.test.batch_views]].transpose(0, 1)

    def _score(self, video: Decoded) -> Floats:
        views_VA = torch.cat([self._scores(clips) for clips in self.views(video)])
        scores_A: Floats = (views_VA.amax(0) if self.test.aggregation == "max" else views_VA.mean(0)).numpy()
        return scores_A

    def detect(self, path: Path, key: float, boxes: Sequence[Sequence[float]]) -> Scored:
        """Detect actions at `key` seconds in those of the relative `boxes` that are in view: sigmoids `[K, A]`."""
        started = time.perf_counter()
        info = self.probe(path)
        indices = centred_indices(self.clip, round(key * info.fps), info.frames, info.fps)
        frames = torch.from_numpy(self.decode(path, indices))
        decoded = time.perf_counter()
        view = whole_view(info.width, info.height, self.test.size)
        kept = boxes_in_view(boxes, info.width, info.height, view)
        boxes_K5 = torch.tensor([(0.0, *box) for _, box in kept]).reshape(-1, 5).to(self.device)
        with torch.inference_mode():
            clips_BCTHW = render_batch([frames], [view], self.pixels, self.device)
            logits_KA = self.network(clips_BCTHW, boxes_K5)
        scores_KA: Floats = logits_KA.sigmoid().cpu().numpy()
        return Scored(scores_KA, decoded - started, time.perf_counter() - decoded, tuple(i for i, _ in kept))

    def _scores(self, clips_BCTHW: torch.Tensor) -> torch.Tensor:
        clips_BCTHW = clips_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            logits_BA: torch.Tensor = self.network(clips_BCTHW)
            return (logits_BA.sigmoid() if self.multi_label else functional.softmax(logits_BA, dim=1)).cpu()
