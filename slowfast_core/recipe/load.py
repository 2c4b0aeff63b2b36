"""Loads recipes: YAML files with `extends`, a `finetune` branch and overrides, resolved into a frozen Recipe."""

from __future__ import annotations

import difflib
import json
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from slowfast_core.documents import read_yaml, read_yaml_file
from slowfast_core.errors import InputError
from slowfast_core.field_errors import input_error, key_of
from slowfast_core.names import PathOfNames
from slowfast_core.recipe.data import Data, Store, Synthetic, Validation
from slowfast_core.recipe.schema import (
    Clip,
    Compute,
    Evaluate,
    Model,
    NonLocal,
    Pixels,
    Register,
    Section,
    Tracking,
    Train,
)

# Keys of `data` that describe the files of its format; they are not inherited by a recipe with another format.
OF_FORMAT = ("annotations", "labels", "excluded", "person_boxes", "key_seconds", "first_second", "frame_rate")
PACKAGE = Path(__file__).resolve().parents[1]
# In an installed wheel the recipes are in the package (setup.py copies them), in the repository next to it.
RECIPES = next((f for f in (PACKAGE / "recipes", PACKAGE.parent / "recipes") if f.is_dir()), PACKAGE / "recipes")

__all__ = [
    "RECIPES",
    "Clip",
    "Compute",
    "Data",
    "Evaluate",
    "Model",
    "NonLocal",
    "Pixels",
    "Recipe",
    "Register",
    "Store",
    "Synthetic",
    "Tracking",
    "Train",
    "Validation",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
]


