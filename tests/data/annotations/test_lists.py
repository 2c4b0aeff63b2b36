from __future__ import annotations

import math

import pytest

from slowfast_core.data.annotations.interface import Annotations, ReaderInput, Table
from slowfast_core.data.annotations.lists import LIST
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.errors import InputError

KEYS = ["videos/abseiling/a b.mp4", "videos/jumping/c,d.webm", "videos/e.avi"]
KEYS += [f"raw/jumping/f/img_{frame:05d}.jpg" for frame in range(1, 13)]
KEYS += [f"raw/jumping/f/flow_x_{frame:05d}.jpg" for frame in range(1, 13)]
NAMES = TextFile("labels.txt", "abseiling\narm wrestling\njumping\n")
VAL = "videos/e.avi 1\n"


def read(train: str, val: str = VAL, labels: TextFile | None = None, keys: list[str] = KEYS) -> Annotations:
    tables = [Table(TextFile("train.csv", train), "train"), Table(TextFile("val.csv", val), "val")]
    return LIST.read(ReaderInput(tables, labels, Videos(keys), root="/data/k", frame_rate=12.0))


def found(annotations: Annotations) -> list[tuple[str | None, list[int]]]:
    return [(item.object, item.labels) for item in annotations.items if item.split == "train"]


@pytest.mark.parametrize(
    "text",
    [
        "videos/abseiling/a b.mp4 0\nvideos/jumping/c,d.webm 2\n",  # PySlowFast
        "/data/k/videos/abseiling/a b.mp4 0\n/data/k/videos/jumping/c,d.webm 2\n",  # the list contains the prefix
        "abseiling/a b 0\njumping/c,d 2\n",  # MMAction2: paths without suffix
        'abseiling/a b.mp4,0\n"jumping/c,d.webm",2\n',
        "abseiling/a b.mp4;0\njumping/c,d.webm;2\n",
        "abseiling/a b.mp4\t0\r\njumping/c,d.webm\t2\r\n",
        'path,label\nabseiling/a b.mp4,0\n"jumping/c,d.webm",2\n',
        'class,file\n0,abseiling/a b.mp4\n2,"jumping/c,d.webm"\n',
        "\n\nabseiling/a b.mp4   0\n\njumping/c,d.webm 2",
    ],
)
@pytest.mark.parametrize("labels", [None, NAMES])
def test_any_separator_is_read_with_or_without_a_header(text: str, labels: TextFile | None) -> None:
    annotations = read(text, labels=labels)
    assert found(annotations) == [(KEYS[0], [0]), (KEYS[1], [2])]
    assert annotations.labels == (("abseiling", "arm wrestling", "jumping") if labels else ("0", "1", "2"))


@pytest.mark.parametrize("labels", [None, NAMES])
def test_labels_may_be_names(labels: TextFile | None) -> None:
    text = 'video,class\nabseiling/a b.mp4,arm wrestling\n"jumping/c,d.webm",jumping\n'
    annotations = read(text, "e.avi,abseiling\n", labels)
    assert annotations.labels == ("abseiling", "arm wrestling", "jumping")
    assert found(annotations) == [(KEYS[0], [1]), (KEYS[1], [2])]


def test_lists_of_raw_frames_of_mmaction2_give_the_frame_count() -> None:
    item = read("raw/jumping/f 12 2\n").items[0]
    assert (item.object, item.labels, item.start, item.end) == ("raw/jumping/f", [2], 0.0, 1.0)
    assert len(Videos(KEYS).objects("raw/jumping/f")) == 12
    assert math.isnan(read("raw/jumping/f 2\n").items[0].end)


def test_the_suffix_distinguishes_files_of_one_name() -> None:
    keys = ["a/x.mp4", "a/x.webm", *KEYS]
    assert found(read("a/x.webm 0\n", keys=keys)) == [("a/x.webm", [0])]
    with pytest.raises(InputError, match=r"several videos match 'a/x' \(a/x\.mp4, a/x\.webm\)"):
        read("a/x 0\n", keys=keys)


def test_a_single_list_is_split_by_holdout() -> None:
    text = "".join(f"v{number}.mp4 0\n" for number in range(10))
    items = LIST.read(ReaderInput([Table(TextFile("all.txt", text), None)], None, Videos([]), holdout=0.3)).items
    assert sum(item.split == "val" for item in items) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the file is empty \(train\.csv:1\); a line is `path label` or `path,label`"),
        ("a.mp4 0\nb.mp4\n", r"'b\.mp4' has no label \(train\.csv:2\); a line is `path label`"),
        ("a.mp4,0\nb.mp4\n", r"1 fields \(train\.csv:2\); write two fields separated by commas"),
        ("a.mp4,0\nb,c.mp4,1\n", r"3 fields \(train\.csv:2\); .*quote a path that contains commas"),
        ("a.mp4,0\nb.mp4,\n", r"empty label \(train\.csv:2\); write the name or the index of the class"),
        ("a.mp4 0\nb.mp4 3\n", r"label 3 is out of range \(train\.csv:2\); data\.labels has the classes 0 to 2"),
        ("a.mp4 0\nb.mp4 -1\n", r"label '-1' is not in data\.labels \(train\.csv:2\)"),
        ("a.mp4,jumping\nb.mp4,jumpin\n", r"label 'jumpin' .*\(train\.csv:2\); did you mean 'jumping'\?"),
        ("a.mp4 0\n../b.mp4 0\n", r"video '\.\./b\.mp4' leaves the data root \(train\.csv:2\)"),
        ("a.mp4 0\n/data/other/b.mp4 0\n", r"video '/data/other/b\.mp4' leaves the data root \(train\.csv:2\)"),
        ("a.mp4 0\na.mp4 1\n", r"'a\.mp4' has the label '1', but '0' in line 1 \(train\.csv:2\); keep one"),
        ("f 0 1\n", r"0 frames \(train\.csv:1\)"),
    ],
)
def test_malformed_lists_are_reported_with_their_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(text, labels=NAMES)
    assert "\n" not in str(error.value)


def test_an_invalid_label_among_indices_is_reported() -> None:
    with pytest.raises(InputError, match=r"label '-1' is not a class index \(train\.csv:2\); other lines have indices"):
        read("a.mp4 0\nb.mp4 -1\n")
