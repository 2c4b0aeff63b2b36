"""A stage as a job of a cluster: a folder in the workspace, which both see, says what to do and takes the result.

`python -m slowfast_core.ray_jobs.stage_job FOLDER` is what the cluster runs. It goes on only while somebody follows it:
whoever waits for the job touches a file, and a job that nobody follows stops itself, so that none is left behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from slowfast_core.errors import InputError
from slowfast_core.files import on_sigterm, write_whole
from slowfast_core.once import StageResult, read_result, stage_version
from slowfast_core.progress import PROGRESS_FILE
from slowfast_core.recipe.load import Recipe
from slowfast_core.training.job import Stopped
from slowfast_core.workspace import Workspace

BEFORE = {"extract": "validate", "train": "extract"}  # the stages that can be jobs, and what each of them reads
FOLLOW_SECONDS = 10.0  # between two signs of life of the follower
PATIENCE_SECONDS = 1800.0  # without one until the job stops; longer than the back-off of a retried pod
# Nothing secret: Ray shows it.
PASSED_ON = ("SLOWFAST_IMAGE", "SLOWFAST_PIPELINE_RUN", PROGRESS_FILE, "OMP_NUM_THREADS")


@dataclass(frozen=True)
class StageJob:
    """`name` depends on the stage's inputs alone: a pod that is tried again finds the job of the one before."""

    name: str
    stage: str
    folder: Path

    @classmethod
    def write(cls, stage: str, recipe: Recipe, at: Workspace, patience: float = PATIENCE_SECONDS) -> StageJob:
        """Raises InputError when the stage before has not been run."""
        read = read_result(at.data(recipe.data.name, BEFORE[stage])).digest
        there = recipe.compute.model_copy(update={"run_on": "here", "jobs_address": None, "address": "auto"})
        start = recipe.train.init_from
        if start and not start.startswith("models:"):
            start = str(Path(start).resolve())
        train = recipe.train.model_copy(update={"init_from": start})
        text = recipe.model_copy(update={"compute": there, "train": train}).to_json()
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
        told = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if not Path(told.get(PROGRESS_FILE, "")).is_relative_to(self.folder.parent.parent):
            told.pop(PROGRESS_FILE, None)  # the cluster sees the workspace only
        return told

    def begin(self) -> None:
        """A job that starts anew is not to be taken for one that has ended."""
        (self.folder / "result.json").unlink(missing_ok=True)

    @contextmanager
    def followed(self) -> Iterator[None]:
        sign, stop = self.folder / "followed", threading.Event()
        sign.touch()

        def touch() -> None:
            while not stop.wait(FOLLOW_SECONDS):
                sign.touch()

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def stopped_on_sigterm(self) -> AbstractContextManager[None]:
        """Within the block SIGTERM raises Stopped."""

        def stop() -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the job is being stopped
            raise Stopped(self.folder)

        return on_sigterm(stop)

    def result(self, failure: str) -> StageResult:
        """What the ended job left; `failure` is why the cluster says that it failed, or empty."""
        file = self.folder / "result.json"
        if file.is_file():
            result = StageResult.model_validate_json(file.read_text(encoding="utf-8"))
            shutil.rmtree(self.folder)
            if result.status == "failed":
                raise InputError.from_line(result.summary)
            return result
        if failure:
            raise RuntimeError(f"{self.stage} failed on the cluster: {failure}")
        mend = "give its nodes the same storage under the same path"
        raise InputError("the cluster does not see the workspace", self.folder, mend)
