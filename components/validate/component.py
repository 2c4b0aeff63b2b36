"""The quality gate: good rows go on, bad ones into quarantine."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate(
    recipe: str,
    workspace: str,
    ingested: dsl.Input[dsl.Dataset],
    manifest: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    source_version: str = "",
) -> None:
    """`source_version` is for Kubeflow's cache: the stage itself looks at the workspace."""
    import shutil

    from components.run_stage import run

    result = run("validate", recipe, workspace, manifest, "manifest")
    shutil.copyfile(result.outputs["report"], report.path)
