"""Predicts labels of video files with a registered model or a checkpoint folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.documents import read_json_object
from slowfast_core.errors import InputError
from slowfast_core.model.folder import CONFIG, checkpoint_of, recorded_digest
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slowfast_core.evaluation.operating_points import OperatingPoints
    from slowfast_core.evaluation.scoring import Scorer


def predict(
    videos: Sequence[Path], model: str, at: Workspace, top: int = 5, operating_points: Path | None = None
) -> list[dict[str, Any]]:
    """The `top` labels of each video, as `[{video, top: [{label, score}]}]`.

    `model` is `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a folder. With a file of operating points, scores are
    calibrated, and `accepted` has the labels that reach their threshold; none of them: the video is none of these.
    Raises InputError for a missing or undecodable video, a missing model, a detection model, or operating points of
    other weights.
    """
    for video in videos:
        if not video.is_file():
            raise InputError("no such video", video, "name files that exist")
    with checkpoint_of(model, at) as checkpoint:
        scorer = scorer_of(checkpoint, model)
        if operating_points is None:
            return [{"video": str(video), "top": best(scorer, video, top)} for video in videos]
        points = _points_of(operating_points, checkpoint, scorer)
        return [{"video": str(video), **_decide(scorer, video, top, points)} for video in videos]


def _points_of(path: Path, checkpoint: Path, scorer: Scorer) -> OperatingPoints:
    """Read operating points. Raises InputError if they are of other weights."""
    from slowfast_core.evaluation.operating_points import read_operating_points

    points = read_operating_points(path)
    if points.weights_digest != recorded_digest(checkpoint) or not points.fits(scorer.labels):
        what = f"operating points of other weights ({points.weights_digest})"
        raise InputError(what, path, "evaluate this model, and make them from its predictions")
    return points


def _decide(scorer: Scorer, video: Path, top: int, points: OperatingPoints) -> dict[str, Any]:
    scores = points.calibrated(scorer.score_video(video)[: len(scorer.labels)])
    return {"accepted": [scorer.labels[c] for c in points.accepted(scores)], "top": _top(scorer, scores, top)}


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
    # A model may have more outputs than the data has classes.
    return _top(scorer, scorer.score_video(video)[: len(scorer.labels)], top)


def _top(scorer: Scorer, scores: NDArray[np.floating[Any]], top: int) -> list[dict[str, Any]]:
    order = (-scores).argsort(kind="stable")[:top]
    return [{"label": scorer.labels[index], "score": round(float(scores[index]), 6)} for index in order]
