"""The registered model as MLflow code: MLflow runs this file to load a model that labels a table of video paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class VideoClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Maps a column `video` to the `label` and `score` of the best class, and `top`, the best five as JSON."""

    def load_context(self, context: Any) -> None:
        from slowfast_core.evaluation.scoring import Scorer

        self.scorer = Scorer(Path(context.artifacts["weights"]).parent)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        from slowfast_core.serving.predict import best

        tops = [best(self.scorer, Path(video)) for video in model_input["video"]]
        rows = [{**top[0], "top": json.dumps(top)} for top in tops]
        return pd.DataFrame(rows, columns=["label", "score", "top"])


mlflow.models.set_model(VideoClassifier())
