"""Applies the parameters of a run to the recipe and checks the result before any stage uses resources."""

from typing import NamedTuple

from components.cache_key import cache_key
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Recipe, load_recipe, parse_recipe
from slowfast_core.stages.ingest import source_version
from slowfast_core.workspace import Workspace


class Resolved(NamedTuple):
    recipe: str  # resolved, JSON, without the fine-tuning branch
    source: str  # version of the source and of its results in the workspace
    finetune: str  # the recipe of the fine-tuning branch; "" without one
    finetune_source: str


def resolve(
    recipe: str, workspace: str, workers: int, epochs: int, uri: str, granted: tuple[int, int], branch: bool
) -> Resolved:
    """Apply the parameters to `recipe`, a recipe name or resolved JSON.

    If `workers` or `epochs` is 0 or `uri` is empty, the recipe's value is kept. `granted` is the number of CPUs and
    GPUs of the training pod; (0, 0) if the workers run on a Ray cluster. `branch` is whether the compiled pipeline has
    a fine-tuning branch. Raises InputError if the recipe needs a larger pod or another DAG than the pipeline has.
    """
    at = Workspace.at(workspace)
    chosen = parse_recipe(recipe) if recipe.lstrip().startswith("{") else load_recipe(recipe)
    chosen = _with_parameters(chosen, workers, epochs)
    if (chosen.finetune is not None) != branch:
        raise InputError("the pipeline was compiled for another DAG", chosen.name, "compile it for this recipe")
    for part in (chosen, chosen.finetune):
        if part and part.compute.gpus_per_worker == "auto":
            fix = "compile and submit this recipe, which replaces `auto`, or set it to 0 or 1"
            what = "compute.gpus_per_worker is 'auto', but the resources of the pods are fixed"
            raise InputError(what, part.name, fix)
    _check_fits(chosen, granted)
    branch_recipe = chosen.finetune and _tracked_at(chosen.finetune, uri)
    first = _tracked_at(chosen.model_copy(update={"finetune": None}), uri)
    return Resolved(
        first.to_json(),
        _source(first, at),
        branch_recipe.to_json() if branch_recipe else "",
        _source(branch_recipe, at) if branch_recipe else "",
    )


def _with_parameters(recipe: Recipe, workers: int, epochs: int) -> Recipe:
    """Return the recipe with the parameters, parsed again so that all its checks run."""
    tree = recipe.model_dump(mode="json", by_alias=True)
    if workers:
        tree["compute"]["workers"] = workers
    if epochs:
        tree["train"]["epochs"] = epochs
    return parse_recipe(tree, "the run's parameters")


def _check_fits(recipe: Recipe, granted: tuple[int, int]) -> None:
    """Raise InputError if the workers need more CPUs or GPUs than the training pod has."""
    if not any(granted):
        return
    compute = recipe.compute
    needed = (compute.workers * compute.cpus_per_worker, compute.workers * compute.gpus)
    for kind, need, available in zip(("CPUs", "GPUs"), needed, granted, strict=True):
        if need > available:
            where = f"{compute.workers} workers"
            fix = "compile again with --set compute.workers=N"
            raise InputError(f"training needs {need} {kind}, but its pod has {available}", where, fix)


def _tracked_at(recipe: Recipe, uri: str) -> Recipe:
    return recipe.model_copy(update={"tracking": recipe.tracking.model_copy(update={"uri": uri})}) if uri else recipe


def _source(recipe: Recipe, at: Workspace) -> str:
    """Version of the source and of the results in the workspace.

    Both are needed: with the version of the source alone, Kubeflow's cache would skip stages although the workspace
    contains the results of another source.
    """
    results = cache_key(at.data(recipe.data.name, stage) for stage in ("ingest", "validate", "extract"))
    return f"{source_version(recipe.data)}-{results}"
