"""What operators change when they start a run: checked here, before anything is paid for."""

from typing import NamedTuple

from components.cache_key import cache_key
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Recipe, load_recipe, parse_recipe
from slowfast_core.stages.ingest import source_version
from slowfast_core.workspace import Workspace


class Resolved(NamedTuple):
    recipe: str  # resolved, as JSON, without its branch
    source: str  # version of the source, and of what the workspace holds
    finetune: str  # the branch, or ""
    finetune_source: str


def resolve(
    recipe: str, workspace: str, workers: int, epochs: int, uri: str, granted: tuple[int, int], branch: bool
) -> Resolved:
    """`recipe` is a name or resolved JSON; 0 `workers` or `epochs` and an empty `uri` keep the recipe's.

    `granted` is how many CPUs and GPUs the training pod has; (0, 0) where Ray places the workers elsewhere.
    Raises InputError when the recipe needs another pod or another DAG than those that were compiled.
    """
    at = Workspace.at(workspace)
    chosen = parse_recipe(recipe) if recipe.lstrip().startswith("{") else load_recipe(recipe)
    chosen = _changed(chosen, workers, epochs)
    if (chosen.finetune is not None) != branch:
        raise InputError("the pipeline was compiled for another DAG", chosen.name, "compile it for this recipe")
    for part in (chosen, chosen.finetune):
        if part and part.compute.gpus_per_worker == "auto":
            fix = "compile and submit this recipe, which settles it, or write 0 or 1"
            raise InputError("compute.gpus_per_worker is 'auto', but the pods were compiled before", part.name, fix)
    _check_fits(chosen, granted)
    branch_recipe = chosen.finetune and _tracked(chosen.finetune, uri)
    first = _tracked(chosen.model_copy(update={"finetune": None}), uri)
    return Resolved(
        first.to_json(),
        _source(first, at),
        branch_recipe.to_json() if branch_recipe else "",
        _source(branch_recipe, at) if branch_recipe else "",
    )


def _changed(recipe: Recipe, workers: int, epochs: int) -> Recipe:
    """Built again, so that every check of a recipe is made again."""
    tree = recipe.model_dump(mode="json", by_alias=True)
    if workers:
        tree["compute"]["workers"] = workers
    if epochs:
        tree["train"]["epochs"] = epochs
    return parse_recipe(tree, "the run's parameters")


def _check_fits(recipe: Recipe, granted: tuple[int, int]) -> None:
    if not any(granted):
        return
    compute = recipe.compute
    asked = (compute.workers * compute.cpus_per_worker, compute.workers * compute.gpus)
    for kind, wanted, there in zip(("CPUs", "GPUs"), asked, granted, strict=True):
        if wanted > there:
            where = f"{compute.workers} workers"
            fix = "compile again with --set compute.workers=N"
            raise InputError(f"training wants {wanted} {kind}, its pod has {there}", where, fix)


def _tracked(recipe: Recipe, uri: str) -> Recipe:
    return recipe.model_copy(update={"tracking": recipe.tracking.model_copy(update={"uri": uri})}) if uri else recipe


def _source(recipe: Recipe, at: Workspace) -> str:
    """With the source's version alone, Kubeflow's cache would answer though the workspace holds another's data."""
    there = cache_key(at.data(recipe.data.name, stage) for stage in ("ingest", "validate", "extract"))
    return f"{source_version(recipe.data)}-{there}"
