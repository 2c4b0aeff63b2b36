"""Closes the MLflow runs and deletes the RayJobs that a run on a cluster left, and reports how it ended."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.run_stage import events_folder
from slowfast_core.errors import InputError
from slowfast_core.json_lines import read_lines
from slowfast_core.ray_jobs.rayjob import remove_rayjobs
from slowfast_core.ray_jobs.rayjob_settings import NAMESPACE_VARIABLE
from slowfast_core.recipe.load import Tracking
from slowfast_core.tracking.runs import PIPELINE_VARIABLE, close_runs, store_uri
from slowfast_core.workspace import Workspace

SUCCEEDED = ("COMPLETE", "CACHED", "SUCCEEDED")  # KFP reports the state of MLMD, and newer releases their own
KILLED = "its pod was killed: out of memory, past its time limit, preempted, or the run was cancelled"


def close_and_report(workspace: str, tracking_uri: str, experiments: Sequence[str], state: str, message: str) -> str:
    """Close MLflow runs that are still open and delete RayJobs; return and print a report in Markdown.

    `state` and `message` are Kubeflow's final state and error message of the pipeline run.
    """
    run = os.environ.get(PIPELINE_VARIABLE, "")
    at = Workspace.at(workspace)
    cause = "" if state in SUCCEEDED else cause_of(events_folder(at, run)) or message or "unknown"
    uri = store_uri(Tracking(uri=tracking_uri or None), at)
    closed = [name for experiment in experiments for name in close_runs(uri, experiment, run, cause)] if run else []
    lines = [f"# {state}", ""]
    lines += [f"Cause: {cause}", ""] if cause else []
    lines += [f"MLflow run {name} was still open and is closed." for name in closed]
    lines += _remove_rayjobs(run)
    text = "\n".join(lines) + "\n"
    print(text)
    return text


def _remove_rayjobs(run: str) -> list[str]:
    """Delete the RayJobs that stages of the run left behind; return lines of the report."""
    namespace = os.environ.get(NAMESPACE_VARIABLE)
    if not run or not namespace:
        return []
    try:
        return [f"RayJob {name} was left behind and is deleted." for name in remove_rayjobs(run, namespace)]
    except InputError as error:
        return [f"RayJobs that the run left behind could not be deleted: {error}"]


def cause_of(folder: Path) -> str:
    """Return the first reported failure, or else the first component that started and did not end; "" without either.

    If a component was retried, only its last attempt counts.
    """
    last: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime):
        for event in read_lines(file):
            if "event" in event:
                last[f"{event.get('recipe', '')} {event['stage']}".strip()] = event
    for stage, event in last.items():
        if event["event"] in ("failed", "refused"):
            return f"{stage}: {event['message']}"
    for stage, event in last.items():
        if event["event"] == "start":
            return f"{stage}: {KILLED}"
    return ""
