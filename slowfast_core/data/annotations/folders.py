"""Reads one folder per class, without annotation files: `{train,val}/<class>/...`, or `<class>/...` alone."""

from __future__ import annotations

from slowfast_core.data.annotations.class_names import nearest, read_names
from slowfast_core.data.annotations.interface import AnnotationFormat, Annotations, Item, ReaderInput, Split
from slowfast_core.errors import InputError

SPLITS: dict[str, Split] = {"train": "train", "training": "train"}
SPLITS |= dict.fromkeys(("val", "valid", "validate", "validation"), "val")
TEST = ("test", "testing")


def _read(given: ReaderInput) -> Annotations:
    root = given.root
    found = sorted(given.videos)
    split_by_folder = any(video.partition("/")[0].lower() in SPLITS for video in found)
    total = len(found)
    if split_by_folder:
        found = [video for video in found if video.partition("/")[0].lower() not in TEST]
    if not found:
        raise InputError("no video", root, "data.source needs a folder per class, or train/ and val/ with such folders")
    labelled = [_label(video, split_by_folder, root) for video in found]
    names = read_names(given.labels) if given.labels else tuple(sorted({label for _, label in labelled}))
    classes = {name: index for index, name in enumerate(names)}
    classes = {name.replace(" ", "_"): index for name, index in classes.items()} | classes
    val = given.held_out(video for video, (split, _) in zip(found, labelled, strict=True) if split is None)
    items = []
    for video, (split, label) in zip(found, labelled, strict=True):
        if label not in classes:
            raise InputError(f"folder {label!r} is not in data.labels", f"{root}/{video}", nearest(label, classes))
        name = given.videos.name(video)
        split = split or ("val" if video in val else "train")
        items.append(Item(name, name, video, split, [classes[label]]))
    return Annotations(items, names, total - len(found))


FOLDERS = AnnotationFormat(name="folders", reader=_read, suite="kinetics", has_files=False, names_from_rows=True)


def _label(video: str, split_by_folder: bool, root: str) -> tuple[Split | None, str]:
    folders = video.split("/")[:-1]
    split = SPLITS.get(folders[0].lower()) if split_by_folder and folders else None
    if split_by_folder and split is None:
        raise InputError(f"video {video!r} is in neither train/ nor val/", root, "move or remove it")
    if len(folders) <= split_by_folder:
        raise InputError(f"video {video!r} is not in a class folder", root, "move it into the folder of its class")
    return split, folders[split_by_folder]
