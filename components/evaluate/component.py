"""Scores the validation split with the paper's test views; writes metrics and a report."""

from kfp import dsl

from components.image import GPU_IMAGE


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def evaluate(
    recipe: str,
    workspace: str,
    clips: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    versions: str = "",
) -> None:
    """`versions` is only part of the key of Kubeflow's cache."""
    from components.run_stage import run_stage

    result = run_stage("evaluate", recipe, workspace, report, "report", [clips, model])
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
