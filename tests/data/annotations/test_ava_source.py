from __future__ import annotations

from typing import Any

import pytest

from slowfast_core.data.annotations.ava import AVA
from slowfast_core.data.annotations.boxes import PersonBoxes
from slowfast_core.data.annotations.interface import Annotations, Item, ReaderInput, Table
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import load_recipe

MAP = TextFile("map.pbtxt", 'item {\n  name: "bend/bow {at} the \\"waist\\""\n  id: 1\n}\nitem { name: "run" id: 4 }\n')
TRAIN = (
    "one,0902,0.1,0.2,0.5,0.9,1,7\none,0902,0.1,0.2,0.5,0.9,4,7\none,0902,0.4,0.2,0.8,0.9,,8\none,0903,0,0,1,1,4,7\n"
)
VAL = "two,1798,0.25,0,1.0,1.0,4,0\n"


def read(
    train: str = TRAIN,
    val: str | None = VAL,
    labels: TextFile | None = MAP,
    holdout: float = 0.0,
    first: float = 900.0,
    **options: Any,
) -> Annotations:
    tables = [Table(TextFile("t.csv", train), "train" if val else None)]
    tables += [Table(TextFile("v.csv", val), "val")] if val else []
    videos = Videos(["one.mkv", "movies/two.mp4"])
    return AVA.read(ReaderInput(tables, labels, videos, holdout=holdout, first_second=first, **options))


def items_of(**options: Any) -> dict[str, Item]:
    return {item.id: item for item in read(**options).items}


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


