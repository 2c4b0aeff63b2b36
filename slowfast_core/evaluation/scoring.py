"""A trained network on videos: the test protocol of the paper (section 4), or of detection (section 5).

B clips, C channels, T frames, H height, W width, V views, K boxes, A classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from slowfast_core.data.augment import render, render_batch
from slowfast_core.data.decoding import decode_frames, probe
from slowfast_core.data.flow import decode_with_flow
from slowfast_core.data.sampling import (
    boxes_in_view,
    centred_indices,
    evaluation_indices,
    spatial_views,
    whole_view,
)
from slowfast_core.errors import InputError
from slowfast_core.model.build import build_model
from slowfast_core.model.folding import for_inference
from slowfast_core.model.weights import load_weights
from slowfast_core.recipe import Evaluate, Recipe, parse_recipe
from slowfast_core.sections import Precision

Floats = NDArray[np.float32]
RECORD_EXTRAS = ("labels", "data_version", "parent_checkpoint", "run_id", "weights_digest", "converted_from")


class Scorer:
    """The network in a checkpoint folder (`model.safetensors`, `checkpoint.json`), ready to score."""

    def __init__(self, checkpoint: Path, test: Evaluate | None = None, precision: Precision | None = None) -> None:
        """`test` are other views, and `precision` is another, than the checkpoint's own recipe has."""
        recipe, self.labels = read_checkpoint(checkpoint)
        self.clip, self.test = recipe.clip, test or recipe.evaluate
        self.pixels, self.multi_label = recipe.model.pixels, recipe.model.multi_label
        self.decode = decode_with_flow if recipe.model.takes_flow else decode_frames
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = build_model(recipe.model, recipe.clip)
        network.load_state_dict(load_weights(checkpoint / "model.safetensors"))
        self.network = for_inference(network.to(self.device), precision or recipe.compute.precision)

    def score_video(self, path: Path) -> Floats:
        """Softmax, or sigmoids, `[A]`: mean or maximum over the clips x crops. The video is decoded once."""
        info = probe(path)
        wanted = evaluation_indices(self.clip, info.frames, self.test.clips)
        unique = sorted({i for indices in wanted for i in indices})
        place = {frame: i for i, frame in enumerate(unique)}
        frames_THWC = torch.from_numpy(self.decode(path, unique)).to(self.device)
        crops = spatial_views(info.width, info.height, self.test.size, self.test.crops)
        scores_VA = []
        for view in crops if info.width != info.height else crops[:1]:  # the crops of a square picture are one
            video_CTHW = render(frames_THWC, view, self.pixels)
            clips = [video_CTHW[:, [place[i] for i in indices]] for indices in wanted]
            step = self.test.batch_views
            scores_VA += [self._scores(clips[i : i + step]) for i in range(0, len(clips), step)]
        views_VA = torch.cat(scores_VA)
        scores_A: Floats = (views_VA.amax(0) if self.test.aggregation == "max" else views_VA.mean(0)).numpy()
        return scores_A

    def detect(self, path: Path, key: float, boxes: Sequence[Sequence[float]]) -> tuple[list[int], Floats]:
        """Sigmoid scores `[K, A]` of relative boxes at `key` seconds, and which of the boxes they belong to."""
        info = probe(path)
        indices = centred_indices(self.clip, round(key * info.fps), info.frames)
        view = whole_view(info.width, info.height, self.test.size)
        kept = boxes_in_view(boxes, info.width, info.height, view)
        frames_THWC = torch.from_numpy(self.decode(path, indices))
        boxes_K5 = torch.tensor([(0.0, *box) for _, box in kept]).reshape(-1, 5).to(self.device)
        with torch.inference_mode():
            clips_BCTHW = render_batch([frames_THWC], [view], self.pixels, self.device)
            logits_KA = self.network(clips_BCTHW, boxes_K5)
        return [i for i, _ in kept], logits_KA.sigmoid().cpu().numpy()

    def _scores(self, clips_CTHW: list[torch.Tensor]) -> torch.Tensor:
        clips_BCTHW = torch.stack(clips_CTHW).contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            logits_BA: torch.Tensor = self.network(clips_BCTHW)
            return (logits_BA.sigmoid() if self.multi_label else functional.softmax(logits_BA, dim=1)).cpu()


def read_checkpoint(folder: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe and the label names kept beside the weights. Raises InputError when there are none."""
    path = folder / "checkpoint.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        labels = tuple(record["labels"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("no checkpoint", path, "give a folder written by `slowfast train`") from None
    return parse_recipe({k: v for k, v in record.items() if k not in RECORD_EXTRAS}, str(path)), labels
