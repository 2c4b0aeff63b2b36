"""Recipes: values and defaults, refusals and their messages, `extends`, `finetune` and overrides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Recipe, load_recipe, parse_recipe, recipe_names

TINY: dict[str, Any] = {"name": "tiny", "data": {"name": "motion"}}
AVA: dict[str, Any] = {
    "name": "tiny_ava",
    "data": {"name": "actors", "format": "ava"},
    "model": {"head": "detect"},
}


def write(folder: Path, stem: str, **tree: Any) -> Path:
    path = folder / f"{stem}.yaml"
    path.write_text(yaml.safe_dump({**TINY, **tree} if "extends" not in tree else tree))
    return path


def refusal(*args: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(str(args[0]), *args[1:])
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_in_the_repository_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


@pytest.mark.parametrize("name", recipe_names())
def test_json_keeps_the_inputs_of_stages(name: str) -> None:
    """Stages compare JSON text, in which 0 and 0.0 differ."""
    recipe = load_recipe(name)
    again = parse_recipe(recipe.to_json())
    assert json.dumps(again.model_dump(), default=str) == json.dumps(recipe.model_dump(), default=str)


def test_there_are_recipes() -> None:
    assert {"demo", "demo_ava"} <= set(recipe_names())


def test_omitted_keys_have_their_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(str(write(tmp_path, "tiny", model={"classes": 8})))
    assert (recipe.model.classes, recipe.model.depth, recipe.clip.T, recipe.clip.alpha) == (8, 50, 4, 8)
    assert recipe.finetune is None


def test_a_recipe_is_immutable(tmp_path: Path) -> None:
    recipe = load_recipe(str(write(tmp_path, "tiny")))
    with pytest.raises(ValidationError) as error:
        recipe.train.epochs = 3  # type: ignore[misc]
    assert error.value.errors()[0]["type"] == "frozen_instance"


@pytest.mark.parametrize(
    ("tree", "key", "nearest"),
    [
        ({"modle": {}}, "modle", "model"),
        ({"regsiter": {}}, "regsiter", "register"),
        ({"train": {"epoch": 3}}, "train.epoch", "epochs"),
        ({"train": {"lerning_rate": 3}}, "train.lerning_rate", "learning_rate"),
        ({"data": {"name": "x", "synthetic": {"train_video": 3}}}, "data.synthetic.train_video", "train_videos"),
        ({"register": {"modl": "m"}}, "register.modl", "model"),
        ({"finetune": {**AVA, "trian": {}}}, "finetune.trian", "train"),
        ({"finetune": {**AVA, "train": {"warmup_epoch": 1}}}, "finetune.train.warmup_epoch", "warmup_epochs"),
        ({"finetune": {**AVA, "register": {"min_gian": 1}}}, "finetune.register.min_gian", "min_gain"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(tmp_path: Path, tree: dict[str, Any], key: str, nearest: str) -> None:
    path = write(tmp_path, "tiny", **tree)
    line = refusal(path)
    assert f"unknown recipe key {key!r}" in line
    assert f"did you mean {nearest!r}?" in line
    assert str(path) in line


def test_an_unknown_key_without_a_similar_one_lists_the_valid_keys(tmp_path: Path) -> None:
    line = refusal(write(tmp_path, "tiny", clip={"zzzzzz": 1}))
    assert "valid keys: T, tau, alpha" in line


def test_the_attribute_name_in_python_is_not_a_key(tmp_path: Path) -> None:
    assert "did you mean 'register'?" in refusal(write(tmp_path, "tiny", register_={}))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": {"depth": 49}}, "model.depth: must be 18, 34, 50, 101 or 152, is 49"),
        ({"train": {"epochs": 0}}, "train.epochs: must be greater than 0, is 0"),
        ({"train": {"epochs": "many"}}, "train.epochs: must be a whole number, is 'many'"),
        ({"train": None}, "train: must be a section of keys and values, is empty"),
        ({"clip": {"tau": 9, "alpha": 4}}, "clip: tau (9) must be a multiple of alpha (4)"),
        ({"train": {"batch": 10}, "compute": {"workers": 4}}, "train.batch 10 is not divisible by compute.workers 4"),
        (
            {"train": {"batch": 6, "clips_per_video": 4, "repeat": 4}},
            "train.batch 6 is not divisible by compute.workers x train.repeat = 4",
        ),
        ({"train": {"clips_per_video": 3, "repeat": 2}}, "repeat 2 does not divide clips_per_video 3"),
        (
            {"clip": {"tau": 24}, "data": {"name": "motion", "store": {"every": 2}}},
            "the stride of the Fast pathway (tau / alpha = 3) is not a multiple of data.store.every 2",
        ),
        ({"model": {"head": "detect"}}, "model.head 'detect' does not fit data.format 'kinetics'"),
        ({"model": {"lateral_kernel": 4}}, "model.lateral_kernel: must be odd, is 4"),
        ({"train": {"jitter": [320, 256]}}, "train: jitter must be [shortest, longest], is [320, 256]"),
        ({"train": {"momentum": 0}}, "train: nesterov needs a momentum above 0"),
        (
            {"train": {"batch_norm": "frozen", "precise_norm_batches": 1}},
            "train: precise_norm_batches 1 would recompute the statistics that batch_norm 'frozen' keeps",
        ),
        ({"train": {"epochs": 3}}, "train.warmup_epochs 34 is longer than train.epochs 3"),
        ({"seed": -1}, "seed: must be at least 0, is -1"),
        ({"data": {}}, "data.name: is missing"),
        ({"data": {"name": "../x"}}, "data.name: '../x' is not a valid folder name: use "),
        ({"finetune": {**AVA, "finetune": {**AVA, "name": "x"}}}, "a finetune branch may not have a finetune branch"),
        (
            {"finetune": {**AVA, "tracking": {"uri": "sqlite:///elsewhere.db"}}},
            "finetune.tracking.uri differs from tracking.uri: a run has one tracking store",
        ),
        ({"finetune": {**AVA, "name": "tiny"}}, "finetune has the same name as the recipe, 'tiny'"),
        ({"finetune": {**AVA, "train": {"batch": "x"}}}, "finetune.train.batch: must be a whole number, is 'x'"),
    ],
)
def test_bad_values_are_refused_with_their_key(tmp_path: Path, tree: dict[str, Any], message: str) -> None:
    assert message in refusal(write(tmp_path, "tiny", **tree))


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    write(tmp_path, "base", description="the base", train={"epochs": 9, "batch": 8, "warmup_epochs": 1}, seed=5)
    child = write(tmp_path, "child", extends="base", name="child", train={"epochs": 3}, data={"name": "other"})
    recipe = load_recipe(str(child))
    assert (recipe.name, recipe.seed, recipe.description) == ("child", 5, "the base")
    assert (recipe.train.epochs, recipe.train.batch, recipe.data.name) == (3, 8, "other")


def test_extends_finds_recipes_of_the_repository(tmp_path: Path) -> None:
    child = load_recipe(str(write(tmp_path, "mine", extends="demo", name="mine", train={"epochs": 3})))
    demo = load_recipe("demo")
    assert child.model == demo.model
    assert child.finetune == demo.finetune
    assert child.train == demo.train.model_copy(update={"epochs": 3})


def test_null_unsets_an_inherited_key(tmp_path: Path) -> None:
    data = {"name": "motion", "annotations": {"train": "a.csv", "val": "b.csv"}, "labels": "names.txt"}
    write(tmp_path, "base", clip={"T": 8, "tau": 8}, train={"batch": 8, "jitter": [64, 72]}, data=data, finetune=AVA)
    unset = {"clip": None, "train": {"jitter": None}, "data": {"annotations": {"train": None}}, "finetune": None}
    recipe = load_recipe(str(write(tmp_path, "child", extends="base", name="child", **unset)))
    assert recipe.clip == Recipe.model_validate(TINY).clip
    assert (recipe.train.batch, recipe.train.jitter) == (8, (256, 320))
    assert (recipe.data.annotations, recipe.data.labels) == ({"val": "b.csv"}, "names.txt")
    assert recipe.finetune is None


def test_null_for_a_key_that_is_not_inherited_is_validated(tmp_path: Path) -> None:
    write(tmp_path, "base")
    assert "unknown recipe key 'trian'" in refusal(write(tmp_path, "child", extends="base", name="c", trian=None))
    assert "data.name: " in refusal(write(tmp_path, "child", extends="base", name="c", data={"name": None}))


def test_data_in_another_format_does_not_inherit_annotation_files(tmp_path: Path) -> None:
    own = {"name": "own", "format": "folders", "source": str(tmp_path)}
    recipe = load_recipe(str(write(tmp_path, "mine", extends="demo", name="mine", data=own)))
    assert (recipe.data.format, recipe.data.annotations) == ("folders", "annotations.csv")
    assert recipe.data.store == load_recipe("demo").data.store
    kept = load_recipe(str(write(tmp_path, "same", extends="demo", name="same", data={"format": "kinetics"})))
    assert kept.data.annotations == {"train": "train.csv", "val": "val.csv"}


def test_the_registered_model_and_the_name_are_not_inherited(tmp_path: Path) -> None:
    """Otherwise a recipe with other data would compete with the extended recipe's champion or replace its results."""
    write(tmp_path, "base", register={"model": "base-model", "min_gain": 0.1})
    child = load_recipe(str(write(tmp_path, "child", extends="base", data={"name": "other"})))
    assert (child.name, child.register_.model, child.register_.min_gain) == ("child", "child", 0.1)
    named = load_recipe(str(write(tmp_path, "named", extends="base", name="a/b", register={"model": "base-model"})))
    assert (named.name, named.register_.model) == ("a/b", "base-model")
    assert load_recipe(str(write(tmp_path, "mine", extends="demo"))).register_.model == "mine"
    assert parse_recipe({**TINY, "name": "a/b"}).register_.model == "a-b"


