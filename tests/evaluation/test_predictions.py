"""The predictions file: it keeps everything, has the same bytes however it was made, and refuses other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from predicted import classified, origin_of

from slowfast_core.errors import InputError
from slowfast_core.evaluation.comparison import compare
from slowfast_core.evaluation.measure import measure, metrics_of
from slowfast_core.evaluation.predictions import (
    DETECTION,
    Predictions,
    read_predictions,
    table_of,
    write_predictions,
)
from slowfast_core.evaluation.report import write_results
from slowfast_core.evaluation.shards import SHARD_ROWS, Shards

NAMES = ("walk", "run", "")
Row = dict[str, Any]


def some(seed: int = 0, videos: int = 40, names: tuple[str, ...] = NAMES, **fields: Any) -> Predictions:
    random = np.random.default_rng(seed)
    labels = [[n % 3] for n in range(videos)]
    sources = [f"s{n // 4}" for n in range(videos)]
    return classified(random.dirichlet(np.ones(3), videos), labels, names, sources, **fields)


def key_frames() -> Predictions:
    boxes = [[0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.9, 0.9]]
    scores = [np.array([0.1, 0.2, 0.3], dtype=np.float32), np.array([0.4, 0.5, 0.6], dtype=np.float32)]
    rows: list[Row] = [
        {"second": 902, "boxes": boxes, "scores": scores, "true_boxes": boxes[:1], "true_labels": [[0, 1]]},
        {"second": 903, "boxes": [], "scores": [], "true_boxes": boxes[1:], "true_labels": [[1]]},
        {"second": 904, "boxes": boxes[:1], "scores": scores[1:], "true_boxes": [], "true_labels": []},
    ]
    rows = [{"id": f"v_{row['second']}", "video": "v", **row} for row in rows]
    return Predictions(origin_of("detection", NAMES), table_of(rows, DETECTION))


@pytest.mark.parametrize("predictions", [some(), key_frames()], ids=["videos", "key frames"])
def test_a_file_keeps_origin_rows_and_metrics(predictions: Predictions, tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", predictions)
    again = read_predictions(tmp_path / "p.parquet")
    assert again.origin == predictions.origin
    assert again.table.to_pylist() == predictions.table.to_pylist()
    assert metrics_of(again) == metrics_of(predictions)


def test_key_frames_have_their_own_boxes_and_scores() -> None:
    (first, boxes, scores), (_, none, no_scores), (last, one, one_score) = key_frames().key_frames()
    assert (first["second"], boxes.shape, scores.tolist()[1]) == (902, (2, 4), pytest.approx([0.4, 0.5, 0.6]))
    assert (none.shape, no_scores.shape) == ((0, 4), (0, 3))
    assert (last["true_boxes"], one.tolist()) == ([], [[0.1, 0.1, 0.5, 0.5]])
    assert one_score.tolist() == [pytest.approx([0.4, 0.5, 0.6])]


def rows_of(predictions: Predictions, seconds: float = 1.0) -> list[Row]:
    timed = {"decode_seconds": seconds, "inference_seconds": seconds}
    scores = predictions.scores
    return [{**row, **timed, "scores": scores[n]} for n, row in enumerate(predictions.table.to_pylist())]


@pytest.mark.parametrize("kills", [[], [1], [7, 8, 30], [39, 40]])
def test_the_bytes_do_not_depend_on_shards_or_seconds(kills: list[int], tmp_path: Path) -> None:
    predictions = some()
    write_predictions(tmp_path / "whole.parquet", predictions)
    for number, stop in enumerate([*kills, 40]):
        with Shards(tmp_path / "shards", predictions.origin.schema) as shards:
            for row in rows_of(predictions, seconds=number)[shards.finished : stop]:
                shards.append(row)
    assert shards.finished == 40
    parts = Predictions(predictions.origin, shards.table())
    write_predictions(tmp_path / "parts.parquet", parts)
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_shards_are_written_by_number_of_rows_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = some(videos=SHARD_ROWS + 3)
    shards = Shards(tmp_path, predictions.origin.schema)
    for row in rows_of(predictions):
        shards.append(row)
    assert [path.name for path in tmp_path.iterdir()] == ["000000000.parquet"]  # the process may be killed here
    monkeypatch.setattr("slowfast_core.evaluation.shards.SHARD_SECONDS", 0.0)
    shards = Shards(tmp_path, predictions.origin.schema)
    assert shards.finished == SHARD_ROWS
    shards.append(rows_of(predictions)[SHARD_ROWS])
    assert shards.finished == SHARD_ROWS + 1


def test_a_damaged_shard_and_those_after_it_are_scored_again(tmp_path: Path) -> None:
    predictions = some()
    for stop in (10, 20, 30):
        with Shards(tmp_path, predictions.origin.schema) as shards:
            for row in rows_of(predictions)[shards.finished : stop]:
                shards.append(row)
    (tmp_path / "000000010.parquet").write_bytes(b"PAR1 and then nothing")
    shards = Shards(tmp_path, predictions.origin.schema)
    assert shards.finished == 10
    assert [path.name for path in tmp_path.iterdir()] == ["000000000.parquet"]
    assert shards.table()["id"].to_pylist() == predictions.ids[:10]


def test_results_from_a_file_are_byte_identical(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    for predictions in (some(), key_frames()):
        write_results(tmp_path, predictions)
        write_predictions(tmp_path / "p.parquet", predictions)
        write_results(tmp_path / "again", read_predictions(tmp_path / "p.parquet"))
        for name in ("metrics.json", "report.html"):
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def changed(tmp_path: Path, metadata: dict[bytes, bytes] | None = None, **columns: Any) -> Path:
    """A predictions file with other metadata or columns."""
    write_predictions(tmp_path / "p.parquet", some())
    table = pq.read_table(tmp_path / "p.parquet")
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(values, type=table.schema.field(name).type))
    if metadata is not None:
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "p.parquet")
    return tmp_path / "p.parquet"


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no predictions"):
        read_predictions(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(InputError, match="not predictions"):
        read_predictions(tmp_path / "text.parquet")
    for metadata in ({}, {b"slowfast": b"{}"}, {b"slowfast": b"["}):
        with pytest.raises(InputError, match="not predictions"):
            read_predictions(changed(tmp_path, metadata))
    for column, values, what in [
        ("labels", [[3]] * 40, "are not all in 3 classes"),
        ("labels", [[]] * 40, "number of labels of video0 is 0, not 1"),
        ("scores", [[0.1, 0.2]] * 40, "a list does not have 3 numbers"),
        ("scores", [[0.1, 0.2, float("nan")]] * 40, "not from 0 to 1"),
        ("scores", [[-0.5, 0.2, 1.3]] * 40, "not from 0 to 1"),
        ("scores", [None] * 40, "not predictions"),
        ("id", [None] * 40, "a row has no id"),
    ]:
        with pytest.raises(InputError, match=what) as error:
            read_predictions(changed(tmp_path, **{column: values}))
        assert "\n" not in str(error.value)


def test_key_frames_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows = key_frames().table.to_pylist()
    for column, value in [
        ("true_labels", [[0], [1]]),
        ("true_labels", [[7]]),
        ("boxes", [[0.1, 0.2, 0.3, 0.4]]),
        ("scores", [[0.1, float("nan"), 0.2]] * 2),
    ]:
        table = table_of([{**rows[0], column: value}, *rows[1:]], DETECTION)
        write_predictions(tmp_path / "p.parquet", Predictions(key_frames().origin, table))
        with pytest.raises(InputError, match=r"not predictions: .* of v_902"):
            read_predictions(tmp_path / "p.parquet")


def test_a_comparison_counts_fixed_and_broken_videos(tmp_path: Path) -> None:
    ours, other = measure(some(seed=1)), measure(some(seed=2))
    comparison = compare(ours, other, tmp_path)
    right, other_right = (np.argmax(each.predictions.scores, axis=1) == np.arange(40) % 3 for each in (ours, other))
    assert comparison.flips is not None
    fixed, broken = ([flip.id for flip in flips] for flips in (comparison.flips.fixed, comparison.flips.broken))
    assert fixed == [f"video{n}" for n in range(40) if right[n] and not other_right[n]]
    assert broken == [f"video{n}" for n in range(40) if other_right[n] and not right[n]]
    assert all(flip.truth == flip.ours != flip.other for flip in comparison.flips.fixed)
    assert all(flip.truth == flip.other != flip.ours for flip in comparison.flips.broken)
    for each in comparison.headlines:
        assert each.difference == ours.result.metrics[each.name] - other.result.metrics[each.name]
        assert each.interval.low <= each.difference <= each.interval.high
    assert [each.name for each in comparison.classes] == list(NAMES)
    reverse = compare(other, ours, tmp_path)
    assert reverse.flips is not None
    assert ([flip.id for flip in reverse.flips.fixed], reverse.flips.p_value) == (broken, comparison.flips.p_value)


def test_a_pairing_makes_the_interval_narrower(tmp_path: Path) -> None:
    """Two models that are wrong on the same videos: the interval of the difference is narrower than that of either."""
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(3), 400)
    nudged = scores.copy()
    nudged[:20] = random.dirichlet(np.ones(3), 20)
    labels = [[n % 3] for n in range(400)]
    ours, other = (measure(classified(each, labels, NAMES)) for each in (scores, nudged))
    low, high = compare(ours, other, tmp_path).headlines[0].interval
    assert high - low < 0.5 * (ours.metrics["top1_high"] - ours.metrics["top1_low"])


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"data_version": "abc.dir"}, "have another data version: abc.dir, not d41d8.dir"),
        ({"names": ("walk", "run", "sit")}, "have another class names"),
        ({"videos": 39}, "are of other videos"),
    ],
)
def test_only_predictions_for_the_same_data_are_compared(fields: Row, what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what):
        compare(measure(some()), measure(some(**fields)), tmp_path)
