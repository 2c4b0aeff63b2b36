"""First component of a run on a cluster: applies the run's parameters to the recipe and determines source versions."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def apply_parameters(
    recipe: str, workspace: str, workers: int, epochs: int, tracking_uri: str, cpus: int, gpus: int, branch: bool
) -> NamedTuple("Resolved", [("recipe", str), ("source", str), ("finetune", str), ("finetune_source", str)]):
    from components.apply_parameters.apply import Resolved, resolve
    from components.run_stage import run_between_stages

    granted = (cpus, gpus)

    def work() -> Resolved:
        return resolve(recipe, workspace, workers, epochs, tracking_uri, granted, branch)

    return run_between_stages("apply_parameters", workspace, work)
