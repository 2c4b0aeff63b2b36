"""Good segments to the clip store, which has the data version."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def extract(recipe: str, workspace: str, validated: dsl.Input[dsl.Dataset], clips: dsl.Output[dsl.Dataset]) -> None:
    from components.shell import run

    run("extract", recipe, workspace, clips, "store")
