"""Recipes: what is in them, what is refused and what the message says, extends, finetune, overrides."""

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
def test_every_recipe_that_comes_with_the_project_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_that_went_through_json_begins_the_same_stages(name: str) -> None:
    """Stages compare JSON text, in which 0 is not 0.0."""
    recipe = load_recipe(name)
    again = parse_recipe(recipe.to_json())
    assert json.dumps(again.model_dump(), default=str) == json.dumps(recipe.model_dump(), default=str)


def test_there_are_recipes() -> None:
    assert {"demo", "demo_ava"} <= set(recipe_names())


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    recipe = load_recipe(str(write(tmp_path, "tiny", model={"classes": 8})))
    assert (recipe.model.classes, recipe.model.depth, recipe.clip.T, recipe.clip.alpha) == (8, 50, 4, 8)
    assert recipe.finetune is None


def test_a_recipe_cannot_be_changed(tmp_path: Path) -> None:
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
def test_an_unknown_key_names_the_nearest(tmp_path: Path, tree: dict[str, Any], key: str, nearest: str) -> None:
    path = write(tmp_path, "tiny", **tree)
    line = refusal(path)
    assert f"unknown recipe key {key!r}" in line
    assert f"did you mean {nearest!r}?" in line
    assert str(path) in line


def test_an_unknown_key_near_to_none_lists_the_valid_ones(tmp_path: Path) -> None:
    line = refusal(write(tmp_path, "tiny", clip={"zzzzzz": 1}))
    assert "valid keys: T, tau, alpha" in line


def test_the_name_inside_python_is_no_key(tmp_path: Path) -> None:
    assert "did you mean 'register'?" in refusal(write(tmp_path, "tiny", register_={}))


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"model": {"depth": 49}}, "model.depth: must be 18, 34, 50, 101 or 152, is 49"),
        ({"train": {"epochs": 0}}, "train.epochs: must be greater than 0, is 0"),
        ({"train": {"epochs": "many"}}, "train.epochs: must be a whole number, is 'many'"),
        ({"train": None}, "train: must be a section of keys and values, is empty"),
        ({"clip": {"tau": 9, "alpha": 4}}, "clip: tau (9) must be a multiple of alpha (4)"),
        ({"train": {"batch": 10}, "compute": {"workers": 4}}, "train.batch 10 does not divide by compute.workers 4"),
        (
            {"train": {"batch": 6, "clips_per_video": 4, "repeat": 4}},
            "train.batch 6 does not divide by compute.workers x train.repeat = 4",
        ),
        ({"train": {"clips_per_video": 3, "repeat": 2}}, "repeat 2 does not divide clips_per_video 3"),
        (
            {"clip": {"tau": 24}, "data": {"name": "motion", "store": {"every": 2}}},
            "the stride of the Fast pathway (tau / alpha = 3) is not a multiple of data.store.every 2",
        ),
        ({"model": {"head": "detect"}}, "model.head 'detect' does not fit data.format 'kinetics'"),
        ({"model": {"lateral_kernel": 4}}, "model.lateral_kernel: must be odd, is 4"),
        ({"train": {"jitter": [320, 256]}}, "train: jitter is [shortest, longest], is [320, 256]"),
        ({"train": {"momentum": 0}}, "train: nesterov needs a momentum above 0"),
        (
            {"train": {"batch_norm": "frozen", "precise_norm_batches": 1}},
            "train: precise_norm_batches 1 takes anew the statistics that batch_norm 'frozen' keeps",
        ),
        ({"train": {"epochs": 3}}, "train.warmup_epochs 34 is longer than train.epochs 3"),
        ({"seed": -1}, "seed: must be at least 0, is -1"),
        ({"data": {}}, "data.name: is missing"),
        ({"data": {"name": "../x"}}, "data.name: '../x' is not a valid folder name: use "),
        ({"finetune": {**AVA, "finetune": {**AVA, "name": "x"}}}, "finetune may not hold another finetune"),
        ({"finetune": {**AVA, "name": "tiny"}}, "finetune has the recipe's own name 'tiny'"),
        ({"finetune": {**AVA, "train": {"batch": "x"}}}, "finetune.train.batch: must be a whole number, is 'x'"),
    ],
)
def test_bad_values_are_refused_with_their_key(tmp_path: Path, tree: dict[str, Any], said: str) -> None:
    assert said in refusal(write(tmp_path, "tiny", **tree))


def test_a_recipe_extends_one_other(tmp_path: Path) -> None:
    write(tmp_path, "base", description="the base", train={"epochs": 9, "batch": 8, "warmup_epochs": 1}, seed=5)
    child = write(tmp_path, "child", extends="base", name="child", train={"epochs": 3}, data={"name": "other"})
    recipe = load_recipe(str(child))
    assert (recipe.name, recipe.seed, recipe.description) == ("child", 5, "the base")
    assert (recipe.train.epochs, recipe.train.batch, recipe.data.name) == (3, 8, "other")


