"""The predictions of an evaluation, a Parquet file from which its metrics and its report are computed.

There is one row per video, or per key frame in detection. Scores are float32, one for each class of `labels`: softmax
of a classifier, sigmoid with several labels per video and in detection. The seconds that a row took are in another
file, so that the same scores always give the same bytes.

Shapes: N rows, C classes, K boxes of a key frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from slowfast_core.data.manifest import DAMAGED, check_size
from slowfast_core.errors import InputError
from slowfast_core.files import whole_file
from slowfast_core.recipe.schema import Evaluate

PREDICTIONS, TIMINGS = "predictions.parquet", "timings.parquet"
METADATA = b"slowfast"  # key of the Origin in the file's metadata
SECONDS = ("decode_seconds", "inference_seconds")  # columns of the timings, which differ from run to run
CLASSIFICATION = pa.schema(
    [
        ("id", pa.string()),
        ("video", pa.string()),  # the source video
        ("labels", pa.list_(pa.int32())),  # true classes: one, or any number with several labels per video
        ("scores", pa.list_(pa.float32())),  # [C]
    ]
)
DETECTION = pa.schema(
    [
        ("id", pa.string()),
        ("video", pa.string()),
        ("second", pa.int64()),  # timestamp of the key frame in the annotation
        ("boxes", pa.list_(pa.list_(pa.float64()))),  # [K, 4], the boxes that were scored, x1 y1 x2 y2 in [0, 1]
        ("scores", pa.list_(pa.list_(pa.float32()))),  # [K, C]
        ("true_boxes", pa.list_(pa.list_(pa.float64()))),
        ("true_labels", pa.list_(pa.list_(pa.int32()))),  # true classes of each true box
    ]
)
FIX = "name a predictions.parquet that `slowfast evaluate` wrote, or evaluate again"
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Protocol = Literal["classification", "multi_label", "detection"]


class Origin(BaseModel):
    """Model, data and protocol of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    data_version: str
    weights_digest: str
    protocol: Protocol
    labels: tuple[str, ...]  # class names; empty: a class that is not evaluated
    evaluate: Evaluate  # detection: `boxes` is what was scored

    @property
    def schema(self) -> pa.Schema:
        return DETECTION if self.protocol == "detection" else CLASSIFICATION


@dataclass(frozen=True, eq=False)
class Predictions:
    """Rows with the columns of `origin.schema`."""

    origin: Origin
    table: pa.Table

    @cached_property
    def ids(self) -> list[str]:
        return list(self.table["id"].to_pylist())

    @cached_property
    def videos(self) -> list[str]:
        """The source video of each row."""
        return list(self.table["video"].to_pylist())

    @cached_property
    def labels(self) -> list[list[int]]:
        """The true classes of each video."""
        return list(self.table["labels"].to_pylist())

    @cached_property
    def scores(self) -> Floats:
        """Scores of the videos [N, C]."""
        return _flat(self.table["scores"], len(self.origin.labels))

    def key_frames(self) -> Iterator[tuple[dict[str, Any], Floats, Floats]]:
        """Detection: each row without its boxes, its boxes [K, 4] and their scores [K, C]."""
        columns = ["id", "video", "second", "true_boxes", "true_labels"]
        boxes, scores = self.table["boxes"], self.table["scores"]
        ends = np.cumsum([0, *boxes.combine_chunks().value_lengths().to_numpy()])
        all_boxes = _flat(_joined(boxes).flatten(), 4)
        all_scores = _flat(_joined(scores).flatten(), len(self.origin.labels))
        for n, row in enumerate(self.table.select(columns).to_pylist()):
            here = slice(int(ends[n]), int(ends[n + 1]))
            yield row, all_boxes[here], all_scores[here]


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the file; its bytes depend only on the predictions."""
    table = predictions.table.select(predictions.origin.schema.names).combine_chunks()
    table = table.replace_schema_metadata({METADATA: predictions.origin.model_dump_json()})
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=2**14)


def write_timings(path: Path, table: pa.Table) -> None:
    """Write the id and SECONDS of each row."""
    with whole_file(path) as temporary:
        pq.write_table(table.select(["id", *SECONDS]).combine_chunks(), temporary)


def read_predictions(path: Path) -> Predictions:
    """Read predictions. Raises InputError if the file is missing, damaged, or something else."""
    if not path.is_file():
        raise InputError("no predictions", path, FIX)
    try:
        with pq.ParquetFile(path) as file:
            check_size(file.metadata)
            table = file.read()
        origin = Origin.model_validate_json(table.schema.metadata[METADATA])
        table = table.select(origin.schema.names).cast(origin.schema)
        table.validate(full=True)  # a damaged file may have offsets outside its data
        predictions = Predictions(origin, table)
        _check(predictions)
    except ValidationError:
        raise InputError("not predictions: their origin is not readable", path, FIX) from None
    except (*DAMAGED, AttributeError) as error:
        raise InputError(f"not predictions: {' '.join(str(error).split())}", path, FIX) from None
    return predictions


def table_of(rows: list[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of rows, whose scores may be arrays."""
    return pa.Table.from_pydict({name: [row[name] for row in rows] for name in schema.names}, schema=schema)


def _check(predictions: Predictions) -> None:
    """Raises ValueError if the values do not fit each other."""
    for name in ("id", "video"):
        if predictions.table[name].null_count:
            raise ValueError(f"a row has no {name}")
    if predictions.origin.protocol == "detection":
        _check_key_frames(predictions)
        return
    single = predictions.origin.protocol == "classification"
    for name, labels in zip(predictions.ids, predictions.labels, strict=True):
        _check_labels(labels, predictions.origin, name)
        if single and len(labels) != 1:
            raise ValueError(f"the number of labels of {name} is {len(labels)}, not 1")
    if not _are_scores(predictions.scores):
        raise ValueError("scores are not from 0 to 1")


def _check_key_frames(predictions: Predictions) -> None:
    lengths = [predictions.table[name].combine_chunks().value_lengths().to_pylist() for name in ("boxes", "scores")]
    for name, boxes, scores in zip(predictions.ids, *lengths, strict=True):
        if boxes != scores:
            raise ValueError(f"boxes and scores of {name} differ in number")
    for row, boxes_K4, scores_KC in predictions.key_frames():
        _check_labels([label for labels in row["true_labels"] for label in labels], predictions.origin, row["id"])
        if [len(box) for box in row["true_boxes"]] != [4] * len(row["true_labels"]):
            raise ValueError(f"true boxes and labels of {row['id']} differ in number")
        if not (np.isfinite(boxes_K4).all() and _are_scores(scores_KC)):
            raise ValueError(f"boxes of {row['id']} are not finite, or its scores not from 0 to 1")


def _are_scores(scores: Floats) -> bool:
    """Whether all are probabilities, which rounding may leave just above 1; false for NaN."""
    return bool(((scores >= 0) & (scores <= 1 + 1e-4)).all())


def _check_labels(labels: list[int], origin: Origin, name: str) -> None:
    if not all(0 <= label < len(origin.labels) for label in labels):
        raise ValueError(f"labels {labels} of {name} are not all in {len(origin.labels)} classes")


def _flat(lists: pa.ChunkedArray | pa.ListArray, width: int) -> Floats:
    """Values [n, width] of n lists. Raises ValueError if a list has another length."""
    joined = _joined(lists)
    if not np.all(joined.value_lengths().to_numpy(zero_copy_only=False) == width):
        raise ValueError(f"a list does not have {width} numbers")
    values: Floats = joined.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, width)


def _joined(lists: pa.ChunkedArray | pa.ListArray) -> pa.ListArray:
    return lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
