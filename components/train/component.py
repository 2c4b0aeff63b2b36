"""Trains with Ray on the clip store."""

from kfp import dsl

from components.image import GPU_IMAGE


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def train(
    recipe: str,
    workspace: str,
    clips: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    data_version: str = "",
) -> str:
    """Returns the digest of the weights. `data_version` is only shown in the run; the stage reads it from the clips."""
    from components.run_stage import run_stage

    return run_stage("train", recipe, workspace, model, "weights", [clips]).digest