def test_a_chain_of_extends_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "base")
    write(tmp_path, "child", extends="base", name="child")
    line = refusal(write(tmp_path, "grandchild", extends="child", name="grandchild"))
    assert "may only extend a recipe without `extends`" in line


@pytest.mark.parametrize(
    ("parent", "message"), [("nowhere", "no recipe 'nowhere'"), (["base"], "the name of one recipe")]
)
def test_extends_of_an_unknown_recipe_is_refused(tmp_path: Path, parent: object, message: str) -> None:
    assert message in refusal(write(tmp_path, "child", extends=parent))


def test_finetune_by_name_equals_finetune_inline(tmp_path: Path) -> None:
    write(tmp_path, "branch", **AVA)
    named = load_recipe(str(write(tmp_path, "named", finetune="branch")))
    inline = load_recipe(str(write(tmp_path, "inline", finetune=AVA)))
    assert named == inline
    assert named.finetune is not None
    assert named.finetune.model.head == "detect"


def test_a_branch_that_is_its_own_branch_is_refused(tmp_path: Path) -> None:
    assert "a finetune branch may not have" in refusal(write(tmp_path, "round", finetune="round"))


def test_overrides_set_keys_at_any_depth(tmp_path: Path) -> None:
    path = write(tmp_path, "tiny", finetune=AVA, train={"epochs": 99})
    overrides = ["seed=7", "train.epochs=200", "data.synthetic.size=32", "finetune.train.batch=8", "register.model=m"]
    recipe = load_recipe(str(path), [*overrides, "train.jitter=[8, 9]", "data.annotations={train: a.csv}"])
    assert (recipe.seed, recipe.train.epochs, recipe.data.synthetic.size) == (7, 200, 32)
    assert (recipe.train.jitter, recipe.data.annotations) == ((8, 9), {"train": "a.csv"})
    assert recipe.finetune is not None
    assert (recipe.finetune.train.batch, recipe.register_.model) == (8, "m")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "is not section.key=value"),
        ("=3", "is not section.key=value"),
        ("name.x=3", "'name' in 'name.x' is not a section"),
        ("train.epoch=3", "did you mean 'epochs'?"),
        ("train.jitter=[8", "is not YAML"),
        ("train.epochs=x", "train.epochs: must be a whole number, is 'x' (--set train.epochs=x)"),
    ],
)
def test_bad_overrides_are_refused(tmp_path: Path, override: str, message: str) -> None:
    assert message in refusal(write(tmp_path, "tiny"), [override])


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "just words"])
def test_a_file_that_is_not_a_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert str(tmp_path / "x.yaml") in refusal(tmp_path / "x.yaml")


