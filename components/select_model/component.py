"""The trained model, whether this run trained it or an earlier one: what evaluation and registration resume from.

A task of its own, as Kubeflow can join two branches of a condition in a parameter but not in an artifact.
"""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def select_model(recipe: str, workspace: str, weights: str, model: dsl.Output[dsl.Model]) -> str:
    """`weights` is their digest. Returns the versions of data, weights and workspace, for Kubeflow's cache."""
    from components.run_stage import hand_on, step
    from components.select_model.versions import versions_of

    def work() -> str:
        hand_on("train", recipe, workspace, model, "weights", weights)
        return versions_of(recipe, workspace)

    return step("select_model", workspace, work)
