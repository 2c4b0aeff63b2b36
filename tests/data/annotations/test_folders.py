from __future__ import annotations

import pytest

from slowfast_core.data.annotations.folders import FOLDERS
from slowfast_core.data.annotations.interface import Annotations, ReaderInput
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.errors import InputError

FLAT = [f"{label}/{number}.mp4" for label in ("arm_wrestling", "jumping") for number in range(5)]


def read(keys: list[str], labels: str = "", holdout: float = 0.0) -> Annotations:
    label_file = TextFile("labels.txt", labels) if labels else None
    return FOLDERS.read(ReaderInput([], label_file, Videos(keys), root="/data", holdout=holdout))


def test_train_and_val_folders_have_a_folder_per_class() -> None:
    keys = ["train/jumping/x/1.mp4", "train/arm wrestling/2.webm", "validation/jumping/3.avi", "notes/readme.txt"]
    annotations = read(keys)
    assert annotations.labels == ("arm wrestling", "jumping")
    items = {item.object: (item.split, item.labels, item.id) for item in annotations.items}
    assert items == {
        keys[0]: ("train", [1], "train_jumping_x_1"),
        keys[1]: ("train", [0], "train_arm_wrestling_2"),
        keys[2]: ("val", [1], "validation_jumping_3"),
    }


def test_class_folders_without_splits_are_split_by_holdout() -> None:
    annotations = read(FLAT, holdout=0.2)
    assert annotations.labels == ("arm_wrestling", "jumping")
    assert [item.split for item in annotations.items].count("val") == 2
    assert [item.labels for item in annotations.items] == [[0]] * 5 + [[1]] * 5


def test_a_label_file_sets_the_order_and_may_have_spaces() -> None:
    annotations = read(FLAT, "jumping\narm wrestling\nunused\n", holdout=0.2)
    assert annotations.labels == ("jumping", "arm wrestling", "unused")
    assert [item.labels for item in annotations.items] == [[1]] * 5 + [[0]] * 5


def test_folders_of_frames_are_videos_and_the_test_folder_is_ignored() -> None:
    frames = [f"train/jumping/clip7/{number:05d}.jpg" for number in range(1, 9)]
    annotations = read([*frames, "val/jumping/1.mp4", "test/jumping/2.mp4"])
    assert [item.object for item in annotations.items] == ["train/jumping/clip7", "val/jumping/1.mp4"]
    assert annotations.ignored == 1


def test_pictures_next_to_videos_are_not_frames() -> None:
    keys = [*FLAT, "jumping/thumbnail1.jpg", "jumping/0_001.png"]
    assert [item.object for item in read(keys, holdout=0.2).items] == FLAT


@pytest.mark.parametrize(
    ("keys", "labels", "message"),
    [
        ([], "", r"no video \(/data\); data\.source needs a folder per class, or train/ and val/ with such folders"),
        (["a.mp4"], "", r"video 'a\.mp4' is not in a class folder \(/data\); move it into the folder of its class"),
        (["train/a.mp4"], "", r"video 'train/a\.mp4' is not in a class folder"),
        (["train/x/a.mp4", "x/b.mp4"], "", r"video 'x/b\.mp4' is in neither train/ nor val/ \(/data\)"),
        (["train/x/a.mp4"], "", r"split 'val' is empty \(/data\); add rows for it, or set data\.holdout"),
        (
            ["jumpin/a.mp4"],
            "jumping\n",
            r"folder 'jumpin' is not in data\.labels \(/data/jumpin/a\.mp4\); did you mean",
        ),
    ],
)
def test_invalid_folder_structures_are_reported(keys: list[str], labels: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(keys, labels)
