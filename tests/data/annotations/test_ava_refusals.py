# ruff: noqa: E501  messages are kept on one line
"""AVA files with one error: `slowfast ingest` exits with code 2, prints one line and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cli.main import main

TRAIN = "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1\n-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,,2\n"
VAL = "1j20qq1JyX4,0902,0.002,0.118,0.714,0.977,12,1\n1j20qq1JyX4,1798,0.1,0.2,0.3,0.4,12,1\n"
LIST = 'item {\n  name: "walk"\n  id: 12\n}\nitem {\n  name: "watch (a person)"\n  id: 80\n}\n'
FOUND = "1j20qq1JyX4,0902,0.036,0.098,0.550,0.979,,0.995518\n"
RECIPE = """
name: ava
data:
  name: ava
  format: ava
  source: source
  annotations: {train: train.csv, val: val.csv}
  labels: list.pbtxt
  first_second: 900
  key_seconds: [902, 1798]
  excluded: {val: excluded.csv}
  person_boxes: {val: boxes.csv}
model: {classes: 80, head: detect}
"""


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A valid recipe and source in the current folder; the videos need no content, as ingestion does not decode."""
    monkeypatch.chdir(tmp_path)
    Path("ava.yaml").write_text(RECIPE)
    source = Path("source")
    source.mkdir()
    files = {"train.csv": TRAIN, "val.csv": VAL, "list.pbtxt": LIST, "boxes.csv": FOUND}
    for name, text in {**files, "excluded.csv": "1j20qq1JyX4,1000\n"}.items():
        (source / name).write_text(text)
    for name in ("-5KQ66BBWC4.mkv", "1j20qq1JyX4.mp4"):
        (source / name).write_bytes(b"video")
    return tmp_path


def ingest(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["slowfast", "ingest", "ava.yaml", "--workspace", "w", *options])
    main()


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> str:
    """The printed line, without the paths of this machine."""
    with pytest.raises(SystemExit) as exit_:
        ingest(monkeypatch, *options)
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert not Path("w/data").exists()
    return line.removeprefix("slowfast: ").replace(f"{folder}/", "")


