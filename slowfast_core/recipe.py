"""The one typed config. A recipe is one YAML file, resolved into a frozen tree in which unknown keys are errors."""

from __future__ import annotations

import difflib
import json
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from slowfast_core.errors import InputError

RECIPES = Path(__file__).resolve().parent.parent / "recipes"

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Synthetic(Section):
    """Sizes of the generated source (`data.source: synthetic`); videos of each class (kinetics) or in all (ava)."""

    train_videos: Positive = 80
    val_videos: Positive = 12
    size: Positive = 64
    fps: Positive = 16
    seconds: Positive = 3
    seed: int = 0


class Validation(Section):
    max_bad_share: Share = 0.05
    min_frames: Positive = 2
    decode_timeout_seconds: Positive = 60


class Store(Section):
    """How the clip store is written: `short_side` 0 keeps the size, `fps` 0 keeps the rate."""

    short_side: int = Field(256, ge=0)
    fps: float = Field(0, ge=0)
    gop: Positive = 12
    crf: int = Field(18, ge=0, le=51)


class Data(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    format: Literal["kinetics", "ava"] = "kinetics"
    source: str = "synthetic"  # "synthetic", a directory, or s3://bucket/prefix
    endpoint_url: str | None = None  # of an S3-compatible store
    annotations: dict[Literal["train", "val"], str] | str = "annotations.csv"  # below the source, or a path of its own
    labels: str | None = None  # Kinetics: a text file, a name a line; AVA: the official label map (.pbtxt)
    holdout: float = Field(0.0, ge=0, lt=1)  # share of the videos that become `val` where the csv files name none
    first_second: float = 0.0  # AVA: the timestamp at which the video file starts (900 for cut movies)
    synthetic: Synthetic = Synthetic()
    validation: Validation = Validation()
    store: Store = Store()


class Clip(Section):
    """T Slow frames, tau source frames apart; the Fast pathway sees alpha times as many (paper, section 3)."""

    T: Positive = 4
    tau: Positive = 16
    alpha: Positive = 8

    @model_validator(mode="after")
    def _whole_fast_stride(self) -> Clip:
        if self.tau % self.alpha:
            raise ValueError(f"tau ({self.tau}) must be a multiple of alpha ({self.alpha})")
        return self

    @property
    def fast_frames(self) -> int:
        return self.T * self.alpha

    @property
    def fast_stride(self) -> int:
        return self.tau // self.alpha

    @property
    def span(self) -> int:
        """Source frames from the first that a clip may take to the last, inclusive."""
        return self.T * self.tau


class Model(Section):
    pathways: Literal["slowfast", "slow", "fast"] = "slowfast"
    depth: Literal[18, 34, 50, 101, 152] = 50
    width: Positive = 64  # channels of the Slow stem
    beta: float = Field(1 / 8, gt=0, le=1)
    lateral_kernel: Positive = 5
    classes: Positive = 400
    dropout: float = Field(0.5, ge=0, lt=1)
    head: Literal["classify", "detect"] = "classify"
    roi_size: Positive = 7

    @field_validator("lateral_kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"must be odd, is {kernel}")
        return kernel


class Train(Section):
    epochs: Positive = 256
    batch: Positive = 64  # clips (classify) or key frames (detect) over all workers
    learning_rate: float = Field(0.1, gt=0)
    warmup_epochs: float = Field(34, ge=0)
    warmup_from: float = Field(0.01, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(1e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip_gradient: float = Field(0.0, ge=0)  # 0: no clipping
    jitter: tuple[Positive, Positive] = (256, 320)  # short side, drawn uniformly
    crop: Positive = 224
    flip: bool = True
    clips_per_video: Positive = 1  # spans drawn from each video in an epoch
    init_from: str | None = None  # a checkpoint folder to start the trunk from
    checkpoint_minutes: float = Field(10.0, ge=0)  # besides one at the end of each epoch
    keep_checkpoints: Positive = 3
    max_restarts: int = Field(2, ge=0)

    @model_validator(mode="after")
    def _usable(self) -> Train:
        if self.jitter[0] > self.jitter[1]:
            raise ValueError(f"jitter is [shortest, longest], is {list(self.jitter)}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Evaluate(Section):
    """Test views (paper, section 4): classify 10 clips x 3 crops; detect one clip around the key frame."""

    clips: Positive = 10
    crops: Literal[1, 3] = 3
    size: Positive = 256
    batch_views: Positive = 60
    iou: float = Field(0.5, gt=0, lt=1)


class Register(Section):
    model: str = Field("slowfast", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    min_gain: float = 0.0  # the champion is replaced when the metric is better by more than this


class Compute(Section):
    workers: Positive = 1
    cpus_per_worker: Positive = 1
    gpus_per_worker: int = Field(0, ge=0)
    loader_workers: int = Field(0, ge=0)
    frame_cache_mb: int = Field(0, ge=0)  # decoded clips kept in memory by each worker
    address: str | None = None  # of a Ray cluster; None starts a local one


class Tracking(Section):
    uri: str | None = None  # None: SQLite in the workspace
    experiment: str = "slowfast"


class Recipe(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")
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

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.train.batch % self.compute.workers:
            raise ValueError(
                f"train.batch {self.train.batch} does not divide by compute.workers {self.compute.workers}"
            )
        if (self.model.head == "detect") != (self.data.format == "ava"):
            raise ValueError(f"model.head {self.model.head!r} does not fit data.format {self.data.format!r}")
        if self.finetune and self.finetune.finetune:
            raise ValueError("finetune may not hold another finetune")
        if self.train.warmup_epochs > self.train.epochs:
            raise ValueError(
                f"train.warmup_epochs {self.train.warmup_epochs:g} is longer than train.epochs {self.train.epochs}"
            )
        return self

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
    return parse_recipe(tree, where=str(path))


def parse_recipe(tree: dict[str, Any] | str, where: str = "recipe") -> Recipe:
    try:
        if isinstance(tree, str):
            return Recipe.model_validate_json(tree)
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "recipe"
        if first["type"] == "extra_forbidden":
            raise InputError(f"unknown recipe key {key!r}", where, _nearest(first["loc"])) from None
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{key}: {message}", where, "correct the value") from None


def _find(name_or_path: str) -> Path:
    named = RECIPES / f"{name_or_path}.yaml"
    path = named if named.is_file() else Path(name_or_path)
    if path.is_file():
        return path
    near = difflib.get_close_matches(name_or_path, recipe_names(), n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"no recipe {name_or_path!r}", RECIPES, f"{hint}`slowfast recipes` lists them")


def _read(path: Path, may_extend: bool = True, may_branch: bool = True) -> dict[str, Any]:
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}", path, "mend the file") from None
    if not isinstance(tree, dict):
        raise InputError("a recipe is a mapping of sections", path, "see `slowfast show demo`")
    if parent := tree.pop("extends", None):
        if not isinstance(parent, str):
            raise InputError("`extends` takes the name of one recipe", path, "name one")
        if not may_extend:
            raise InputError("a recipe may extend only one that extends none", path, f"extend the root of {parent!r}")
        tree = _merge(_read(_find_beside(path, parent), may_extend=False, may_branch=may_branch), tree)
    if isinstance(branch := tree.get("finetune"), str):
        if not may_branch:
            raise InputError("finetune may not hold another finetune", path, "leave one out")
        tree["finetune"] = _read(_find_beside(path, branch), may_branch=False)
    return dict(tree)


def _find_beside(path: Path, name: str) -> Path:
    beside = path.parent / f"{name}.yaml"
    return beside if beside.is_file() else _find(name)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
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
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError:
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
