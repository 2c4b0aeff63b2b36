"""Recipes that reproduce models of other codebases match the checkpoints of these models.

The networks are on the meta device, because names and shapes are enough.
"""

from __future__ import annotations

import pytest
import torch
from peers import caffe2_blobs, mmaction2_state, pyslowfast_state
from torch import Tensor

from slowfast_core.convert.convert import translate
from slowfast_core.convert.pickles import PeerFile
from slowfast_core.model.build import build_model
from slowfast_core.recipe.load import Recipe, load_recipe, recipe_names

ALSO_MMACTION2 = {
    "kinetics400/slowfast_4x16_r101_r50",
    "kinetics400/slowfast_4x16_r152_r50",
    "something/slowfast_16x8_r50_v1",
}
ALSO_PYSLOWFAST = {"something/slowfast_16x8_r50_v2"}


def networks(peer: str, also: set[str]) -> list[str]:
    """The first recipe of each different network."""
    names = [name for name in recipe_names() if peer in name or name in also]
    recipes = {name: load_recipe(name) for name in names}
    first = {(recipe.model, recipe.clip): name for name, recipe in reversed(recipes.items())}
    return sorted(first.values())


def shapes_of(recipe: Recipe) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_model(recipe.model, recipe.clip).state_dict()


@pytest.mark.parametrize("name", networks("mmaction2", ALSO_MMACTION2))
def test_recipes_match_the_names_and_shapes_of_mmaction2(name: str) -> None:
    recipe = load_recipe(name)
    detect = recipe.model.head == "detect"
    state = mmaction2_state(shapes_of(recipe), "roi_head.bbox_head" if detect else "cls_head")
    if detect:
        unused = {key: torch.cat([state[key][:1], state[key]]) for key in state if "fc_cls" in key}
        state |= unused
    for given in (recipe, None):
        converted, report = translate("mmaction2", PeerFile(state), given)
        assert report.fits, str(report)
        assert converted.clip == recipe.clip
        assert report.mapped == len(converted.weights) == len(state)


@pytest.mark.parametrize("caffe2", [False, True], ids=["pyth", "pkl"])
@pytest.mark.parametrize("name", networks("pyslowfast", ALSO_PYSLOWFAST))
def test_recipes_match_the_names_and_shapes_of_pyslowfast(name: str, caffe2: bool) -> None:
    recipe = load_recipe(name)
    state = shapes_of(recipe)
    renamed = caffe2_blobs(state) if caffe2 else pyslowfast_state(state)
    for given in (recipe, None):
        converted, report = translate("pyslowfast", PeerFile(renamed, caffe2=caffe2), given)
        assert report.fits, str(report)
        assert report.mapped == len(converted.weights) == len(state)
        assert (converted.clip == recipe.clip) or any("clip" in setting for setting in report.assumed)
