"""Quality gate: passes on the good rows of the manifest and quarantines the bad ones."""

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
    """`source_version` is only part of the key of Kubeflow's cache."""
    import shutil

    from components.run_stage import run_stage

    result = run_stage("validate", recipe, workspace, manifest, "manifest", [ingested])
    shutil.copyfile(result.outputs["report"], report.path)