class Recipe(Section):
    """One experiment. A YAML file may also have `extends`, the name of a recipe from which it inherits other keys."""

    name: PathOfNames
    """Name of the recipe and of the folder of its runs; may contain '/'."""
    description: str = ""
    """One sentence about the recipe."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the training: initial weights, sampling and augmentation."""
    data: Data
    """The data set."""
    clip: Clip = Clip()
    """Frames of a clip."""
    model: Model = Model()
    """The network."""
    train: Train = Train()
    """The training."""
    evaluate: Evaluate = Evaluate()
    """The evaluation."""
    register_: Register = Field(Register(), alias="register")
    """The registration of the model."""
    compute: Compute = Compute()
    """Machines and processes."""
    tracking: Tracking = Tracking()
    """MLflow tracking."""
    finetune: Recipe | None = None
    """A recipe, or the name of one, that runs after this one and starts from its weights. It may not have a finetune
    branch itself. null: none."""

    @model_validator(mode="before")
    @classmethod
    def _registers_under_its_own_name(cls, tree: Any) -> Any:
        """Set register.model to the recipe's name by default: recipes share a champion only if both name it."""
        named = isinstance(tree, dict) and isinstance(tree.get("name"), str)
        if named and isinstance(section := tree.get("register", {}), dict) and "model" not in section:
            return {**tree, "register": {**section, "model": tree["name"].replace("/", "-")}}
        return tree

    @model_validator(mode="before")
    @classmethod
    def _tracks_its_branch(cls, tree: Any) -> Any:
        """Give the finetune branch the tracking address of this recipe, unless it has its own."""
        if not isinstance(tree, dict) or not isinstance(branch := tree.get("finetune"), dict):
            return tree
        own, tracking = tree.get("tracking"), branch.get("tracking", {})
        if isinstance(own, dict) and own.get("uri") and isinstance(tracking, dict) and not tracking.get("uri"):
            return {**tree, "finetune": {**branch, "tracking": {**tracking, "uri": own["uri"]}}}
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        """Check constraints between sections."""
        together = self.compute.workers * self.train.repeat
        if self.train.batch % together:
            by = "compute.workers" if self.train.repeat == 1 else "compute.workers x train.repeat ="
            raise ValueError(f"train.batch {self.train.batch} is not divisible by {by} {together}")
        if self.clip.fast_stride % self.data.store.every:
            stride = f"the stride of the Fast pathway (tau / alpha = {self.clip.fast_stride})"
            raise ValueError(f"{stride} is not a multiple of data.store.every {self.data.store.every}")
        if (self.model.head == "detect") != self.data.annotation_format.has_boxes:
            raise ValueError(f"model.head {self.model.head!r} does not fit data.format {self.data.format!r}")
        if self.data.annotation_format.multi_label and not self.model.multi_label:
            raise ValueError(f"data.format {self.data.format!r} has several labels per video: set model.multi_label")
        if self.clip.sampling == "segments" and (self.evaluate.clips > 1 or self.model.head == "detect"):
            raise ValueError("clip.sampling 'segments' takes one clip per video, without boxes: set evaluate.clips 1")
        if self.model.takes_flow and not self.data.store.flow:
            raise ValueError("model.fast_input 'flow' needs data.store.flow true: flow is extracted with the clips")
        if self.model.pathways == "slowfast" and self.model.lateral == "ttoc_sum":
            self._check_ttoc_sum()
        if self.finetune and self.finetune.finetune:
            raise ValueError("a finetune branch may not have a finetune branch")
        if self.finetune and self.finetune.name == self.name:
            raise ValueError(f"finetune has the same name as the recipe, {self.name!r}, and would replace its results")
        if self.finetune and self.finetune.tracking.uri != self.tracking.uri:
            raise ValueError("finetune.tracking.uri differs from tracking.uri: a run has one tracking store")
        if self.train.warmup_epochs > self.train.epochs:
            raise ValueError(
                f"train.warmup_epochs {self.train.warmup_epochs:g} is longer than train.epochs {self.train.epochs}"
            )
        return self

    def _check_ttoc_sum(self) -> None:
        """Check that TtoC-sum has alpha frames of Fast channels for each Slow channel: alpha * beta = 1."""
        model = self.model
        alpha = self.clip.alpha
        same_blocks = (model.depth < 50) == ((model.fast_depth or model.depth) < 50)
        if not same_blocks or alpha * model.fast_width != model.width or model.fast_input == "half":
            reason = f"{alpha} x {model.fast_width} Fast channels cannot be added to {model.width} Slow channels"
            raise ValueError(f"model.lateral 'ttoc_sum' needs alpha x beta = 1 and equal blocks: {reason}")

    def with_gpus(self, gpus: int) -> Recipe:
        """Return the recipe with `gpus` per worker where it or its finetune branch has `auto`."""
        changes: dict[str, Any] = {"finetune": self.finetune and self.finetune.with_gpus(gpus)}
        if self.compute.gpus_per_worker == "auto":
            changes["compute"] = self.compute.model_copy(update={"gpus_per_worker": gpus})
        return self.model_copy(update=changes)

    def starting_from(self, start: str | None) -> Recipe:
        """Return the recipe with other start weights: a checkpoint folder, a `models:/` URI or None."""
        return self.model_copy(update={"train": self.train.model_copy(update={"init_from": start})})

    def to_yaml(self) -> str:
        return yaml.safe_dump(json.loads(self.to_json()), sort_keys=False, allow_unicode=True)

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True)


def recipe_names() -> list[str]:
    return sorted(p.relative_to(RECIPES).with_suffix("").as_posix() for p in RECIPES.rglob("*.yaml"))


def load_recipe(name_or_path: str, overrides: typing.Sequence[str] = ()) -> Recipe:
    """Resolve a recipe from its name or file, with `section.key=value` overrides. Raises InputError."""
    path = _find(name_or_path)
    tree = _read(path)
    for override in overrides:
        _override(tree, override)
    return parse_recipe(tree, str(path), overrides)


