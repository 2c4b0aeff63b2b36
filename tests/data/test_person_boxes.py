"""Predicted person boxes in the file formats of public codebases, and errors in such files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slowfast_core.data.person_boxes import read_person_boxes
from slowfast_core.errors import InputError

CSV = (
    "1j20qq1JyX4,0902,0.036,0.098,0.550,0.979,,0.995518\n"
    "1j20qq1JyX4,0902,0.002,0.1,0.3,0.9,12,0.81\n"
    "1j20qq1JyX4,0902,0.002,0.1,0.3,0.9,17,0.81\n"
    "1j20qq1JyX4,0902,0.5,0.1,0.7,0.9,,0.79\n"
    "-5KQ66BBWC4,1798,0,0,1.004,1,,0.9\n"
)
FOUND = {
    ("1j20qq1JyX4", 902): [[0.036, 0.098, 0.55, 0.979, 0.995518], [0.002, 0.1, 0.3, 0.9, 0.81]],
    ("-5KQ66BBWC4", 1798): [[0.0, 0.0, 1.0, 1.0, 0.9]],
}
ARRAYS = {
    "1j20qq1JyX4,0902": np.array([[0.036, 0.098, 0.55, 0.979, 0.995518], [0.5, 0.1, 0.7, 0.9, 0.79]]),
    "-5KQ66BBWC4,1798": np.array([[0, 0, 1, 1, 0.9]]),
    "empty,0902": np.empty((0, 5)),
}


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def write_pickle(folder: Path, content: object, protocol: int = 2) -> Path:
    path = folder / "boxes.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_person_boxes(path, path.name, 0.8)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_csv_of_pyslowfast_is_read(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(CSV)
    assert read_person_boxes(path, path.name, 0.8).found == FOUND
    assert len(read_person_boxes(path, path.name, 0.0).found["1j20qq1JyX4", 902]) == 3
    assert list(read_person_boxes(path, path.name, 0.99).found) == [("1j20qq1JyX4", 902)]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_pickle_of_mmaction2_is_read(tmp_path: Path, protocol: int, dtype: type) -> None:
    path = write_pickle(tmp_path, {key: array.astype(dtype) for key, array in ARRAYS.items()}, protocol)
    found = read_person_boxes(path, path.name, 0.8).found
    assert list(found) == list(FOUND)
    assert found["1j20qq1JyX4", 902] == [pytest.approx(FOUND["1j20qq1JyX4", 902][0], rel=1e-6)]
    assert found["-5KQ66BBWC4", 1798] == [pytest.approx([0, 0, 1, 1, 0.9])]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "video,second,x1,y1,x2,y2,action,score",
            "second 'second' is not a whole number (boxes.csv:1); the file",
        ),
        ("a,0902,0,0,1,1,0.9", "7 fields instead of 8 (boxes.csv:1); a line is video_id,second,x1,"),
        ("a,902.5,0,0,1,1,,0.9", "second '902.5' is not a whole number (boxes.csv:1)"),
        ("a,0902,0,0,left,1,,0.9", "x2 'left' is not a number (boxes.csv:1)"),
        ("a,0902,0,0,1,1,run,0.9", "action id 'run' is not a whole number (boxes.csv:1)"),
        ("a,0902,0,0,1,1,,high", "score 'high' is not a number (boxes.csv:1)"),
        ("a,0902,0,0,1,1,80,7", "score 7 is not in [0, 1] (boxes.csv:1); use the boxes of a detector; ground truth"),
        (
            "a,0902,10,20,300,200,,0.9",
            "box 10,20,300,200 is not in [0, 1] (boxes.csv:1); use fractions of the",
        ),
        ("a,0902,0.5,0,0.4,1,,0.9", "box 0.5,0,0.4,1 is empty (boxes.csv:1)"),
        ("a,0902,0,0,1,1,,0.7", "no box has a score of 0.8 or more (boxes.csv); use another file, or lower min_score"),
        ("../a,0902,0,0,1,1,,0.9", "video '../a' leaves the data root (boxes.csv:1)"),
        ("", "no box has a score of 0.8 or more (boxes.csv)"),
    ],
)
def test_malformed_csv_files_are_reported(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(line + "\n")
    assert refusal(path).startswith(message)


def test_a_pickle_with_another_suffix_is_reported(tmp_path: Path) -> None:
    path = write_pickle(tmp_path, ARRAYS).rename(tmp_path / "boxes.csv")
    assert refusal(path) == "not a UTF-8 text file (boxes.csv); name a pickle .pkl or .pickle"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains a list (boxes.pkl); the format is"),
        ({"a": np.zeros((1, 5))}, "key 'a' is not a key frame (boxes.pkl)"),
        ({("a", 902): np.zeros((1, 5))}, "key \"('a', 902)\" is not a key frame (boxes.pkl)"),
        ({"a,0902": [[0, 0, 1, 1, 0.9]]}, "'a,0902' is not an array of numbers (boxes.pkl)"),
        ({"a,0902": np.array([["x"] * 5])}, "'a,0902' is not an array of numbers (boxes.pkl)"),
        ({"a,0902": np.zeros((2, 4))}, "'a,0902' has the shape [2, 4] instead of [N, 5] (boxes.pkl)"),
        ({"a,0902": np.zeros(5)}, "'a,0902' has the shape [5] instead of [N, 5] (boxes.pkl)"),
        ({"a,0902": np.full((1, 5), np.nan)}, "'a,0902' has a value that is not finite (boxes.pkl)"),
        ({"a,0902": np.array([[10, 20, 300, 200, 0.9]])}, "box 10,20,300,200 is not in [0, 1] (boxes.pkl: a,0902)"),
        ({}, "no box has a score of 0.8 or more (boxes.pkl)"),
    ],
)
def test_malformed_pickles_are_reported(tmp_path: Path, content: object, message: str) -> None:
    assert refusal(write_pickle(tmp_path, content)).startswith(message)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(write_pickle(tmp_path, {"a,0902": Payload()}))
    assert message.startswith(f"refused: it would run {os.system.__module__}.system (boxes.pkl); take the boxes from")
    assert not Path("ran").exists()


def test_a_truncated_pickle_is_reported(tmp_path: Path) -> None:
    path = write_pickle(tmp_path, ARRAYS)
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a complete pickle" in refusal(path)
