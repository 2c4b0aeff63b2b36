"""A model version with its lineage, and the promotion gate."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    recipe: str,
    workspace: str,
    model: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.HTML],
    version: dsl.Output[dsl.Artifact],
) -> None:
    from components.shell import run

    run("register", recipe, workspace, version, "version")
