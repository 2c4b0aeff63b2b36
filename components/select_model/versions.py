"""Versions of everything that evaluation and registration depend on."""

from components.cache_key import cache_key
from slowfast_core.once import read_result
from slowfast_core.recipe.load import parse_recipe
from slowfast_core.workspace import Workspace


def versions_of(recipe: str, workspace: str) -> str:
    """Return data version, weights digest and the cache key of the results that the next stages read and write."""
    at, resolved = Workspace.at(workspace), parse_recipe(recipe)
    store, training = at.data(resolved.data.name, "extract"), at.run(resolved.name, "train")
    results = cache_key([store, training, at.run(resolved.name, "evaluate"), at.run(resolved.name, "register")])
    return f"{read_result(store).data_version}-{read_result(training).weights_digest}-{results}"
