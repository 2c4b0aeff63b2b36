"""Decides whether training has to run, and gives the reason."""

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

    `start` is the folder of the start weights; "" for those of the recipe. Raises InputError if `expected_version` is
    set and the data has another version.
    """
    at = Workspace.at(workspace)
    resolved = parse_recipe(recipe)
    if start:
        resolved = resolved.starting_from(start)
    extracted = at.data(resolved.data.name, "extract")
    version = read_result(extracted).data_version or ""
    if expected_version and expected_version != version:
        fix = "submit without --data-version, or restore the source of that version"
        raise InputError(f"the data version is {version}, but {expected_version} was requested", extracted, fix)
    if done := trained_already(resolved, at):
        reason = f"up to date with data version {version} and the recipe; weights {done.weights_digest} are reused"
        return TrainingCheck("no", reason, version)
    return TrainingCheck("yes", _reason_to_train(resolved, at, version), version)


def _reason_to_train(recipe: Recipe, at: Workspace, version: str) -> str:
    folder = at.run(recipe.name, "train")
    try:
        before = json.loads((folder / "checkpoint.json").read_text())["data_version"]
        code = outdated("train", folder)
    except (OSError, ValueError, KeyError, InputError):
        return "there is no finished training of this recipe"
    if before != version:
        return f"the data version changed: {before} -> {version}"
    return f"the code of training changed: {code}" if code else "the recipe or its start weights changed"