def test_extends_also_takes_the_name_of_a_recipe_of_the_project(tmp_path: Path) -> None:
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


def test_null_for_a_key_that_is_not_inherited_is_checked_as_ever(tmp_path: Path) -> None:
    write(tmp_path, "base")
    assert "unknown recipe key 'trian'" in refusal(write(tmp_path, "child", extends="base", name="c", trian=None))
    assert "data.name: " in refusal(write(tmp_path, "child", extends="base", name="c", data={"name": None}))


def test_own_data_of_another_format_does_not_inherit_the_annotation_files(tmp_path: Path) -> None:
    own = {"name": "own", "format": "folders", "source": str(tmp_path)}
    recipe = load_recipe(str(write(tmp_path, "mine", extends="demo", name="mine", data=own)))
    assert (recipe.data.format, recipe.data.annotations) == ("folders", "annotations.csv")
    assert recipe.data.store == load_recipe("demo").data.store
    kept = load_recipe(str(write(tmp_path, "same", extends="demo", name="same", data={"format": "kinetics"})))
    assert kept.data.annotations == {"train": "train.csv", "val": "val.csv"}


def test_the_registered_model_and_the_name_are_not_inherited(tmp_path: Path) -> None:
    """Else a recipe on other data would compete for the champion of the one that it extends, or replace its results."""
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
    assert "may extend only one that extends none" in line


@pytest.mark.parametrize(("parent", "said"), [("nowhere", "no recipe 'nowhere'"), (["base"], "the name of one recipe")])
def test_extends_of_no_recipe_is_refused(tmp_path: Path, parent: object, said: str) -> None:
    assert said in refusal(write(tmp_path, "child", extends=parent))


def test_finetune_by_name_and_inline_are_the_same(tmp_path: Path) -> None:
    write(tmp_path, "branch", **AVA)
    named = load_recipe(str(write(tmp_path, "named", finetune="branch")))
    inline = load_recipe(str(write(tmp_path, "inline", finetune=AVA)))
    assert named == inline
    assert named.finetune is not None
    assert named.finetune.model.head == "detect"


def test_a_branch_that_is_its_own_branch_is_refused(tmp_path: Path) -> None:
    assert "finetune may not hold another" in refusal(write(tmp_path, "round", finetune="round"))


def test_overrides_reach_every_depth_and_win(tmp_path: Path) -> None:
    path = write(tmp_path, "tiny", finetune=AVA, train={"epochs": 99})
    overrides = ["seed=7", "train.epochs=200", "data.synthetic.size=32", "finetune.train.batch=8", "register.model=m"]
    recipe = load_recipe(str(path), [*overrides, "train.jitter=[8, 9]", "data.annotations={train: a.csv}"])
    assert (recipe.seed, recipe.train.epochs, recipe.data.synthetic.size) == (7, 200, 32)
    assert (recipe.train.jitter, recipe.data.annotations) == ((8, 9), {"train": "a.csv"})
    assert recipe.finetune is not None
    assert (recipe.finetune.train.batch, recipe.register_.model) == (8, "m")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs", "is not section.key=value"),
        ("=3", "is not section.key=value"),
        ("name.x=3", "'name' in 'name.x' is not a section"),
        ("train.epoch=3", "did you mean 'epochs'?"),
        ("train.jitter=[8", "is not YAML"),
        ("train.epochs=x", "train.epochs: must be a whole number, is 'x' (--set train.epochs=x)"),
    ],
)
def test_bad_overrides_are_refused(tmp_path: Path, override: str, said: str) -> None:
    assert said in refusal(write(tmp_path, "tiny"), [override])


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "just words"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert str(tmp_path / "x.yaml") in refusal(tmp_path / "x.yaml")


def test_a_wrong_name_is_told_the_nearest() -> None:
    assert "did you mean 'demo'?" in refusal("dmo")


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--set", "train.weight_decay=1e-7", "--set", "seed=3"]])
def test_what_show_prints_is_the_same_recipe(tmp_path: Path, arguments: list[str]) -> None:
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


def test_clip_arithmetic_of_the_paper() -> None:
    clip = Recipe.model_validate({**TINY, "clip": {"T": 4, "tau": 16, "alpha": 8}}).clip
    assert (clip.fast_frames, clip.fast_stride, clip.span) == (32, 2, 64)


def _slowfast(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"name": "c", "format": "charades", "source": "c"}}, "several labels a video: set model.multi_label"),
        ({"clip": {"sampling": "segments"}}, "takes one clip of the whole video: set evaluate.clips 1"),
    ],
)
def test_what_a_data_set_or_a_sampling_needs(sections: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_recipe({"name": "r", "data": {"name": "k"}, **sections})


def test_recipes_of_charades_and_something_read_the_official_files() -> None:
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
