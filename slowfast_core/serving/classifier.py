"""The Python API: a trained classification model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slowfast_core.errors import InputError
from slowfast_core.model.folder import checkpoint_of
from slowfast_core.serving.predict import best, scorer_of
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from slowfast_core.evaluation.scoring import Scorer


@dataclass(frozen=True)
class Prediction:
    """One class and its score: a probability, which is independent of other classes for multi-label models."""

    label: str
    score: float


class Classifier:
    """A trained classification model, on the GPU if PyTorch finds one. `load` creates it."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the network's outputs."""
        return tuple(self._scorer.labels)

    def predict(self, video: str | Path, top: int = 5) -> list[Prediction]:
        """Return the `top` most probable classes of a video file, best first.

        Scores are the mean over the clips and crops, or their maximum, as the `evaluate` section of the recipe says.
        Raises InputError when the file does not exist or cannot be decoded.
        """
        path = Path(video)
        if not path.is_file():
            raise InputError("no such video", path, "name a file that exists")
        return [Prediction(guess["label"], guess["score"]) for guess in best(self._scorer, path, top)]


def load(model: str | Path, workspace: str | Path | None = None) -> Classifier:
    """Load a classification model: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a trained-model folder.

    `workspace` is the directory of the model registry. Default: `SLOWFAST_WORKSPACE`, or else `./workspace`. Raises
    InputError when there is no such model, when its weights are damaged, and for detection models, which need boxes.

    Example:
        >>> import slowfast_core as sf
        >>> model = sf.load("models:/slowfast-demo@champion")
        >>> for prediction in model.predict("clip.mp4", top=3):
        ...     print(f"{prediction.score:.1%} {prediction.label}")
    """
    with checkpoint_of(str(model), Workspace.at(workspace)) as folder:
        return Classifier(scorer_of(folder, str(model)))