def test_valid_files_are_ingested(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        ingest(monkeypatch)
    assert exit_.value.code == 0
    assert "2 of 2 videos" in capsys.readouterr().out


CASES = {
    "invalid second": ("train.csv", "-5KQ66BBWC4,nine,0.1,0.1,0.2,0.2,80,1\n", "second 'nine' is not a whole number (source/train.csv:1); correct the value; the file has no header"),
    "second before the start": ("train.csv", "-5KQ66BBWC4,0899,0.1,0.1,0.2,0.2,80,1\n", "second 0899 is before the file starts (source/train.csv:1); lower data.first_second"),
    "second after the range": ("val.csv", VAL + "1j20qq1JyX4,1799,0.1,0.1,0.2,0.2,80,1\n", "second 1799 is not a key frame (source/val.csv:3); data.key_seconds is [902, 1798]"),
    "inverted box": ("val.csv", "1j20qq1JyX4,0902,0.7,0.1,0.2,0.2,80,1\n", "box 0.7,0.1,0.2,0.2 (source/val.csv:1); use fractions of the frame: 0 <= x1 < x2 <= 1, same for y"),
    "box outside the frame": ("val.csv", "1j20qq1JyX4,0902,0.1,0.1,0.2,1.2,80,1\n", "box 0.1,0.1,0.2,1.2 (source/val.csv:1); use fractions of the frame: 0 <= x1 < x2 <= 1, same for y"),
    "unknown action": ("train.csv", "-5KQ66BBWC4,0902,0.1,0.1,0.2,0.2,81,1\n", "action id 81 is not in the label map (source/train.csv:1); its last id is 80"),
    "duplicate row": ("train.csv", TRAIN + TRAIN, "duplicate of line 1 (source/train.csv:3); remove one of them"),
    "missing columns": ("train.csv", "-5KQ66BBWC4,0902,0.1,0.1,0.2\n", "5 fields instead of 8 (source/train.csv:1); a line is video_id,second,x1,y1,x2,y2,action_id,person_id"),
    "header in the file": ("val.csv", "video_id,middle_frame_timestamp,x1,y1,x2,y2,action_id,person_id\n", "second 'middle_frame_timestamp' is not a whole number (source/val.csv:1); correct the value; the file has no header"),
    "empty split": ("val.csv", "", "split 'val' is empty (source/train.csv, source/val.csv); add rows for it, or set data.holdout"),
    "truncated label map": ("list.pbtxt", LIST[:-2], 'not a label map (source/list.pbtxt); write item { name: "..." id: 1 } for each action'),
    "duplicate id": ("list.pbtxt", LIST + LIST, "duplicate id 12 (source/list.pbtxt); use each id once"),
    "unrelated label map": ("list.pbtxt", 'item { name: "a" id: 1 } item { name: "b" id: 90 }', "no action id of the annotations is in the label map (source/list.pbtxt); annotated: 12, 80..., first id of the label map: 1"),
    "exclusions without a second": ("excluded.csv", "1j20qq1JyX4\n", "1 fields instead of 2 (source/excluded.csv:1); a line is video_id,second"),
    "exclusions of other videos": ("excluded.csv", "other,0902\n", "excludes no annotated video (source/excluded.csv); name the exclusion file of these annotations"),
    "header in the boxes": ("boxes.csv", "video,second,x1,y1,x2,y2,action,score\n", "second 'second' is not a whole number (boxes.csv:1); the file has no header"),
    "boxes in pixels": ("boxes.csv", "1j20qq1JyX4,0902,12,40,200,230,,0.9\n", "box 12,40,200,230 is not in [0, 1] (boxes.csv:1); use fractions of the frame, not pixels"),
    "ground truth as boxes": ("boxes.csv", VAL.replace(",1\n", ",14\n"), "score 14 is not in [0, 1] (boxes.csv:1); use the boxes of a detector; ground truth has a person id in this column"),
    "boxes of other key frames": ("boxes.csv", FOUND.replace("0902", "0903"), "no person box is in a key frame of the val split; the first box is in 1j20qq1JyX4,0903 (boxes.csv); an annotated key frame is 1j20qq1JyX4,0902"),
    "boxes with low scores": ("boxes.csv", FOUND.replace("0.99", "0.49"), "no box has a score of 0.8 or more (boxes.csv); use another file, or lower min_score"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "line"), CASES.values(), ids=CASES.keys())
def test_an_error_in_a_text_file_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str, line: str
) -> None:
    Path("source", name).write_text(text)
    assert refusal(monkeypatch, capsys, folder) == line


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (Payload(), f"refused: it would run {os.system.__module__}.system (b.pkl); take the boxes from a source that "
         "publishes plain arrays"),
        ({"1j20qq1JyX4,0902": np.zeros((3, 6))}, "'1j20qq1JyX4,0902' has the shape [3, 6] instead of [N, 5] (b.pkl); "
         'the format is {"video_id,second": array of x1 y1 x2 y2 score}'),
        ([np.zeros((3, 5))], 'contains a list (b.pkl); the format is {"video_id,second": array of x1 y1 x2 y2 score}'),
        ({"1j20qq1JyX4": np.zeros((3, 5))}, "key '1j20qq1JyX4' is not a key frame (b.pkl); "
         'the format is {"video_id,second": array of x1 y1 x2 y2 score}'),
    ],
)  # fmt: skip
def test_an_error_in_a_pickle_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: object, line: str
) -> None:
    Path("source/b.pkl").write_bytes(pickle.dumps(content))
    assert refusal(monkeypatch, capsys, folder, "--set", "data.person_boxes.val=b.pkl") == line
    assert not Path("ran").exists()


def test_a_missing_file_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(monkeypatch, capsys, folder, "--set", "data.person_boxes.val=b.pkl")
    assert line == "no file 'b.pkl' (source); correct data.person_boxes.val"


def test_misused_ava_options_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(monkeypatch, capsys, folder, "--set", "data.format=kinetics", "--set", "model.head=classify")
    named = "key_seconds, excluded, person_boxes.val"
    assert line == f"data: {named}: only for format 'ava', is 'kinetics' (ava.yaml); correct the value"
    line = refusal(monkeypatch, capsys, folder, "--set", "data.key_seconds=[1798, 902]")
    assert line == "data: key_seconds must be [first, last], is [1798, 902] (ava.yaml); correct the value"
