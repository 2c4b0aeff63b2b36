from __future__ import annotations

import json

import pytest

from slowfast_core.data.annotations.interface import Annotations, ReaderInput, Table
from slowfast_core.data.annotations.something import SOMETHING
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.errors import InputError

LABELS = TextFile("labels.json", '{\n "Holding something next to something":"1",\n "Bending something":"0"\n}')
HOLDING = {
    "id": "78687",
    "label": "holding potato next to vicks vaporub bottle",
    "template": "Holding [something] next to [something]",
    "placeholders": ["potato", "vicks vaporub bottle"],
}
BENDING = {"id": "42326", "label": "bending wire", "template": "Bending [something]", "placeholders": ["wire"]}
KEYS = ["20bn-something-something-v2/78687.webm", "20bn-something-something-v2/42326.webm"]
V1_LABELS = TextFile("labels.csv", "Bending something\nHolding something, then letting it drop\n")
V1_KEYS = [f"20bn-something-something-v1/{video}/{frame:05d}.jpg" for video in (7, 42326) for frame in range(1, 40)]


def read_v2(train: object, val: object, labels: TextFile | None = LABELS) -> Annotations:
    texts = [text if isinstance(text, str) else json.dumps(text) for text in (train, val)]
    tables = [
        Table(TextFile("train.json", texts[0]), "train"),
        Table(TextFile("validation.json", texts[1]), "val"),
    ]
    return SOMETHING.read(ReaderInput(tables, labels, Videos(KEYS)))


def read_v1(train: str, val: str) -> Annotations:
    tables = [Table(TextFile("train.csv", train), "train"), Table(TextFile("validation.csv", val), "val")]
    return SOMETHING.read(ReaderInput(tables, V1_LABELS, Videos(V1_KEYS)))


def test_templates_become_labels_without_their_brackets() -> None:
    annotations = read_v2([HOLDING], [BENDING])
    assert annotations.labels == ("Bending something", "Holding something next to something")
    assert [(i.id, i.object, i.split, i.labels) for i in annotations.items] == [
        ("78687", KEYS[0], "train", [1]),
        ("42326", KEYS[1], "val", [0]),
    ]


def test_v1_rows_are_folders_of_frames() -> None:
    annotations = read_v1("42326;Holding something, then letting it drop\n", "7;Bending something\n9;Bending something")
    assert annotations.labels == ("Bending something", "Holding something, then letting it drop")
    folder = "20bn-something-something-v1"
    assert [item.object for item in annotations.items] == [f"{folder}/42326", f"{folder}/7", None]
    assert [item.labels for item in annotations.items] == [[1], [0], [0]]
    objects = Videos(V1_KEYS).objects(f"{folder}/7")
    assert (len(objects), objects[0]) == (39, f"{folder}/7/00001.jpg")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"78687": HOLDING}, r"not a list of videos \(train\.json\); the format is \[\{"),
        ('[\n{"id": "1",\n]', r"not JSON: .* \(train\.json:[23]\); fix the file"),
        ([{"id": "78687"}], r"video '78687' has no template \(train\.json: video 1\); use a split with labels"),
        ([{"template": "x"}], r"no id \(train\.json: video 1\); a video is"),
        (
            [{**HOLDING, "template": "Holding [something] next to"}],
            r"label 'Holding something next to' is not in data\.labels \(train\.json: video 1\); "
            r"did you mean 'Holding something next to something'\?",
        ),
        (
            [HOLDING, HOLDING],
            r"duplicate video '78687' \(train\.json: video 2\); keep one; the other is train\.json",
        ),
        ([{**HOLDING, "id": "../78687"}], r"'\.\./78687' leaves the data root \(train\.json: video 1\)"),
        ("", r"the file is empty \(train\.json:1\)"),
    ],
)
def test_malformed_v2_lists_are_reported(train: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_v2(train, [BENDING])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("42326,Bending something\n", r"has no label \(train\.csv:1\); a line is `id;label`, with a semicolon"),
        ("42326\n", r"'42326' has no label \(train\.csv:1\); use a split with labels"),
        ("42326;Bending something;2\n", r"3 fields \(train\.csv:1\); a line is `id;label`"),
        ("42326;Bendig something\n", r"not in data\.labels \(train\.csv:1\); did you mean 'Bending something'\?"),
    ],
)
def test_malformed_v1_lists_are_reported(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_v1(text, "7;Bending something\n")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"no label file \(train\.json\); set data\.labels to the label file of the data set"),
        (
            TextFile("labels.json", '{"a": 0, "b": 2}'),
            r"label 'b' has the index 2 \(labels\.json\); 2 labels have the ind",
        ),
        (TextFile("labels.json", '{"a": "0", "b": "0"}'), r"two labels have the same index \(labels\.json\)"),
        (TextFile("labels.json", "[1, 2]"), r"a label is not a name \(labels\.json\)"),
        (TextFile("labels.json", '{"a": 0'), r"not JSON: .* \(labels\.json:1\)"),
    ],
)
def test_malformed_labels_are_reported(labels: TextFile | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_v2([HOLDING], [BENDING], labels)


def test_quoted_label_names_of_pytorchvideo_are_read() -> None:
    labels = TextFile("kinetics_classnames.json", json.dumps({'"Bending something"': 1, "Holding it": 0}))
    assert read_v2([BENDING], [{**BENDING, "id": "78687"}], labels).labels == ("Holding it", "Bending something")
