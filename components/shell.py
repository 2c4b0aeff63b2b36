"""What every component does around its stage: read the recipe, run the stage, tell the runner, fill the artifact."""

import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from slowfast_core.errors import InputError
from slowfast_core.progress import PROGRESS_FILE
from slowfast_core.recipe import parse_recipe
from slowfast_core.stage import StageResult
from slowfast_core.stages import run_stage
from slowfast_core.workspace import Workspace


def run(stage: str, recipe: str, workspace: str, artifact: Any, output: str, **train: str) -> StageResult:
    """Run a stage of `recipe` (resolved, as JSON) and hand on its file `output` with the identity of the result.

    `train` overrides of the recipe come from the artifacts of other components.
    """
    resolved = parse_recipe(recipe)
    if train:
        resolved = resolved.model_copy(update={"train": resolved.train.model_copy(update=train)})
    started = time.monotonic()
    _tell(event="start", recipe=resolved.name, stage=stage)
    try:
        result = run_stage(stage, resolved, Workspace.at(workspace))
    except InputError as error:
        _tell(event="refused", recipe=resolved.name, stage=stage, message=str(error))
        sys.exit(f"slowfast {stage}: {error}")
    except Exception as error:
        _tell(event="failed", recipe=resolved.name, stage=stage, message=f"{type(error).__name__}: {error}")
        traceback.print_exc()
        raise
    timed = result.model_copy(update={"seconds": round(time.monotonic() - started, 1)})
    _tell(event="end", recipe=resolved.name, stage=stage, result=timed.model_dump())
    _fill(artifact, result, output)
    return result


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


def _tell(**event: object) -> None:
    if target := os.environ.get(PROGRESS_FILE):
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
