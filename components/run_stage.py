"""Code that all components share: run the stage, report events, fill the output artifact."""

import contextlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from slowfast_core.credentials import restored, without_credentials
from slowfast_core.environment import machine_failures_in_one_line
from slowfast_core.errors import InputError
from slowfast_core.json_lines import append
from slowfast_core.once import StageResult, check_result, read_result
from slowfast_core.progress import PROGRESS_FILE
from slowfast_core.ray_jobs import dispatch
from slowfast_core.recipe.load import parse_recipe
from slowfast_core.stopping import on_sigterm
from slowfast_core.tracking.runs import PIPELINE_VARIABLE
from slowfast_core.workspace import Workspace

Result = TypeVar("Result")


def run_stage(
    stage: str,
    recipe: str,
    workspace: str,
    artifact: Any,
    output: str,
    inputs: Sequence[Any] = (),
    start: Any = None,
) -> StageResult:
    """Run a stage of `recipe` (resolved, JSON) and fill `artifact` with its output named `output`.

    `inputs` are the artifacts of the stages before, and `start` that of the start weights. The stage is refused if the
    workspace no longer holds the results that they describe.
    """
    resolved = parse_recipe(restored(json.loads(recipe)))
    given = [*inputs]
    if start:
        resolved = resolved.starting_from(start.metadata["folder"])
        given.append(start)
    expected = {Path(each.metadata["folder"]): each.metadata["digest"] for each in given}
    started = time.monotonic()
    with report_start_and_failure(stage, workspace, resolved.name):
        result = dispatch.run_stage(stage, resolved, Workspace.at(workspace), expected)
    timed = result.model_copy(update={"seconds": round(time.monotonic() - started, 1)})
    _append_event(event="end", recipe=resolved.name, stage=stage, result=timed.model_dump())
    _fill_artifact(artifact, result, output)
    return result


def report_skipped_stage(stage: str, recipe: str, workspace: str, reason: str) -> str:
    """Report why a stage with a finished result is skipped; return the digest of that result."""
    name = parse_recipe(recipe).name
    with report_start_and_failure(stage, workspace, name):
        result = read_result(Workspace.at(workspace).run(name, stage)).model_copy(update={"summary": reason})
    print(f"{name} {stage} skipped: {reason}")
    _append_event(event="end", recipe=name, stage=stage, result=result.model_dump())
    return result.digest


def pass_on_artifact(stage: str, recipe: str, workspace: str, artifact: Any, output: str, digest: str) -> None:
    """Fill `artifact` from the finished stage as `run_stage` does. Raises InputError if its digest is not `digest`."""
    folder = Workspace.at(workspace).run(parse_recipe(recipe).name, stage)
    check_result(folder, digest)
    _fill_artifact(artifact, read_result(folder), output)


def run_between_stages(component: str, workspace: str, work: Callable[[], Result]) -> Result:
    """Run `work` and report its events, for a component that is not a stage."""
    with report_start_and_failure(component, workspace):
        returned = work()
    _append_event(event="end", recipe="", stage=component, result=StageResult(stage=component).model_dump())
    return returned


@contextlib.contextmanager
def report_start_and_failure(stage: str, workspace: str, recipe: str = "") -> Iterator[None]:
    """Report that a stage starts and, if the block raises, how it failed; then exit with one line.

    On a cluster, events are written to a file of this pod in the workspace.
    """
    if pipeline := os.environ.get(PIPELINE_VARIABLE):
        folder = events_folder(Workspace.at(workspace), pipeline)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault(PROGRESS_FILE, str(folder / f"{os.environ.get('HOSTNAME', stage)}.jsonl"))
    _append_event(event="start", recipe=recipe, stage=stage)
    try:
        with _exit_on_sigterm(bool(pipeline)), machine_failures_in_one_line(Workspace.at(workspace).root):
            yield
    except InputError as error:
        _append_event(event="refused", recipe=recipe, stage=stage, message=str(error))
        sys.exit(f"slowfast {stage}: {error}")
    except Exception as error:  # noqa: BLE001  must not reach KFP, whose traceback could contain credentials
        message = without_credentials(f"{type(error).__name__}: {error}")
        _append_event(event="failed", recipe=recipe, stage=stage, message=message)
        print(without_credentials(traceback.format_exc()), file=sys.stderr)
        sys.exit(f"slowfast {stage}: {message}")


def _exit_on_sigterm(on_cluster: bool) -> contextlib.AbstractContextManager[None]:
    message = "stopped: the run was cancelled or the pod was evicted"
    return on_sigterm(lambda: sys.exit(message)) if on_cluster else contextlib.nullcontext()


def events_folder(at: Workspace, pipeline_run: str) -> Path:
    """The folder with one file of events for each pod of the run."""
    return at.below("logs", pipeline_run)


def _fill_artifact(artifact: Any, result: StageResult, output: str) -> None:
    """Copy a file into the artifact; of a folder, which stays in the workspace, write only the path."""
    source = Path(result.outputs[output])
    if source.is_file():
        shutil.copyfile(source, artifact.path)
    else:
        Path(artifact.path).write_text(str(source), encoding="utf-8")
    identity = {"digest": result.digest, "weights_digest": result.weights_digest, "data_version": result.data_version}
    artifact.metadata.update({name: value for name, value in identity.items() if value})
    artifact.metadata.update({"folder": str(source.parent), "summary": result.summary})


def _append_event(**event: object) -> None:
    if target := os.environ.get(PROGRESS_FILE):
        append(Path(target), event)
