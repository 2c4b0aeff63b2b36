"""Runs a stage in this process or as a job of the cluster in the recipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from slowfast_core.credentials import left_out
from slowfast_core.environment import machine_failures_in_one_line
from slowfast_core.errors import InputError
from slowfast_core.once import StageResult, check_result, exclusive_lock, in_use
from slowfast_core.ray_jobs.rayjob_settings import RayJobSettings
from slowfast_core.ray_jobs.stage_job import StageJob
from slowfast_core.recipe.load import Recipe
from slowfast_core.scratch import scratch
from slowfast_core.stages.flow import ALREADY, STAGE_FUNCTIONS, inputs_of
from slowfast_core.workspace import Workspace


def run_stage(stage: str, recipe: Recipe, at: Workspace, expected: Mapping[Path, str] | None = None) -> StageResult:
    """Run the stage in this process or, if it is not up to date, as a job of the cluster in the recipe.

    No other process can replace the results that the stage reads while it runs. `expected` has the digests of results
    that a pipeline gave to this stage: Raises InputError if another run has replaced one since. Processes and temporary
    files that a killed run left in this workspace are removed first.
    """
    folders = inputs_of(stage, recipe, at)
    with machine_failures_in_one_line(at.root), in_use(folders), scratch(at.root):
        for folder, digest in (expected or {}).items():
            if folder not in folders:
                what, fix = f"{stage} reads other folders than the one it was given", "submit the pipeline again"
                raise InputError(what, folder, fix)
            check_result(folder, digest)
        return _run_stage(stage, recipe, at)


def _run_stage(stage: str, recipe: Recipe, at: Workspace) -> StageResult:
    if recipe.compute.run_on == "here" or stage not in ALREADY:
        return STAGE_FUNCTIONS[stage](recipe, at)
    if result := ALREADY[stage](recipe, at):
        return result
    return run_on_cluster(stage, recipe, at)


def run_on_cluster(stage: str, recipe: Recipe, at: Workspace) -> StageResult:
    """Run the stage as a job and wait for it. SIGTERM (raises Stopped) and SIGINT stop the job first."""
    if recipe.compute.run_on == "rayjob":  # resolve "auto" first, because the sizes of the pods depend on it
        recipe = recipe.with_gpus(int(RayJobSettings.from_environment().gpu_image is not None))
    for line in left_out("the job", recipe):
        print(f"slowfast: {line}", file=sys.stderr)
    job = StageJob.write(stage, recipe, at)
    with exclusive_lock(job.folder / "job"), job.followed(), job.stopped_on_sigterm():
        if recipe.compute.run_on == "rayjob":
            from slowfast_core.ray_jobs.rayjob import run_rayjob

            failure = run_rayjob(job, recipe)
        else:
            from slowfast_core.ray_jobs.jobs_api import run_by_jobs_api

            failure = run_by_jobs_api(job, str(recipe.compute.jobs_address))
    return job.result(failure)
