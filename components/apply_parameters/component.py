"""The recipe with what the operator changed, and the version of each source: what a run on a cluster begins with."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def apply_parameters(
    recipe: str, workspace: str, workers: int, epochs: int, tracking_uri: str, cpus: int, gpus: int, branch: bool
) -> NamedTuple("Resolved", [("recipe", str), ("source", str), ("finetune", str), ("finetune_source", str)]):
    from components.apply_parameters.apply import Resolved, resolve
    from components.run_stage import step

    granted = (cpus, gpus)

    def work() -> Resolved:
        return resolve(recipe, workspace, workers, epochs, tracking_uri, granted, branch)

    return step("apply_parameters", workspace, work)
