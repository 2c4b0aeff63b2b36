from __future__ import annotations

import pytest

from slowfast_core.data.annotations.frame_lists import FRAME_LIST
from slowfast_core.data.annotations.interface import Annotations, ReaderInput, Table
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.data.loading.sampling import labels_within
from slowfast_core.errors import InputError

HEADER = "original_vido_id video_id frame_id path labels\n"
KEYS = [f"Charades_v1_rgb/{v}/{v}-{frame:06d}.jpg" for v in ("46GP8", "N11GT") for frame in range(1, 7)]


def rows(video: str, number: int, labels: list[str]) -> str:
    lines = [f'{video} {number} {i} {video}/{video}-{i + 1:06d}.jpg "{quoted}"\n' for i, quoted in enumerate(labels)]
    return "".join(lines)


def read(train: str, val: str, labels: TextFile | None = None, header: str = HEADER) -> Annotations:
    tables = [Table(TextFile("train.csv", header + train), "train"), Table(TextFile("val.csv", header + val), "val")]
    return FRAME_LIST.read(ReaderInput(tables, labels, Videos(KEYS), frame_rate=24.0))


TRAIN = rows("46GP8", 0, ["", "3,5", "3", "", "3", "5"])
VAL = rows("N11GT", 0, ["0", "0", "0", "0", "0", "0"])


def test_frames_become_videos_with_the_times_of_their_labels() -> None:
    annotations = read(TRAIN, VAL)
    first, second = annotations.items
    assert (first.id, first.object, first.labels, first.split) == ("46GP8", "Charades_v1_rgb/46GP8", [3, 5], "train")
    assert first.spans == [
        [3, 0.5 / 24, 2.5 / 24],
        [3, 3.5 / 24, 4.5 / 24],
        [5, 0.5 / 24, 1.5 / 24],
        [5, 4.5 / 24, 5.5 / 24],
    ]
    assert (second.split, second.spans) == ("val", [[0, 0, 5.5 / 24]])
    assert annotations.labels == ("0", "1", "2", "3", "4", "5")


@pytest.mark.parametrize(
    ("first", "last", "labels"), [(0, 0, []), (0, 1, [3, 5]), (2, 2, [3]), (3, 3, []), (2, 4, [3]), (3, 5, [3, 5])]
)
def test_a_clip_has_the_labels_of_the_frames_that_it_spans(first: int, last: int, labels: list[int]) -> None:
    spans = read(TRAIN, VAL).items[0].spans
    assert spans is not None
    assert labels_within(spans, first / 24, last / 24) == labels


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            rows("46GP8", 0, ["", ""]).replace("000002", "x/000002"),
            r"'46GP8/46GP8-x/000002\.jpg' of '46GP8' is not in 46",
        ),
        (TRAIN.replace(" 2 46", " 3 46"), r"frame 3 of '46GP8' follows frame 1 \(train\.csv:4\); list all frames in"),
        (TRAIN.replace('"3,5"', '"3;5"'), r"labels '3;5' \(train\.csv:3\); write class indices in quotes, such as"),
        (TRAIN.replace('"3,5"', '"3,7"'), r"label 7 is out of range \(train\.csv:3\); data\.labels has 0 to 5"),
        (TRAIN.replace("46GP8/46GP8-000001", "../46GP8-000001"), r"'\.\./46GP8-000001\.jpg' leaves the data root"),
        (TRAIN.replace(" 1 46", " one 46"), r"frame_id 'one' is not a whole number \(train\.csv:3\)"),
    ],
)
def test_malformed_lists_are_reported_with_their_line(train: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(train, VAL, TextFile("labels.txt", "a\nb\nc\nd\ne\nf\n"))


def test_a_list_without_labels_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"no frame has a label \(train\.csv:1\); labels of Something-Something are in its"
    ):
        read(rows("46GP8", 0, ["", ""]), rows("N11GT", 0, [""]))


def test_commas_instead_of_spaces_are_reported() -> None:
    with pytest.raises(InputError, match=r"no column .*labels \(train\.csv:1\).* separated by spaces, not commas"):
        read(TRAIN, VAL, header=HEADER.replace(" ", ","))
