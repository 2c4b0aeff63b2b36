from __future__ import annotations

import json
import math

import pytest

from slowfast_core.data.annotations.interface import Annotations, ReaderInput, Table
from slowfast_core.data.annotations.kinetics import KINETICS
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.errors import InputError

HEADER = "label,youtube_id,time_start,time_end,split\n"
KEYS = ["train/arm_wrestling/abc_000001_000011.mp4", "videos/whole.MKV", "notes.txt", "whole.json"]
LABELS = TextFile("labels.txt", "jumping\narm wrestling\n\n")


def read(text: str, *more: Table, labels: TextFile | None = None, split=None, holdout=0.0, keys=KEYS) -> Annotations:
    tables = [Table(TextFile("k.csv", text), split), *more]
    return KINETICS.read(ReaderInput(tables, labels, Videos(keys), holdout=holdout))


def test_rows_become_pre_cut_clips_or_segments_of_whole_videos() -> None:
    text = HEADER + '"arm wrestling",abc,1,11,train\njumping,whole,2.5,4.0,validate\njumping,gone,0,10,val\n'
    annotations = read(text)
    assert annotations.labels == ("arm wrestling", "jumping")
    clip, segment, gone = annotations.items
    assert (clip.id, clip.object, clip.start) == ("abc_000001_000011", KEYS[0], 0.0)
    assert math.isnan(clip.end)
    assert (clip.split, clip.labels, clip.video) == ("train", [0], "abc")
    assert (segment.id, segment.object) == ("whole_000002.500_000004", "videos/whole.MKV")
    assert (segment.start, segment.end, segment.split, segment.labels) == (2.5, 4.0, "val", [1])
    assert (gone.object, gone.start, gone.end) == (None, 0.0, 10.0)


def test_the_label_file_sets_the_order() -> None:
    annotations = read(HEADER + "jumping,whole,0,1,train\narm wrestling,abc,1,11,val\n", labels=LABELS)
    assert annotations.labels == ("jumping", "arm wrestling")
    assert [item.labels for item in annotations.items] == [[0], [1]]


def test_the_recipe_sets_the_split_of_files_without_one() -> None:
    val = Table(TextFile("v.csv", "label,youtube_id,time_start,time_end\njumping,whole,1,2\n"), "val")
    annotations = read(HEADER + "jumping,whole,0,1,\n", val, split="train")
    assert [item.split for item in annotations.items] == ["train", "val"]


def test_holdout_selects_whole_videos_deterministically() -> None:
    rows = [f"jumping,video{number},{second},{second + 1}," for number in range(10) for second in range(3)]
    items = read(HEADER + "\n".join(rows), holdout=0.25).items
    val = {item.video for item in items if item.split == "val"}
    assert len(val) == 3
    assert val.isdisjoint(item.video for item in items if item.split == "train")
    assert {
        item.video for item in read(HEADER + "\n".join(rows[::-1]), holdout=0.25).items if item.split == "val"
    } == val
    assert {item.split for item in read(HEADER + "\n".join(rows[:6]), holdout=0.99).items} == {"train", "val"}


def test_ids_are_unique_and_safe_as_file_names() -> None:
    text = HEADER + "jumping,whole,0,1,train\njumping,whole,0,1,train\njumping,whole,0,1,val\njumping,a b/c:d,0,1,val\n"
    ids = [item.id for item in read(text).items]
    assert ids == ["whole_000000_000001", "whole_000000_000001-2", "whole_000000_000001-3", "a_b_c_d_000000_000001"]


def test_rows_of_a_test_split_are_ignored_and_counted() -> None:
    text = HEADER + "jumping,whole,0,1,train\njumping,whole,1,2,val\n,whole,2,3,test\n"
    annotations = read(text)
    assert [item.split for item in annotations.items] == ["train", "val"]
    assert annotations.ignored == 1


def test_additional_columns_and_any_column_order_are_read() -> None:
    """Kinetics-400 has a last column `is_cc`; a csv written by pandas has its index as first column."""
    header = ",split,time_end,time_start,youtube_id,label,is_cc\n"
    items = read(header + "0,train,11.0,1.0,abc,arm wrestling,0\n1,val,1,0,whole,jumping,1\n").items
    assert [(item.id, item.object) for item in items] == [
        ("abc_000001_000011", KEYS[0]),
        ("whole_000000_000001", KEYS[1]),
    ]


JSON = {
    "abc": {"annotations": {"label": "arm wrestling", "segment": [1.0, 11.0]}, "duration": 10.0, "subset": "train"},
    "whole": {"annotations": {"label": "jumping", "segment": [2.0, 4.0]}, "duration": 2.0, "subset": "validate"},
    "hidden": {"annotations": {"segment": [2.0, 4.0]}, "duration": 2.0, "subset": "test"},
}