def test_unused_ids_of_label_maps_have_empty_names() -> None:
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
        ("one,0902,0.1,0.2,0.5,0.9,1,7", r"duplicate of line 1 \(t\.csv:5\); remove one of them"),
        ("one,0903,0,0,1,1,4,7", r"duplicate of line 4 \(t\.csv:5\)"),
        ("one,second,0,0,1,1,1,0", r"second 'second' is not a whole number \(t\.csv:5\); .*no header"),
        ("one,9.5,0,0,1,1,1,0", r"second '9\.5' is not a whole number \(t\.csv:5\)"),
        ("one,899,0,0,1,1,1,0", r"second 899 is before the file starts \(t\.csv:5\); lower data\.first_second"),
        ("one,902,left,0,1,1,1,0", r"x1 'left' is not a number \(t\.csv:5\)"),
        ("one,902,0.5,0,0.5,1,1,0", r"box 0\.5,0,0\.5,1 \(t\.csv:5\)"),
        ("one,902,0,0.9,1,0.1,1,0", r"box 0,0\.9,1,0\.1 \(t\.csv:5\)"),
        ("one,902,0,0,320,240,1,0", r"box 0,0,320,240 \(t\.csv:5\); .*fractions of the frame"),
        ("one,902,-0.1,0,1,1,1,0", r"box -0\.1"),
        ("one,902,0,0,1,1,5,0", r"action id 5 is not in the label map \(t\.csv:5\); its last id is 4"),
        ("one,902,0,0,1,1,run,0", r"action id 'run' is not a whole number"),
        ("one,902,0,0,1,1,0,0", r"action id '0' is not a whole number from 1"),
        ("../../etc/passwd,902,0,0,1,1,1,0", r"leaves the data root \(t\.csv:5\)"),
        (",902,0,0,1,1,1,0", r"empty video id \(t\.csv:5\)"),
    ],
)
def test_malformed_lines_are_reported(line: str, message: str) -> None:
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
        ('item { name: "run" id: 1 } item { name: "jump" id: 1 }', "duplicate id 1"),
    ],
)
def test_malformed_label_maps_are_reported(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(labels=TextFile("map.pbtxt", text))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(InputError, match=r"split 'val' is empty \(t\.csv\)"):
        read(val=None)
    with pytest.raises(InputError, match=r"split 'val' is empty \(t\.csv, v\.csv\)"):
        read(val="\n")


@pytest.mark.parametrize(
    "text",
    [
        'item {\n  name: "run"\n  id: 1\n',
        'item { name: "run" id: 1 } item { name: "jump id: 2 }',
        'item { name: "run" id: one }',
        '{"run": 1}',
    ],
)
def test_broken_label_maps_are_reported(text: str) -> None:
    with pytest.raises(InputError, match=r"\(map\.pbtxt\)") as error:
        read(labels=TextFile("map.pbtxt", text))
    assert "\n" not in str(error.value)


def test_a_label_map_of_other_actions_is_reported() -> None:
    with pytest.raises(
        InputError, match=r"no action id .* in the label map \(map\.pbtxt\); annotated: 1, 4\.\.\., .* 5"
    ):
        read(labels=TextFile("map.pbtxt", 'item { name: "fly" id: 5 }'))


def test_both_official_lists_give_the_same_classes() -> None:
    """The full list of 80 actions with types, and ActivityNet's subset of 60 with the same ids."""
    kinds = ("PERSON_MOVEMENT", "OBJECT_MANIPULATION", "PERSON_INTERACTION")
    whole = "".join(
        f'label {{\n  name: "action {n}"\n  label_id: {n}\n  label_type: {kinds[n % 3]}\n}}\n' for n in range(1, 81)
    )
    subset = "".join(f'item {{\n  name: "action {n}"\n  id: {n}\n}}\n' for n in range(1, 81) if n % 4 != 1)
    of_80, of_60 = (read(labels=TextFile(name, text)).labels for name, text in (("v2.2", whole), ("2019", subset)))
    assert (len(of_80), len(of_60)) == (80, 80)
    assert sum(map(bool, of_60)) == 60
    assert all(short in ("", long) for short, long in zip(of_60, of_80, strict=True))


def test_files_without_person_ids_are_read() -> None:
    """Such files do not pad their seconds; people are distinguished by their boxes."""
    train = "one,921,0.1,0.2,0.5,0.9,1\none,921,0.1,0.2,0.5,0.9,4\none,921,0.5,0.2,0.8,0.9,4\n"
    [frame] = [item for item in read(train).items if item.split == "train"]
    assert (frame.id, frame.key, frame.box_labels) == ("one_0921", 21.0, [[0, 3], [3]])
    with pytest.raises(InputError, match=r"8 fields instead of 7 \(t\.csv:4\)"):
        read(train + "one,921,0.1,0.2,0.5,0.9,1,0\n")
    with pytest.raises(InputError, match=r"6 fields instead of 8 \(t\.csv:1\)"):
        read("one,921,0.1,0.2,0.5,0.9\n")


def test_key_frames_out_of_range_are_reported() -> None:
    assert len(read(key_seconds=(902, 1798)).items) == 3
    for second in ("0901", "1799"):
        with pytest.raises(InputError, match=rf"second {second} is not a key frame \(t\.csv:5\).*\[902, 1798\]"):
            read(TRAIN + f"one,{second},0,0,1,1,1,0\n", key_seconds=(902, 1798))


def test_excluded_key_frames_are_left_out() -> None:
    excluded = [TextFile("train.csv", "one,0903\none,1000\n"), TextFile("val.csv", "two,1797\n")]
    assert list(items_of(excluded=excluded)) == ["one_0902", "two_1798"]
    assert len(items_of(excluded=[TextFile("none.csv", "")])) == 3


def test_exclusions_that_leave_nothing_are_reported() -> None:
    with pytest.raises(InputError, match="split 'val' is empty"):
        items_of(excluded=[TextFile("x.csv", "two,1798\n")], person_boxes={"val": predicted(two_1798=[])})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one,0903,1\n", r"3 fields instead of 2 \(x\.csv:1\); a line is video_id,second"),
        ("one,0903\none\n", r"1 fields instead of 2 \(x\.csv:2\)"),
        ("video_id,timestamp\none,0903\n", r"second 'timestamp' is not a whole number \(x\.csv:1\).*no header"),
        ("three,0903\n", r"excludes no annotated video \(x\.csv\)"),
    ],
)
def test_malformed_exclusions_are_reported(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(excluded=[TextFile("x.csv", text)])


def predicted(**found: list[list[float]]) -> PersonBoxes:
    keys = {(name[:-5], int(name[-4:])): boxes for name, boxes in found.items()}
    return PersonBoxes("boxes.csv", keys)


def test_predicted_boxes_of_val_become_proposals() -> None:
    people = [[0.2, 0.0, 0.9, 1.0, 0.95], [0.0, 0.0, 0.1, 0.1, 0.81]]
    boxes = predicted(two_1798=people, two_1797=people[:1], two_0901=people, three_1000=people, one_0902=people)
    items = items_of(key_seconds=(902, 1798), person_boxes={"val": boxes})
    assert list(items) == ["one_0902", "one_0903", "two_1798", "two_1797"]
    assert items["one_0902"].proposals is None
    assert (items["two_1798"].boxes, items["two_1798"].proposals) == ([[0.25, 0.0, 1.0, 1.0]], people)
    empty = items["two_1797"]  # no person is annotated in it, so each detection is a false positive
    assert (empty.boxes, empty.box_labels, empty.labels, empty.proposals) == ([], [], [], people[:1])
    assert (empty.key, empty.second, empty.split, empty.object) == (897.0, 1797, "val", "movies/two.mp4")
    excluded = [TextFile("x.csv", "two,1797\n")]
    assert "two_1797" not in items_of(key_seconds=(902, 1798), excluded=excluded, person_boxes={"val": boxes})


def test_a_val_key_frame_without_predictions_has_no_proposals() -> None:
    val = VAL + "two,1700,0.25,0,1.0,1.0,4,0\n"
    boxes = predicted(two_1798=[[0.2, 0.0, 0.9, 1.0, 0.95]])
    assert items_of(person_boxes={"val": boxes}, val=val)["two_1700"].proposals == []


def test_predicted_boxes_of_train_get_the_labels_of_the_annotated_box_they_overlap() -> None:
    """IoU with the box of person 7: 0.97 for the first box, 0.87 for the second. Person 8 has no action."""
    near, far, idle = [0.1, 0.2, 0.5, 0.88, 0.9], [0.1, 0.2, 0.46, 0.88, 0.9], [0.4, 0.2, 0.8, 0.9, 0.99]
    near_idle = [0.4, 0.2, 0.8, 0.89, 0.9]
    boxes = predicted(one_0902=[near, far, idle, near_idle], one_0904=[near])
    items = items_of(person_boxes={"train": boxes})
    frame = items["one_0902"]
    assert frame.boxes == [[0.1, 0.2, 0.5, 0.9], [0.4, 0.2, 0.8, 0.9], near[:4], near_idle[:4]]
    assert frame.box_labels == [[0, 3], [], [0, 3], []]
    assert (frame.proposals, frame.labels) == (None, [0, 3])
    assert items["one_0903"].boxes == [[0, 0, 1, 1]]
    assert "one_0904" not in items
    wider = items_of(person_boxes={"train": boxes}, person_box_iou=0.85)
    assert far[:4] in (wider["one_0902"].boxes or [])


def test_predicted_boxes_of_train_without_a_match_may_be_negatives() -> None:
    """As PySlowFast's load of its file with negatives: all boxes, of all key frames, with the actions they have."""
    near, far, idle = [0.1, 0.2, 0.5, 0.88, 0.9], [0.1, 0.2, 0.46, 0.88, 0.9], [0.4, 0.2, 0.8, 0.9, 0.99]
    boxes = predicted(one_0902=[near, far, idle], one_0904=[near, far], two_1700=[near], three_0902=[near])
    items = items_of(person_boxes={"train": boxes}, person_box_negatives=True)
    frame = items["one_0902"]
    assert frame.boxes == [[0.1, 0.2, 0.5, 0.9], [0.4, 0.2, 0.8, 0.9], near[:4], far[:4]]
    assert frame.box_labels == [[0, 3], [], [0, 3], []]
    only = items["one_0904"]
    assert (only.split, only.second, only.boxes, only.box_labels) == ("train", 904, [near[:4], far[:4]], [[], []])
    assert (only.labels, only.proposals) == ([], None)
    assert not {"two_1700", "three_0902"} & set(items)  # `two` is a video of val, and `three` is not annotated
    excluded = [TextFile("x.csv", "one,904\n")]
    assert "one_0904" not in items_of(person_boxes={"train": boxes}, person_box_negatives=True, excluded=excluded)


def test_recipes_of_pyslowfast_train_with_negatives() -> None:
    for name, score, size in (("slowfast_8x8_r50_pyslowfast", 0.8, 224), ("slow_4x16_r50_pyslowfast", 0.9, 256)):
        recipe = load_recipe(f"ava22/{name}")
        boxes = recipe.data.person_boxes
        assert (boxes.negatives, boxes.min_score, recipe.evaluate.size) == (True, score, size)
    assert load_recipe("kinetics400/slowfast_8x8_r50_pyslowfast_multigrid").evaluate.size == 224


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_of_other_key_frames_are_reported(split: str) -> None:
    boxes = predicted(elsewhere_0902=[[0.2, 0.0, 0.9, 1.0, 0.95]])
    message = (
        rf"no person box is in a key frame of the {split} split; the first box is in elsewhere,0902 \(boxes\.csv\)"
    )
    with pytest.raises(InputError, match=message) as error:
        read(person_boxes={split: boxes})
    assert "\n" not in str(error.value)
