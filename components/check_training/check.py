"""Why training runs, or why it does not."""

import json
from typing import NamedTuple

from slowfast_core.errors import InputError
from slowfast_core.once import outdated, read_result
from slowfast_core.recipe.load import Recipe, parse_recipe
from slowfast_core.stages.flow import trained_already
from slowfast_core.workspace import Workspace


class TrainingCheck(NamedTuple):
    train: str  # "yes" or "no"
    reason: str
    data_version: str


def check(recipe: str, workspace: str, expected_version: str, start: str) -> TrainingCheck:
    """Compare the inputs of training with those of its last result.

    Raises InputError when the data version is not the `expected_version`, if there is one.
    """
    at = Workspace.at(workspace)
    resolved = starting_from(parse_recipe(recipe), start)
    extracted = at.data(resolved.data.name, "extract")
    version = read_result(extracted).data_version or ""
    if expected_version and expected_version != version:
        fix = "leave the run's data_version out, or bring that version back to the source"
        raise InputError(f"the data version is {version}, asked for {expected_version}", extracted, fix)
    if done := trained_already(resolved, at):
        reason = f"data version {version} and recipe are as before: weights {done.weights_digest} stay"
        return TrainingCheck("no", reason, version)
    return TrainingCheck("yes", _why(resolved, at, version), version)


def starting_from(recipe: Recipe, start: str) -> Recipe:
    train = recipe.train.model_copy(update={"init_from": start}) if start else recipe.train
    return recipe.model_copy(update={"train": train})


def _why(recipe: Recipe, at: Workspace, version: str) -> str:
    folder = at.run(recipe.name, "train")
    try:
        before = json.loads((folder / "checkpoint.json").read_text())["data_version"]
        code = outdated("train", folder)
    except (OSError, ValueError, KeyError, InputError):
        return "there is no finished training of this recipe"
    if before != version:
        return f"the data version was {before}, is {version}"
    return f"the code of training changed: {code}" if code else "the recipe or the weights it starts from changed"