def test_the_official_json_gives_the_same_items_as_the_csv() -> None:
    annotations = read(json.dumps(JSON))
    text = HEADER + "arm wrestling,abc,1,11,train\njumping,whole,2,4,validate\n"
    assert repr(annotations.items) == repr(read(text).items)
    assert annotations.ignored == 1


def test_malformed_json_is_reported_with_its_entry() -> None:
    with pytest.raises(InputError, match=r"no segment with a start and an end \(k\.csv:abc\); the format is"):
        read(json.dumps({"abc": {"annotations": {"label": "jumping", "segment": [1.0]}}}))
    with pytest.raises(InputError, match=r"empty label \(k\.csv:abc\)"):
        read(json.dumps({"abc": {"annotations": {"segment": [1.0, 2.0]}, "subset": "val"}}))
    with pytest.raises(InputError, match=r"not JSON: .* \(k\.csv:1\)"):
        read('{"abc": ')


def test_files_of_one_name_are_distinguished_by_folders_of_label_and_split() -> None:
    keys = ["train/jumping/x.mp4", "val/jumping/x.mp4", "val/arm_wrestling/x.mp4"]
    text = HEADER + "jumping,x,0,1,train\narm wrestling,x,0,1,val\n"
    assert [item.object for item in read(text, keys=keys).items] == [keys[0], keys[2]]
    assert read(HEADER + "jumping,val/jumping/x,0,1,train\njumping,x,0,1,val\n", keys=keys).items[0].object == keys[1]
    with pytest.raises(InputError, match=r"several videos match 'x' \(a/x.mp4, b/x.webm\)"):
        read(text, keys=["a/x.mp4", "b/x.webm"])


GOOD = "jumping,whole,0,1,train\njumping,whole,0,1,val\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the file is empty \(k\.csv:1\); the header is label,youtube_id"),
        (HEADER.replace(",", ";"), r"no column label, .*time_end \(k\.csv:1\).*, separated by commas, not semicolons"),
        ("youtube_id,time_start,time_end,split\n", r"no column label \(k\.csv:1\); use a split with labels"),
        ("label,youtube_id\n", r"no column time_start, time_end \(k\.csv:1\)"),
        (HEADER + GOOD + "jumping,whole,0,1\n", r"4 fields under 5 columns \(k\.csv:4\)"),
        (
            HEADER + GOOD + "jumpin,whole,0,1,val\n",
            r"label 'jumpin' is not in data\.labels \(k\.csv:4\); did you mean 'jump",
        ),
        (HEADER + GOOD + ",whole,0,1,val\n", r"empty label \(k\.csv:4\)"),
        (HEADER + GOOD + "jumping,,0,1,val\n", r"empty video id \(k\.csv:4\)"),
        (
            HEADER + GOOD + "jumping,../../etc/passwd,0,1,val\n",
            r"'\.\./\.\./etc/passwd' leaves the data root \(k\.csv:4\)",
        ),
        (HEADER + GOOD + "jumping,/etc/passwd,0,1,val\n", r"leaves the data root \(k\.csv:4\)"),
        (HEADER + GOOD + "jumping,whole,now,1,val\n", r"time_start 'now' is not a number \(k\.csv:4\)"),
        (HEADER + GOOD + "jumping,whole,0,nan,val\n", r"time_end 'nan' is not a number \(k\.csv:4\)"),
        (HEADER + GOOD + "jumping,whole,2,2,val\n", r"segment from 2 to 2 seconds \(k\.csv:4\)"),
        (HEADER + GOOD + "jumping,whole,-1,2,val\n", r"segment from -1 to 2 seconds \(k\.csv:4\)"),
        (HEADER + GOOD + "jumping,whole,0,1,tset\n", r"split 'tset' \(k\.csv:4\); a split is 'train', 'val' or 'test'"),
        (HEADER + GOOD + 'jumping,"whole,0,1,val\n', r"not csv"),
        (HEADER + "jumping,whole,0,1,train\n", r"split 'val' is empty \(k\.csv\)"),
        (HEADER + "jumping,whole,0,1,\n", r"split 'val' is empty \(k\.csv\); add rows for it, or set data\.holdout"),
        (HEADER, r"split 'train' is empty"),
    ],
)
def test_malformed_files_are_reported_with_their_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(text, labels=LABELS)
    assert "\n" not in str(error.value)


def test_a_split_that_contradicts_the_recipe_is_refused() -> None:
    with pytest.raises(InputError, match=r"split 'train' \(k\.csv:2\); the split of this file is 'val'"):
        read(HEADER + "jumping,whole,0,1,train\n", split="val")


@pytest.mark.parametrize(("text", "message"), [("a\nb\na\n", "duplicate label 'a'"), ("\n", "no labels")])
def test_malformed_label_files_are_reported(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(HEADER + GOOD, labels=TextFile("labels.txt", text))
