"""Exit handler of a run on a cluster: closes MLflow runs, deletes RayJobs, reports the cause of a failure."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def close_runs(
    workspace: str,
    tracking_uri: str,
    experiments: list[str],
    status: dsl.PipelineTaskFinalStatus,
    report: dsl.Output[dsl.Markdown],
) -> None:
    from pathlib import Path

    from components.close_runs.report import close_and_report

    text = close_and_report(workspace, tracking_uri, experiments, status.state, status.error_message or "")
    Path(report.path).write_text(text, encoding="utf-8")
