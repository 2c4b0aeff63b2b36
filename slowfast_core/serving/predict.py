"""Predicts labels of video files with a registered model or a checkpoint folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.documents import read_json_object
from slowfast_core.errors import InputError
from slowfast_core.model.folder import CONFIG, checkpoint_of
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from slowfast_core.evaluation.scoring import Scorer


def predict(videos: Sequence[Path], model: str, at: Workspace, top: int = 5) -> list[dict[str, Any]]:
    """The `top` labels of each video, as `[{video, top: [{label, score}]}]`.

    `model` is `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a folder. Raises InputError for a missing or undecodable
    video, a missing model or a detection model.
    """
    for video in videos:
        if not video.is_file():
            raise InputError("no such video", video, "name files that exist")
    with checkpoint_of(model, at) as checkpoint:
        scorer = scorer_of(checkpoint, model)
        return [{"video": str(video), "top": best(scorer, video, top)} for video in videos]


def scorer_of(checkpoint: Path, model: str) -> Scorer:
    """The network in a trained-model folder. Raises InputError, which names `model`, for a detection model."""
    record = read_json_object(checkpoint / CONFIG, "no checkpoint", "name a folder written by `train`")
    if isinstance(record.get("model"), dict) and record["model"].get("head") == "detect":
        what = "this model needs boxes of people in addition to the video"
        raise InputError(what, model, "name a classification model")
    from slowfast_core.evaluation.scoring import Scorer

    return Scorer(checkpoint)


def best(scorer: Scorer, video: Path, top: int = 5) -> list[dict[str, Any]]:
    """The `top` labels with the highest scores."""
    scores = scorer.score_video(video)[: len(scorer.labels)]  # a model may have more outputs than the data has classes
    order = (-scores).argsort(kind="stable")[:top]
    return [{"label": scorer.labels[index], "score": round(float(scores[index]), 6)} for index in order]
