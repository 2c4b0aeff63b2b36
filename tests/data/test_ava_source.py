from __future__ import annotations

import pytest

from slowfast_core.data.sources.ava import read_annotations
from slowfast_core.data.sources.common import Annotations, Table, TextFile, Videos
from slowfast_core.errors import InputError

MAP = TextFile("map.pbtxt", 'item {\n  name: "bend/bow {at} the \\"waist\\""\n  id: 1\n}\nitem { name: "run" id: 4 }\n')
TRAIN = (
    "one,0902,0.1,0.2,0.5,0.9,1,7\none,0902,0.1,0.2,0.5,0.9,4,7\none,0902,0.4,0.2,0.8,0.9,,8\none,0903,0,0,1,1,4,7\n"
)
VAL = "two,1798,0.25,0,1.0,1.0,4,0\n"


def read(train=TRAIN, val: str | None = VAL, labels: TextFile | None = MAP, holdout=0.0, first=900.0) -> Annotations:
    tables = [Table(TextFile("t.csv", train), "train" if val else None)]
    tables += [Table(TextFile("v.csv", val), "val")] if val else []
    return read_annotations(tables, labels, holdout, first, Videos(["one.mkv", "movies/two.mp4"]))


def test_lines_become_key_frames_with_boxes_by_person() -> None:
    annotations = read()
    assert [item.id for item in annotations.items] == ["one_0902", "one_0903", "two_1798"]
    frame, _, other = annotations.items
    assert (frame.video, frame.object, frame.split) == ("one", "one.mkv", "train")
    assert (frame.second, frame.key, frame.start, frame.end) == (902, 2.0, 2.0, 2.0)
    assert frame.boxes == [[0.1, 0.2, 0.5, 0.9], [0.4, 0.2, 0.8, 0.9]]
    assert frame.box_labels == [[0, 3], []]
    assert frame.labels == [0, 3]
    assert (other.object, other.split, other.key) == ("movies/two.mp4", "val", 898.0)


def test_label_maps_of_both_kinds_leave_gaps_empty() -> None:
    assert read().labels == ('bend/bow {at} the \\"waist\\"', "", "", "run")
    official = 'label {\n  name: "run"\n  label_id: 4\n  label_type: PERSON_MOVEMENT\n}\n'
    assert read(labels=TextFile("map", official)).labels == ("", "", "", "run")
    assert read(labels=None).labels == ("action_1", "action_2", "action_3", "action_4")


def test_an_action_in_a_gap_of_the_label_map_is_kept() -> None:
    assert read(val="two,1798,0,0,1,1,2,0\n").items[-1].labels == [1]


def test_one_file_is_split_by_video() -> None:
    rows = "".join(f"video{number},{second:04d},0,0,1,1,1,0\n" for number in range(8) for second in (902, 903))
    items = read(rows, val=None, holdout=0.25).items
    val = {item.video for item in items if item.split == "val"}
    assert len(val) == 2
    assert val.isdisjoint(item.video for item in items if item.split == "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one,0902,0.1,0.2,0.5,0.9,1", r"7 fields instead of 8 \(t\.csv:5\)"),
        ("one,9.5,0,0,1,1,1,0", r"second '9\.5' is not a whole number \(t\.csv:5\)"),
        ("one,899,0,0,1,1,1,0", r"second 899 is before the file starts \(t\.csv:5\); lower data\.first_second"),
        ("one,902,left,0,1,1,1,0", r"x1 'left' is not a number \(t\.csv:5\)"),
        ("one,902,0.5,0,0.5,1,1,0", r"box 0\.5,0,0\.5,1 \(t\.csv:5\)"),
        ("one,902,0,0.9,1,0.1,1,0", r"box 0,0\.9,1,0\.1 \(t\.csv:5\)"),
        ("one,902,0,0,320,240,1,0", r"box 0,0,320,240 \(t\.csv:5\); .*shares of the frame"),
        ("one,902,-0.1,0,1,1,1,0", r"box -0\.1"),
        ("one,902,0,0,1,1,5,0", r"action id 5 is not in the label map \(t\.csv:5\); its last id is 4"),
        ("one,902,0,0,1,1,run,0", r"action id 'run' is not a whole number"),
        ("one,902,0,0,1,1,0,0", r"action id '0' is not a whole number from 1"),
        ("../../etc/passwd,902,0,0,1,1,1,0", r"leaves the data root \(t\.csv:5\)"),
        (",902,0,0,1,1,1,0", r"empty video id \(t\.csv:5\)"),
    ],
)
def test_malformed_lines_are_told(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(TRAIN + line + "\n")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run\njump\n", "not a label map"),
        ("", "not a label map"),
        ('item { name: "run" id: 1 } rubbish', "not a label map"),
        ('item { name: "run" }', "without a name or an id"),
        ('item { name: "run" id: 0 }', "without a name or an id"),
        ('item { name: "run" id: 1 } item { name: "jump" id: 1 }', "id 1 is there twice"),
    ],
)
def test_malformed_label_maps_are_told(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(labels=TextFile("map.pbtxt", text))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(InputError, match=r"split 'val' is empty \(t\.csv\)"):
        read(val=None)
    with pytest.raises(InputError, match=r"split 'val' is empty \(t\.csv, v\.csv\)"):
        read(val="\n")
