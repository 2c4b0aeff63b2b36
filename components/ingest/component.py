"""Copies videos and annotations from a folder or S3 into one manifest."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(recipe: str, workspace: str, manifest: dsl.Output[dsl.Dataset], source_version: str = "") -> None:
    """`source_version` is only part of the key of Kubeflow's cache; the stage reads source and workspace."""
    from components.run_stage import run_stage

    run_stage("ingest", recipe, workspace, manifest, "manifest")
