"""Ray Train on the clip store, from the weights of another training."""

from kfp import dsl

from components.image import GPU_IMAGE


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def finetune(
    recipe: str,
    workspace: str,
    clips: dsl.Input[dsl.Dataset],
    start: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    data_version: str = "",
) -> str:
    """Returns the weights' digest. `data_version` is for who reads the run: the stage takes that of the clips."""
    from components.run_stage import run

    return run("train", recipe, workspace, model, "weights", init_from=start.metadata["folder"]).digest
