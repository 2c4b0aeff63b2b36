"""Writes the good segments to the clip store, whose DVC hash is the data version."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def extract(
    recipe: str,
    workspace: str,
    validated: dsl.Input[dsl.Dataset],
    clips: dsl.Output[dsl.Dataset],
    source_version: str = "",
) -> None:
    """`source_version` is only part of the key of Kubeflow's cache."""
    from components.run_stage import run_stage

    run_stage("extract", recipe, workspace, clips, "store", [validated])
