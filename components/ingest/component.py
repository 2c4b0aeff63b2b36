"""Videos and official annotations to one manifest."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(recipe: str, workspace: str, manifest: dsl.Output[dsl.Dataset], source_version: str = "") -> None:
    """`source_version` is for Kubeflow's cache: the stage itself looks at source and workspace."""
    from components.run_stage import run

    run("ingest", recipe, workspace, manifest, "manifest")
