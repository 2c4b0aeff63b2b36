"""MLflow runs that a pipeline run left open: a killed process cannot close its own."""

from __future__ import annotations

from slowfast_core.tracking.runs import PIPELINE_RUN, connect

MAX_TAG = 500


def close_runs(uri: str, experiment: str, pipeline_run: str, cause: str) -> list[str]:
    """End the RUNNING runs of this pipeline run as FAILED, with the cause as a tag; return their names."""
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    open_ones = f"attributes.status = 'RUNNING' and tags.`{PIPELINE_RUN}` = '{pipeline_run}'"
    closed = []
    for run in client.search_runs([found.experiment_id], open_ones):
        if cause:
            client.set_tag(run.info.run_id, "slowfast.cause", cause[:MAX_TAG])
        client.set_terminated(run.info.run_id, "FAILED")
        closed.append(str(run.info.run_name))
    return closed
