"""Decides whether training has to run, before Kubernetes allocates GPUs for it."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_training(
    recipe: str,
    workspace: str,
    clips: dsl.Input[dsl.Dataset],
    expected_version: str = "",
    start: dsl.Input[dsl.Model] = None,
) -> NamedTuple("TrainingCheck", [("train", str), ("reason", str), ("data_version", str)]):
    from components.check_training.check import check
    from components.run_stage import run_between_stages

    folder = start.metadata["folder"] if start else ""
    return run_between_stages("check_training", workspace, lambda: check(recipe, workspace, expected_version, folder))
