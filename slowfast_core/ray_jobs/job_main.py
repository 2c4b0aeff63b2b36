"""Entry point of a job on the cluster: `python -m slowfast_core.ray_jobs.job_main FOLDER` runs the stage in FOLDER.

The job stops itself when its client no longer follows it (stage_job.py), so that no job is left behind.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from slowfast_core.environment import machine_failures_in_one_line
from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.once import StageResult, stage_version
from slowfast_core.ray_jobs.stage_job import FOLLOW_SECONDS
from slowfast_core.recipe.load import parse_recipe
from slowfast_core.stages.flow import STAGE_FUNCTIONS
from slowfast_core.stopping import Stopped
from slowfast_core.workspace import Workspace


def run_here(folder: Path) -> int:
    """Run the stage that `folder` describes; returns the exit code of the process."""
    order = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    _stop_unless_followed(folder / "followed", order["patience_seconds"])
    recipe = parse_recipe(json.dumps(order["recipe"]))
    try:
        at = Workspace(Path(order["workspace"]))
        with machine_failures_in_one_line(at.root):
            _check_version(order["stage"], order.get("version"))
            result = STAGE_FUNCTIONS[order["stage"]](recipe, at)
    except InputError as error:
        print(f"slowfast: {error}", file=sys.stderr)
        result = StageResult(stage=order["stage"], status="failed", summary=str(error))
    except Stopped as error:
        print(f"slowfast: stopped and saved in {error}", file=sys.stderr)
        return 143
    write_whole(folder / "result.json", result.model_dump_json())
    return 2 if result.status == "failed" else 0


def _check_version(stage: str, asked: int | None) -> None:
    """Raise InputError if the cluster has another code version: its results would be outdated at every run."""
    if (here := stage_version(stage)) != asked:
        what = f"the cluster has version {here} of {stage}, asked for {asked}"
        raise InputError(what, socket.gethostname(), "use the same image for cluster and client")


def _stop_unless_followed(sign: Path, patience: float) -> None:
    """Send SIGTERM to this process if `sign` does not change for `patience` seconds.

    Only this process's clock is used, because the clocks of nodes differ.
    """

    def watch() -> None:
        last, since = _touched(sign), time.monotonic()
        while time.monotonic() - since < patience:
            time.sleep(min(FOLLOW_SECONDS, patience / 4))
            if (now := _touched(sign)) != last:
                last, since = now, time.monotonic()
        print(f"slowfast: no process has followed this job for {patience:.0f} s", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _touched(sign: Path) -> int:
    return sign.stat().st_mtime_ns if sign.exists() else 0


if __name__ == "__main__":
    sys.exit(run_here(Path(sys.argv[1])))
