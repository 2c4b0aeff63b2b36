from __future__ import annotations

import pytest

from slowfast_core.data.annotations.charades import CHARADES
from slowfast_core.data.annotations.interface import Annotations, ReaderInput, Table
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.errors import InputError

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
CLASSES = TextFile("classes.txt", "".join(f"c{n:03d} Action number {n}\n" for n in range(157)))
KEYS = ["Charades_v1_480/46GP8.mp4", "Charades_v1_480/N11GT.mp4"]


def row(video: str, actions: str) -> str:
    """A row as the authors write it: texts with commas are quoted, quotes inside them are doubled."""
    return f'{video},HR43,Kitchen,6,7,Yes,"A person, ""tired"", sits.",food;stove,"One; two, three.",{actions},24.83\n'


def read(train: str, val: str, labels: TextFile | None = CLASSES) -> Annotations:
    tables = [Table(TextFile("train.csv", HEADER + train), "train"), Table(TextFile("test.csv", HEADER + val), "val")]
    return CHARADES.read(ReaderInput(tables, labels, Videos(KEYS)))


def test_a_video_has_all_its_actions_and_their_times() -> None:
    train = row("46GP8", "c092 11.90 21.20;c147 0.00 12.60;c092 0 2") + row("GONE1", "c000 0.00 1.00")
    annotations = read(train, row("N11GT", ""))
    first, gone, empty = annotations.items
    assert (first.id, first.object, first.split, first.labels) == ("46GP8", KEYS[0], "train", [92, 147])
    assert first.spans == [[92, 11.9, 21.2], [147, 0.0, 12.6], [92, 0.0, 2.0]]
    assert (gone.object, gone.labels) == (None, [0])
    assert (empty.object, empty.split, empty.labels, empty.spans) == (KEYS[1], "val", [], [])
    assert (len(annotations.labels), annotations.labels[92]) == (157, "Action number 92")


def test_without_a_class_list_the_157_official_ids_are_the_names() -> None:
    labels = read(row("46GP8", "c156 0 1"), row("N11GT", ""), labels=None).labels
    assert (labels[0], labels[156], len(labels)) == ("c000", "c156", 157)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (
            "c092 11.90",
            r"action 'c092 11\.90' \(train\.csv:2\); separate actions `class start end` by semicolons",
        ),
        ("c092 1 2,c001 2 3", r"12 fields under 11 columns \(train\.csv:2\); quote fields that contain commas"),
        ("c157 1 2", r"class 'c157' is not one of 157 \(train\.csv:2\); did you mean 'c15"),
        ("c001 now 2", r"time of c001 'now' is not a number \(train\.csv:2\); correct the value"),
        ("c001 5.0 4.0", r"action 'c001 5\.0 4\.0' ends before it starts \(train\.csv:2\); correct its seconds"),
    ],
)
def test_malformed_actions_are_reported_with_their_line(actions: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(row("46GP8", actions), row("N11GT", ""))


def test_a_video_in_two_rows_is_reported() -> None:
    with pytest.raises(InputError, match=r"video '46GP8' is already in line 2 \(test\.csv:2\); keep one row"):
        read(row("46GP8", ""), row("46GP8", ""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "c000 Holding\n000 Sitting\n",
            r"'000 Sitting' is not a class \(classes\.txt:2\); a line is `c000 Holding some",
        ),
        ("c000 Holding\nc000 Sitting\n", r"duplicate class c000 \(classes\.txt:2\)"),
        ("\n", r"no labels \(classes\.txt\)"),
    ],
)
def test_malformed_class_lists_are_reported(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(row("46GP8", ""), row("N11GT", ""), TextFile("classes.txt", text))
