"""What every component does around its stage: read the recipe, run the stage, report events, fill the artifact."""

import contextlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from slowfast_core.credentials import restored, without_credentials
from slowfast_core.environment import machine_failures_in_one_line
from slowfast_core.errors import InputError
from slowfast_core.json_lines import append
from slowfast_core.once import StageResult, read_result
from slowfast_core.progress import PROGRESS_FILE
from slowfast_core.ray_jobs.dispatch import run_stage
from slowfast_core.recipe.load import parse_recipe
from slowfast_core.stopping import on_sigterm
from slowfast_core.tracking.runs import PIPELINE_VARIABLE
from slowfast_core.workspace import Workspace

Answer = TypeVar("Answer")


def run(stage: str, recipe: str, workspace: str, artifact: Any, output: str, **train: str) -> StageResult:
    """Run a stage of `recipe` (resolved, as JSON) and hand on its file `output` with the identity of the result.

    `train` overrides of the recipe come from the artifacts of other components.
    """
    resolved = parse_recipe(restored(json.loads(recipe)))
    if train:
        resolved = resolved.model_copy(update={"train": resolved.train.model_copy(update=train)})
    started = time.monotonic()
    with watched(stage, workspace, resolved.name):
        result = run_stage(stage, resolved, Workspace.at(workspace))
    timed = result.model_copy(update={"seconds": round(time.monotonic() - started, 1)})
    _report(event="end", recipe=resolved.name, stage=stage, result=timed.model_dump())
    _fill(artifact, result, output)
    return result


def skip(stage: str, recipe: str, workspace: str, reason: str) -> str:
    """Report why a stage that has its result does not run; return the digest of that."""
    name = parse_recipe(recipe).name
    with watched(stage, workspace, name):
        result = read_result(Workspace.at(workspace).run(name, stage)).model_copy(update={"summary": reason})
    print(f"{name} {stage} skipped: {reason}")
    _report(event="end", recipe=name, stage=stage, result=result.model_dump())
    return result.digest


def hand_on(stage: str, recipe: str, workspace: str, artifact: Any, output: str, digest: str) -> None:
    """What `run` hands on, of a stage that has been run."""
    folder = Workspace.at(workspace).run(parse_recipe(recipe).name, stage)
    result = read_result(folder)
    if result.digest != digest:
        raise InputError(f"another run left {result.digest} there, not {digest}", folder, "start this one again")
    _fill(artifact, result, output)


def step(name: str, workspace: str, work: Callable[[], Answer]) -> Answer:
    """What a cluster runs between the stages."""
    with watched(name, workspace):
        answer = work()
    _report(event="end", recipe="", stage=name, result=StageResult(stage=name).model_dump())
    return answer


@contextlib.contextmanager
def watched(stage: str, workspace: str, recipe: str = "") -> Iterator[None]:
    """Report that a stage starts and how it fails; on a cluster, in a file of the pod below the run's folder."""
    if pipeline := os.environ.get(PIPELINE_VARIABLE):
        folder = events_folder(Workspace.at(workspace), pipeline)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault(PROGRESS_FILE, str(folder / f"{os.environ.get('HOSTNAME', stage)}.jsonl"))
    _report(event="start", recipe=recipe, stage=stage)
    try:
        with _exit_on_sigterm(bool(pipeline)), machine_failures_in_one_line(Workspace.at(workspace).root):
            yield
    except InputError as error:
        _report(event="refused", recipe=recipe, stage=stage, message=str(error))
        sys.exit(f"slowfast {stage}: {error}")
    except Exception as error:  # noqa: BLE001  ended here, as a traceback of KFP may show an address
        message = without_credentials(f"{type(error).__name__}: {error}")
        _report(event="failed", recipe=recipe, stage=stage, message=message)
        print(without_credentials(traceback.format_exc()), file=sys.stderr)
        sys.exit(f"slowfast {stage}: {message}")


def _exit_on_sigterm(on_cluster: bool) -> contextlib.AbstractContextManager[None]:
    message = "stopped: the run was cancelled or its pod is moved"
    return on_sigterm(lambda: sys.exit(message)) if on_cluster else contextlib.nullcontext()


def events_folder(at: Workspace, pipeline_run: str) -> Path:
    return at.below("logs", pipeline_run)


def _fill(artifact: Any, result: StageResult, output: str) -> None:
    """Small files travel in the artifact; bulk data stays in the workspace, named by the metadata."""
    source = Path(result.outputs[output])
    if source.is_file():
        shutil.copyfile(source, artifact.path)
    else:
        Path(artifact.path).write_text(str(source), encoding="utf-8")
    identity = {"digest": result.digest, "weights_digest": result.weights_digest, "data_version": result.data_version}
    artifact.metadata.update({name: value for name, value in identity.items() if value})
    artifact.metadata.update({"folder": str(source.parent), "summary": result.summary})


def _report(**event: object) -> None:
    if target := os.environ.get(PROGRESS_FILE):
        append(Path(target), event)