def test_an_unknown_name_suggests_the_nearest() -> None:
    assert "did you mean 'demo'?" in refusal("dmo")


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--set", "train.weight_decay=1e-7", "--set", "seed=3"]])
def test_the_output_of_show_is_the_same_recipe(tmp_path: Path, arguments: list[str]) -> None:
    shown = _slowfast("show", *arguments)
    assert shown.returncode == 0, shown.stderr
    (tmp_path / "again.yaml").write_text(shown.stdout)
    overrides = [argument for argument in arguments[1:] if argument != "--set"]
    assert load_recipe(str(tmp_path / "again.yaml")) == load_recipe("demo", overrides)


def test_show_json_parses_to_the_same_recipe() -> None:
    assert parse_recipe(_slowfast("show", "demo", "--json").stdout) == load_recipe("demo")


@pytest.mark.parametrize("text", ["x: 1", '{"a": null}', "ünïcode: {}", "{{}}"])
def test_the_description_survives_yaml_and_json(tmp_path: Path, text: str) -> None:
    recipe = parse_recipe({**TINY, "description": text})
    (tmp_path / "x.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(str(tmp_path / "x.yaml")) == recipe == parse_recipe(recipe.to_json())


def test_the_command_exits_with_2_and_one_line(tmp_path: Path) -> None:
    ran = _slowfast("show", str(write(tmp_path, "tiny", train={"epoch": 3})))
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert "did you mean 'epochs'?" in ran.stderr


def test_frames_and_stride_of_a_clip_match_the_paper() -> None:
    clip = Recipe.model_validate({**TINY, "clip": {"T": 4, "tau": 16, "alpha": 8}}).clip
    assert (clip.fast_frames, clip.fast_stride, clip.span) == (32, 2, 64)


def _slowfast(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"data": {"name": "c", "format": "charades", "source": "c"}},
            "several labels per video: set model.multi_label",
        ),
        ({"clip": {"sampling": "segments"}}, "takes one clip per video, without boxes: set evaluate.clips 1"),
    ],
)
def test_requirements_of_formats_and_sampling(sections: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_recipe({"name": "r", "data": {"name": "k"}, **sections})


def test_recipes_of_charades_and_something_use_the_official_files() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        if name.startswith("charades/"):
            assert (recipe.data.format, recipe.data.labels) == ("charades", "Charades_v1_classes.txt")
            assert (recipe.evaluate.aggregation, recipe.model.multi_label) == ("max", True)
        elif name.startswith("something/"):
            assert (recipe.data.format, recipe.train.flip) == ("something", False)
            assert recipe.clip.sampling == ("segments" if name.endswith("v2") else "dense")
        else:
            assert recipe.evaluate.aggregation == "mean"


@pytest.mark.parametrize("section", [{}, {"tracking": {}}, {"tracking": {"experiment": "actors"}}])
def test_the_branch_is_tracked_where_its_recipe_is(section: dict[str, Any], tmp_path: Path) -> None:
    recipe = write(tmp_path, "both", finetune={**AVA, **section})
    changed = load_recipe(str(recipe), ["tracking.uri=http://mlflow:5000"])
    assert changed.finetune
    assert changed.finetune.tracking.uri == changed.tracking.uri == "http://mlflow:5000"
    assert changed.finetune.tracking.experiment == section.get("tracking", {}).get("experiment", "slowfast")
    assert parse_recipe(changed.to_json()) == changed


def test_fields_that_were_added_later_are_inputs_only_if_they_are_set() -> None:
    assert "sampling" not in load_recipe("demo").clip.inputs()
    changed = load_recipe("demo", ["clip.sampling=segments", "evaluate.clips=1"])
    assert changed.clip.inputs() == {"T": 4, "tau": 8, "alpha": 4, "sampling": "segments"}
