"""How a run on a cluster ended, from the events of its stages."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.run_stage import events_folder
from slowfast_core.json_lines import read_lines
from slowfast_core.recipe.load import Tracking
from slowfast_core.tracking.runs import PIPELINE_VARIABLE, close_runs, store_uri
from slowfast_core.workspace import Workspace

KILLED = "its pod was killed: out of memory, past its time limit, preempted, or the run was cancelled"


def close_and_report(workspace: str, tracking_uri: str, experiments: Sequence[str], state: str, message: str) -> str:
    """Close what the run left open in MLflow; return a report in Markdown, which is also printed."""
    run = os.environ.get(PIPELINE_VARIABLE, "")
    at = Workspace.at(workspace)
    cause = "" if state == "SUCCEEDED" else cause_of(events_folder(at, run)) or message or "unknown"
    uri = store_uri(Tracking(uri=tracking_uri or None), at)
    closed = [name for experiment in experiments for name in close_runs(uri, experiment, run, cause)] if run else []
    lines = [f"# {state}", ""]
    lines += [f"Cause: {cause}", ""] if cause else []
    lines += [f"MLflow run {name} was still open and is closed." for name in closed]
    text = "\n".join(lines) + "\n"
    print(text)
    return text


def cause_of(folder: Path) -> str:
    """The first failure that a stage reported, or else the first stage that started and never ended.

    Of a stage that was retried, only the last attempt counts.
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