def parse_recipe(tree: dict[str, Any] | str, where: str = "recipe", overrides: typing.Sequence[str] = ()) -> Recipe:
    """Validate a recipe. Raises InputError, which names the override instead of `where` if the override is wrong."""
    try:
        if isinstance(tree, str):
            return Recipe.model_validate_json(tree)
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = key_of(first)
        where = next((f"--set {text}" for text in reversed(overrides) if _sets(text, key)), where)
        if first["type"] == "extra_forbidden":
            raise InputError(f"unknown recipe key {key!r}", where, _nearest(first["loc"])) from None
        raise input_error(error, where, "correct the value") from None


def _sets(override: str, key: str) -> bool:
    """Whether the override sets `key` or a section that contains it."""
    overridden = override.partition("=")[0]
    return key == overridden or key.startswith(f"{overridden}.")


def _find(name_or_path: str) -> Path:
    named = RECIPES / f"{name_or_path}.yaml"
    path = named if _is_file(named) else Path(name_or_path)
    if _is_file(path):
        return path
    near = difflib.get_close_matches(name_or_path, recipe_names(), n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"no recipe {name_or_path!r}", RECIPES, f"{hint}`slowfast recipes` lists them")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def _read(path: Path, may_extend: bool = True, may_branch: bool = True) -> dict[str, Any]:
    tree: Any = read_yaml_file(path, "correct the file")
    if not isinstance(tree, dict):
        raise InputError("a recipe is a mapping of sections", path, "see `slowfast show demo`")
    if parent := tree.pop("extends", None):
        if not isinstance(parent, str):
            raise InputError("`extends` must be the name of one recipe", path, "correct the value")
        if not may_extend:
            what = "a recipe may only extend a recipe without `extends`"
            raise InputError(what, path, f"do not extend {parent!r}")
        base = _read(_find_near(path, parent), may_extend=False, may_branch=may_branch)
        tree = {"name": path.stem} | _merge(_inherited(base, tree), tree)
    if isinstance(branch := tree.get("finetune"), str):
        if not may_branch:
            raise InputError("a finetune branch may not have a finetune branch", path, "remove one")
        tree["finetune"] = _read(_find_near(path, branch), may_branch=False)
    return dict(tree)


def _find_near(path: Path, name: str) -> Path:
    """Find a recipe by name, first in the folder of `path`."""
    neighbour = path.parent / f"{name}.yaml"
    return neighbour if _is_file(neighbour) else _find(name)


def _inherited(base: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that a recipe inherits from the one it extends.

    Excludes the name and the registered model, which identify results, and, if the data format differs, the keys that
    describe files of the old format.
    """
    data = base.get("data")
    child_data = child.get("data")
    default = Data.model_fields["format"].default
    other_format = (
        isinstance(data, dict)
        and isinstance(child_data, dict)
        and child_data.get("format", data.get("format", default)) != data.get("format", default)
    )
    dropped = {"register": ("model",), "data": OF_FORMAT if other_format else ()}
    return {section: _without(value, dropped.get(section, ())) for section, value in base.items() if section != "name"}


def _without(section: Any, keys: typing.Sequence[str]) -> Any:
    if not isinstance(section, dict):
        return section
    return {key: value for key, value in section.items() if key not in keys}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge `over` into `base`; null removes an inherited key, which then has its default."""
    merged = dict(base)
    for key, value in over.items():
        if value is None and key in merged:
            del merged[key]
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"override {text!r} is not section.key=value", "--set", "write it like train.epochs=3")
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(f"{parent!r} in {key!r} is not a section", "--set", "see `slowfast show RECIPE`")
        tree = child
    try:
        tree[last] = read_yaml(value, "--set")
    except InputError:
        raise InputError(f"the value of {key!r} is not YAML: {value!r}", "--set", "quote it") from None


def _nearest(location: tuple[int | str, ...]) -> str:
    """Suggest the valid key most similar to the unknown key at `location`, or list the valid keys."""
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        field = next(f for n, f in model.model_fields.items() if part in (n, f.alias))
        options = typing.get_args(field.annotation) or (field.annotation,)
        model = next(o for o in options if o is not types.NoneType)
    valid = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
