"""Runs a stage as a job of a running Ray cluster: submits it to the Jobs API or joins a running one, and waits."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from slowfast_core.credentials import without_credentials
from slowfast_core.errors import InputError
from slowfast_core.parallel.ray_connection import ray_with_settings, reach
from slowfast_core.ray_jobs.stage_job import StageJob

POLL_SECONDS = 0.5
LOST_SECONDS = 300.0  # time without an answer before a cluster counts as lost
STOP_SECONDS = 5  # time for a job to end before Ray kills it
Answer = TypeVar("Answer")


def run_by_jobs_api(job: StageJob, address: str) -> str:
    """Run the job to its end; returns why it failed, or "". Any exception stops the job before it is re-raised.

    Ray reads its token from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. Raises InputError if nothing
    answers or the token is refused.
    """
    client = connect(address)
    submission, runs = _find(client, job)
    try:
        if not runs:
            _submit(client, job, submission)
        print(f"{job.stage} is job {submission} of {without_credentials(address)}", file=sys.stderr)
        with streamed_logs(client, submission):
            return _wait(client, submission)
    except BaseException:
        _stop(client, submission, address)
        raise


def connect(address: str) -> Any:
    ray_with_settings()
    from ray.job_submission import JobSubmissionClient

    try:
        reach(address)
        return JobSubmissionClient(address)
    except Exception as error:  # noqa: BLE001  errors of requests, Ray and Python have no common base class
        reason = " ".join(str(error).split())
        fix = "start it, or correct compute.jobs_address or RAY_AUTH_TOKEN"
        raise InputError(f"no Ray Jobs API: {reason}", address, fix) from None


def _find(client: Any, job: StageJob) -> tuple[str, bool]:
    """Return the submission id of this job and whether it is running; Ray accepts an id only once, so else a new id."""
    from ray.job_submission import JobStatus

    numbers = [0]
    for info in _asked(client.list_jobs):
        name, _, number = (info.submission_id or "").rpartition("-")
        if name == job.name and number.isdigit():
            if not JobStatus(info.status).is_terminal():
                return str(info.submission_id), True
            numbers.append(int(number))
    return f"{job.name}-{max(numbers) + 1}", False


def _submit(client: Any, job: StageJob, submission: str) -> None:
    job.begin()
    environment = {"env_vars": job.environment | {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}
    try:
        client.submit_job(entrypoint=job.entrypoint, submission_id=submission, runtime_env=environment)
    except RuntimeError:
        if submission not in {info.submission_id for info in _asked(client.list_jobs)}:
            raise  # otherwise another process has just submitted the same job


def _wait(client: Any, submission: str) -> str:
    while not (info := _asked(lambda: client.get_job_info(submission))).status.is_terminal():
        time.sleep(POLL_SECONDS)
    return "" if info.status == "SUCCEEDED" else f"{info.status.lower()}: {' '.join(str(info.message).split())}"


def _asked(ask: Callable[[], Answer]) -> Answer:
    """Return the answer; repeats the request for LOST_SECONDS while the cluster is unreachable."""
    since = time.monotonic()
    while True:
        try:
            return ask()
        except (OSError, RuntimeError) as error:  # connection errors and timeouts of requests are OSErrors
            lost = isinstance(error, OSError) or _status(error) >= 500  # 5xx may come from a proxy in between
            if not lost or time.monotonic() - since > LOST_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


def _status(error: Exception) -> int:
    """Return the HTTP status in a RuntimeError of Ray's client; 0 without one."""
    found = re.search(r"status code (\d{3})", str(error))
    return int(found[1]) if found else 0


def _stop(client: Any, submission: str, address: str) -> None:
    try:
        client.stop_job(submission)
        limit = time.monotonic() + STOP_SECONDS + 3
        while not client.get_job_status(submission).is_terminal() and time.monotonic() < limit:
            time.sleep(0.1)
    except (OSError, RuntimeError) as error:
        if _status(error) == 404:
            return  # the job was not accepted
        reason = " ".join(str(error).split())
        line = without_credentials(f"slowfast: job {submission} of {address} could not be stopped: {reason}")
        print(line, file=sys.stderr)


@contextmanager
def streamed_logs(client: Any, submission: str) -> Iterator[None]:
    """Copy the job's output to stderr inside the block."""
    ended = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_tail(client, submission, ended)), daemon=True)
    thread.start()
    try:
        yield
        ended.set()
        thread.join(timeout=5)  # for the last lines
    finally:
        ended.set()


async def _tail(client: Any, submission: str, ended: threading.Event) -> None:
    """Print the log as it grows; skips text already printed, because each connection starts with the whole log."""
    import aiohttp

    shown = 0
    while True:
        passed = 0
        try:
            async for text in client.tail_job_logs(submission):
                passed += len(text)
                if passed > shown:
                    sys.stderr.write(text[-(passed - shown) :])
                    sys.stderr.flush()
                    shown = passed
            return
        except (OSError, RuntimeError, aiohttp.ClientError):
            if ended.is_set():
                return
            await asyncio.sleep(2)
