"""A stage as a job of a cluster, described by a folder in the shared workspace, which also receives the result.

The cluster runs `python -m slowfast_core.ray_jobs.job_main FOLDER`. The client that waits for the job touches a file
regularly; a job that no client follows stops itself, so that no job is left behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from slowfast_core.background import repeated
from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.once import StageResult, read_result, stage_version
from slowfast_core.progress import PROGRESS_FILE
from slowfast_core.recipe.load import Recipe
from slowfast_core.stage import STAGE_BY_NAME
from slowfast_core.stages.flow import output_of
from slowfast_core.stopping import Stopped, on_sigterm
from slowfast_core.workspace import Workspace

FOLLOW_SECONDS = 10.0  # between two touches of the file by the client
PATIENCE_SECONDS = 1800.0  # without a touch until the job stops; longer than the back-off of a retried pod
# Environment variables passed to the job. No secrets: Ray displays them.
PASSED_ON = ("SLOWFAST_IMAGE", "SLOWFAST_PIPELINE_RUN", PROGRESS_FILE, "OMP_NUM_THREADS")


@dataclass(frozen=True)
class StageJob:
    """A job, whose name depends only on the stage's inputs, so that a retried pod finds the job of the previous one."""

    name: str
    stage: str
    folder: Path

    @classmethod
    def write(cls, stage: str, recipe: Recipe, at: Workspace, patience: float = PATIENCE_SECONDS) -> StageJob:
        """Write the folder of a job. Raises InputError if the previous stage has not been run."""
        [before] = STAGE_BY_NAME[stage].reads
        read = read_result(output_of(before, recipe, at)).digest
        there = recipe.compute.model_copy(update={"run_on": "here", "jobs_address": None, "address": "auto"})
        start = recipe.train.init_from
        if start and not start.startswith("models:"):
            start = str(Path(start).resolve())
        text = recipe.model_copy(update={"compute": there}).starting_from(start).to_json()
        version = stage_version(stage)
        key = hashlib.sha256("\n".join((stage, str(version), text, str(at.root), read)).encode()).hexdigest()
        name = f"slowfast-{stage}-{key[:12]}"
        job = cls(name, stage, at.below("jobs", name))
        job.folder.mkdir(parents=True, exist_ok=True)
        order = {"stage": stage, "version": version, "workspace": str(at.root), "patience_seconds": patience}
        write_whole(job.folder / "job.json", json.dumps({**order, "recipe": json.loads(text)}, indent=1))
        return job

    @property
    def entrypoint(self) -> str:
        return f"python -m slowfast_core.ray_jobs.job_main {self.folder}"

    @property
    def environment(self) -> dict[str, str]:
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if not Path(variables.get(PROGRESS_FILE, "")).is_relative_to(self.folder.parent.parent):
            variables.pop(PROGRESS_FILE, None)  # the cluster sees only the workspace
        return variables

    def begin(self) -> None:
        """Remove an earlier result, so that a restarted job does not look finished."""
        (self.folder / "result.json").unlink(missing_ok=True)

    def followed(self) -> AbstractContextManager[None]:
        """Touch the file that keeps the job running now, and regularly inside the block."""
        sign = self.folder / "followed"
        sign.touch()
        return repeated(sign.touch, FOLLOW_SECONDS)

    def stopped_on_sigterm(self) -> AbstractContextManager[None]:
        """Raise Stopped on SIGTERM inside the block."""

        def stop() -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ignore repeats: the job is already being stopped
            raise Stopped(self.folder)

        return on_sigterm(stop)

    def result(self, failure: str) -> StageResult:
        """Read the result of the finished job; `failure` is the cluster's reason for a failure, or ""."""
        file = self.folder / "result.json"
        if file.is_file():
            result = StageResult.model_validate_json(file.read_text(encoding="utf-8"))
            shutil.rmtree(self.folder)
            if result.status == "failed":
                raise InputError.from_line(result.summary)
            return result
        if failure:
            raise RuntimeError(f"{self.stage} failed on the cluster: {failure}")
        fix = "mount the same storage under the same path on its nodes"
        raise InputError("the cluster does not see the workspace", self.folder, fix)
