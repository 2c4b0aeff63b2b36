"""Labels for video files, by a registered model or a checkpoint folder."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.errors import InputError
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from slowfast_core.evaluation.scoring import Scorer

MODEL_URI = re.compile(r"models:/[^/@]+(/\d+|@[^/@]+)")
FILES = ("model.safetensors", "checkpoint.json")


def predict(videos: Sequence[Path], model: str, at: Workspace, top: int = 5) -> list[dict[str, Any]]:
    """`[{video, top: [{label, score}]}]`; `model` is `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a folder."""
    for video in videos:
        if not video.is_file():
            raise InputError("no such video", video, "name files that exist")
    from slowfast_core.evaluation.scoring import Scorer, read_checkpoint

    with checkpoint_of(model, at) as checkpoint:
        recipe, _ = read_checkpoint(checkpoint)
        if recipe.model.head == "detect":
            what = "this model needs boxes of people, a video alone is not enough"
            raise InputError(what, model, "name a classification model")
        scorer = Scorer(checkpoint)
        return [{"video": str(video), "top": best(scorer, video, top)} for video in videos]


def best(scorer: Scorer, video: Path, top: int = 5) -> list[dict[str, Any]]:
    scores = scorer.score_video(video)[: len(scorer.labels)]  # a model may have more outputs than the data has classes
    order = (-scores).argsort(kind="stable")[:top]
    return [{"label": scorer.labels[index], "score": round(float(scores[index]), 6)} for index in order]


@contextmanager
def checkpoint_of(model: str, at: Workspace, uri: str | None = None) -> Iterator[Path]:
    """The folder with the weights and their config; that of a registered model is there only within the context.

    `uri` is that of the registry; None: the workspace's.
    """
    if model.startswith("models:"):
        with tempfile.TemporaryDirectory() as folder:
            yield _download(model, at, uri or at.tracking_uri, Path(folder))
        return
    folder_of_files = Path(model)
    for name in FILES:
        if not (folder_of_files / name).is_file():
            mend = "name a checkpoint folder, or a registered model as models:/NAME@champion"
            raise InputError(f"no {name}", model, mend)
    yield folder_of_files


def _download(model: str, at: Workspace, uri: str, folder: Path) -> Path:
    if not MODEL_URI.fullmatch(model):
        raise InputError(f"{model!r} is no model version", "--model", "write models:/NAME@champion or models:/NAME/3")
    database = at.below("mlflow.db")
    if uri == at.tracking_uri and not database.is_file():
        raise InputError("no model registry", database, "run `slowfast run RECIPE` or name --workspace")
    from slowfast_core.tracking.registry import download_version

    return download_version(model, uri, folder) / "artifacts"
