"""Passes the trained model to evaluation and registration, whether this run trained it or an earlier one.

A separate component, because Kubeflow can merge the branches of a condition into a parameter but not into an artifact.
"""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def select_model(recipe: str, workspace: str, weights: str, model: dsl.Output[dsl.Model]) -> str:
    """`weights` is their digest. Returns the versions of data, weights and results, for the key of Kubeflow's cache."""
    from components.run_stage import pass_on_artifact, run_between_stages
    from components.select_model.versions import versions_of

    def work() -> str:
        pass_on_artifact("train", recipe, workspace, model, "weights", weights)
        return versions_of(recipe, workspace)

    return run_between_stages("select_model", workspace, work)
