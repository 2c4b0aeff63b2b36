"""The one typed config. A recipe is one YAML file, resolved into a frozen tree in which unknown keys are errors."""

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
from slowfast_core.field_errors import key_of, sentence
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

# Keys of `data` that describe the files of its format.
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
    name: PathOfNames
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**32)
    data: Data
    clip: Clip = Clip()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    register_: Register = Field(Register(), alias="register")
    compute: Compute = Compute()
    tracking: Tracking = Tracking()
    finetune: Recipe | None = None  # the branch that starts from this recipe's checkpoint

    @model_validator(mode="before")
    @classmethod
    def _registers_under_its_own_name(cls, tree: Any) -> Any:
        """Two recipes share a registered model, and so its champion, only where both name it."""
        named = isinstance(tree, dict) and isinstance(tree.get("name"), str)
        if named and isinstance(section := tree.get("register", {}), dict) and "model" not in section:
            return {**tree, "register": {**section, "model": tree["name"].replace("/", "-")}}
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        together = self.compute.workers * self.train.repeat
        if self.train.batch % together:
            by = "compute.workers" if self.train.repeat == 1 else "compute.workers x train.repeat ="
            raise ValueError(f"train.batch {self.train.batch} does not divide by {by} {together}")
        if self.clip.fast_stride % self.data.store.every:
            stride = f"the stride of the Fast pathway (tau / alpha = {self.clip.fast_stride})"
            raise ValueError(f"{stride} is not a multiple of data.store.every {self.data.store.every}")
        if (self.model.head == "detect") != (self.data.format == "ava"):
            raise ValueError(f"model.head {self.model.head!r} does not fit data.format {self.data.format!r}")
        if self.data.format in ("charades", "frame_list") and not self.model.multi_label:
            raise ValueError(f"data.format {self.data.format!r} has several labels a video: set model.multi_label true")
        if self.clip.sampling == "segments" and (self.evaluate.clips > 1 or self.model.head == "detect"):
            raise ValueError("clip.sampling 'segments' takes one clip of the whole video: set evaluate.clips 1")
        if self.model.takes_flow and not self.data.store.flow:
            raise ValueError("model.fast_input 'flow' needs data.store.flow true: flow is extracted with the clips")
        if self.model.pathways == "slowfast" and self.model.lateral == "ttoc_sum":
            self._summable()
        if self.finetune and self.finetune.finetune:
            raise ValueError("finetune may not hold another finetune")
        if self.finetune and self.finetune.name == self.name:
            raise ValueError(f"finetune has the recipe's own name {self.name!r} and would replace its results")
        if self.train.warmup_epochs > self.train.epochs:
            raise ValueError(
                f"train.warmup_epochs {self.train.warmup_epochs:g} is longer than train.epochs {self.train.epochs}"
            )
        return self

    def _summable(self) -> None:
        """TtoC-sum needs alpha Fast channels for each Slow channel."""
        model, alpha = self.model, self.clip.alpha
        alike = (model.depth < 50) == ((model.fast_depth or model.depth) < 50)
        if not alike or alpha * model.fast_width != model.width or model.fast_input == "half":
            packed = f"{alpha} x {model.fast_width} Fast channels do not sum with {model.width} Slow channels"
            raise ValueError(f"model.lateral 'ttoc_sum' needs alpha x beta = 1 and equal blocks: {packed}")

    def with_gpus(self, gpus: int) -> Recipe:
        """The recipe with `gpus` for each worker where it, or its branch, says `auto`."""
        changes: dict[str, Any] = {"finetune": self.finetune and self.finetune.with_gpus(gpus)}
        if self.compute.gpus_per_worker == "auto":
            changes["compute"] = self.compute.model_copy(update={"gpus_per_worker": gpus})
        return self.model_copy(update=changes)

    def to_yaml(self) -> str:
        return yaml.safe_dump(json.loads(self.to_json()), sort_keys=False, allow_unicode=True)

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True)


def recipe_names() -> list[str]:
    return sorted(p.relative_to(RECIPES).with_suffix("").as_posix() for p in RECIPES.rglob("*.yaml"))


def load_recipe(name_or_path: str, overrides: typing.Sequence[str] = ()) -> Recipe:
    """Resolve a recipe by name or file, with `section.key=value` overrides. Raises InputError."""
    path = _find(name_or_path)
    tree = _read(path)
    for override in overrides:
        _override(tree, override)
    return parse_recipe(tree, str(path), overrides)


def parse_recipe(tree: dict[str, Any] | str, where: str = "recipe", overrides: typing.Sequence[str] = ()) -> Recipe:
    """Raises InputError, which names the override rather than `where` when the wrong value is one of `overrides`."""
    try:
        if isinstance(tree, str):
            return Recipe.model_validate_json(tree)
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = key_of(first) or "recipe"
        where = next((f"--set {text}" for text in reversed(overrides) if _sets(text, key)), where)
        if first["type"] == "extra_forbidden":
            raise InputError(f"unknown recipe key {key!r}", where, _nearest(first["loc"])) from None
        raise InputError(f"{key}: {sentence(first)}", where, "correct the value") from None


def _sets(override: str, key: str) -> bool:
    """Whether the override gives `key`, or a section that holds it."""
    given = override.partition("=")[0]
    return key == given or key.startswith(f"{given}.")


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
    except OSError:  # longer than a name may be
        return False


def _read(path: Path, may_extend: bool = True, may_branch: bool = True) -> dict[str, Any]:
    tree: Any = read_yaml_file(path, "correct the file")
    if not isinstance(tree, dict):
        raise InputError("a recipe is a mapping of sections", path, "see `slowfast show demo`")
    if parent := tree.pop("extends", None):
        if not isinstance(parent, str):
            raise InputError("`extends` takes the name of one recipe", path, "name one")
        if not may_extend:
            raise InputError("a recipe may extend only one that extends none", path, f"extend the root of {parent!r}")
        base = _read(_find_beside(path, parent), may_extend=False, may_branch=may_branch)
        tree = {"name": path.stem} | _merge(_inherited(base, tree), tree)
    if isinstance(branch := tree.get("finetune"), str):
        if not may_branch:
            raise InputError("finetune may not hold another finetune", path, "leave one out")
        tree["finetune"] = _read(_find_beside(path, branch), may_branch=False)
    return dict(tree)


def _find_beside(path: Path, name: str) -> Path:
    beside = path.parent / f"{name}.yaml"
    return beside if _is_file(beside) else _find(name)


def _inherited(base: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """What a recipe takes from the one that it extends.

    Not its name and not its registered model, which identify results; nor, for another data format, the keys that
    describe the files of the old one.
    """
    data, of_child = base.get("data"), child.get("data")
    other_format = (
        isinstance(data, dict)
        and isinstance(of_child, dict)
        and of_child.get("format", data.get("format", "kinetics")) != data.get("format", "kinetics")
    )
    dropped = {"register": ("model",), "data": OF_FORMAT if other_format else ()}
    return {section: _without(value, dropped.get(section, ())) for section, value in base.items() if section != "name"}


def _without(section: Any, keys: typing.Sequence[str]) -> Any:
    if not isinstance(section, dict):
        return section
    return {key: value for key, value in section.items() if key not in keys}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; null there removes the key, which then has its default."""
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
        raise InputError(f"override {text!r} is not section.key=value", "--set", "write for example train.epochs=3")
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
    """Name the valid key nearest to the unknown one at `location`."""
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        field = next(f for n, f in model.model_fields.items() if part in (n, f.alias))
        options = typing.get_args(field.annotation) or (field.annotation,)
        model = next(o for o in options if o is not types.NoneType)
    valid = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
