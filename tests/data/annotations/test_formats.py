"""A new annotation format needs its module and a line in FORMATS, and no other change."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from videos import moving_frames, write_video

from slowfast_core.data.annotations import formats
from slowfast_core.data.annotations.interface import AnnotationFormat, Annotations, Item, ReaderInput
from slowfast_core.data.manifest import Manifest, read_manifest
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Recipe, parse_recipe
from slowfast_core.stages.extract import extract
from slowfast_core.stages.ingest import ingest
from slowfast_core.stages.validate import SUITES, validate

ROOT = Path(__file__).resolve().parents[3]
NAMES = {each.name for each in formats.FORMATS}
BOX = [0.1, 0.1, 0.5, 0.9]
# The same words with other meanings: pydantic's type of an error, and PySlowFast's name of a data set.
OTHER_MEANINGS = {("slowfast_core/field_errors.py", "list"), ("slowfast_core/convert/settings.py", "charades")}


def read_toy(given: ReaderInput) -> Annotations:
    """Lines of `split=video`; each video has both classes."""
    items = []
    for table in given.tables:
        for line, (split, video) in table.file.rows("="):
            name = table.file.video_id(line, video)
            items.append(Item(name, name, given.videos.find(name), "val" if split == "val" else "train", [0, 1]))
    return Annotations(items, ("left", "right"))


def read_toy_with_boxes(given: ReaderInput) -> Annotations:
    """Two key frames in each video of `read_toy`, with one person."""
    found = read_toy(given)
    people: dict[str, Any] = {"boxes": [BOX], "box_labels": [[0, 1]]}
    items = [replace(item, second=at, key=at, start=at, end=at, **people) for item in found.items for at in (1, 2)]
    return replace(found, items=items)


TOY = AnnotationFormat(name="toy", reader=read_toy, suite="kinetics")
MULTI_LABEL = AnnotationFormat(name="toy", reader=read_toy, suite="charades", multi_label=True)
WITH_BOXES = AnnotationFormat(name="toy", reader=read_toy_with_boxes, suite="ava", has_boxes=True)


def toy_recipe(source: Path, **model: Any) -> Recipe:
    data = {"name": "toys", "format": "toy", "source": str(source), "annotations": "toys.txt"}
    store = {"short_side": 0, "crf": 12}
    return parse_recipe({"name": "toys", "data": {**data, "store": store}, "model": {"classes": 2, **model}})


def stored(recipe: Recipe, root: Path) -> Manifest:
    """The clip store of the data set, through the three stages."""
    ingest(recipe.data, root / "generated", root / "ingest")
    validate(recipe.data, root / "ingest", root / "validate")
    extract(recipe.data, recipe.clip, root / "ingest", root / "validate", root / "extract", workers=1)
    return read_manifest(root / "extract" / "store" / "manifest.parquet")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number, name in enumerate("ab"):
        write_video(folder / f"{name}.mp4", moving_frames(40, seed=number))
    (folder / "toys.txt").write_text("train=a\nval=b\n")
    return folder


@pytest.mark.parametrize(
    ("toy", "model", "ids"),
    [
        (TOY, {}, ["a", "b"]),
        (MULTI_LABEL, {"multi_label": True}, ["a", "b"]),
        (WITH_BOXES, {"head": "detect"}, ["a", "a-2", "b", "b-2"]),
    ],
    ids=["one label", "several labels", "boxes"],
)
def test_a_format_in_the_list_passes_through_the_stages(
    toy: AnnotationFormat,
    model: dict[str, Any],
    ids: list[str],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, toy))
    manifest = stored(toy_recipe(source, **model), tmp_path)
    assert list(manifest.rows["id"]) == ids
    assert manifest.labels == ("left", "right")
    assert [list(labels) for labels in manifest.rows["labels"]] == [[0, 1]] * len(ids)
    assert manifest.rows["path"].nunique() == 2


def test_a_recipe_must_fit_the_properties_of_its_format(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, MULTI_LABEL))
    with pytest.raises(InputError, match="format 'toy' has several labels per video: set model"):
        toy_recipe(source)
    with pytest.raises(InputError, match=r"model\.head 'detect' does not fit data\.format 'toy'"):
        toy_recipe(source, head="detect")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError) as error:
        formats.format_named("toy")
    known = "use 'kinetics', 'list', 'folders', 'charades', 'frame_list', 'something' or 'ava'"
    assert str(error.value) == f"unknown annotation format 'toy' (data.format); {known}"


def test_each_format_has_a_name_a_suite_and_a_row_in_the_documentation() -> None:
    assert len(NAMES) == len(formats.FORMATS)
    assert [each.name for each in formats.FORMATS if not (SUITES / f"{each.suite}.json").is_file()] == []
    page = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    assert [each.name for each in formats.FORMATS if f"\n| `{each.name}` |" not in page] == []


def names_in(path: Path) -> set[tuple[str, str]]:
    """The names of formats that are string literals of a module."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {(path.relative_to(ROOT).as_posix(), name) for name in texts & NAMES}


def test_no_other_module_contains_the_name_of_a_format() -> None:
    modules = [path for top in ("slowfast_core", "components", "pipelines") for path in (ROOT / top).rglob("*.py")]
    own = ROOT / "slowfast_core" / "data" / "annotations"
    found = {found for path in modules if own not in path.parents for found in names_in(path)}
    assert found == OTHER_MEANINGS
