"""Predictions for tests, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slowfast_core.evaluation.predictions import CLASSIFICATION, Origin, Predictions, Protocol, table_of
from slowfast_core.recipe.schema import Evaluate


def origin_of(protocol: Protocol, names: Sequence[str], **fields: Any) -> Origin:
    return Origin(
        **{
            "recipe": "SlowFast on <demo> & co",
            "data_version": "d41d8.dir",
            "weights_digest": "sha256:abc",
            "protocol": protocol,
            "labels": tuple(names),
            "evaluate": Evaluate(boxes="truth") if protocol == "detection" else Evaluate(),
            **fields,
        }
    )


def classified(
    scores: npt.NDArray[np.floating[Any]],
    labels: Sequence[Sequence[int]],
    names: Sequence[str],
    videos: Sequence[str] | None = None,
    protocol: Protocol = "classification",
    **fields: Any,
) -> Predictions:
    """Predictions of videos named video0, video1, ...; each is its own source video unless `videos` names these."""
    ids = [f"video{n}" for n in range(len(labels))]
    rows = [
        {"id": name, "video": video, "labels": list(classes), "scores": row}
        for name, video, classes, row in zip(ids, videos or ids, labels, scores.astype(np.float32), strict=True)
    ]
    return Predictions(origin_of(protocol, names, **fields), table_of(rows, CLASSIFICATION))
