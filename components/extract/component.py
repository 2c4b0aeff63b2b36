"""Good segments to the clip store, which has the data version."""

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
    """`source_version` is for Kubeflow's cache: the stage itself looks at the workspace."""
    from components.run_stage import run

    run("extract", recipe, workspace, clips, "store")
