"""A stage on a standing Ray cluster: submitted to its Jobs API, or found running there; followed; stopped with us."""

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
LOST_SECONDS = 300.0  # for which a cluster may not answer
STOP_SECONDS = 5  # that a job has to end by itself before Ray kills it
Answer = TypeVar("Answer")


def run_by_jobs_api(job: StageJob, address: str) -> str:
    """Run the job to its end; returns why it failed, or "". Whatever ends this call early stops the job first.

    The token is Ray's: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. Raises InputError when nothing
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
    except Exception as error:  # noqa: BLE001  requests', Ray's and Python's own, without a common kind
        reason = " ".join(str(error).split())
        mend = "start it, or correct compute.jobs_address or RAY_AUTH_TOKEN"
        raise InputError(f"no Ray Jobs API: {reason}", address, mend) from None


def _find(client: Any, job: StageJob) -> tuple[str, bool]:
    """The id of the submission of this job that runs, and True; or a new one: Ray takes no id twice."""
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
            raise  # else another process was faster: its job is the same


def _wait(client: Any, submission: str) -> str:
    while not (info := _asked(lambda: client.get_job_info(submission))).status.is_terminal():
        time.sleep(POLL_SECONDS)
    return "" if info.status == "SUCCEEDED" else f"{info.status.lower()}: {' '.join(str(info.message).split())}"


def _asked(ask: Callable[[], Answer]) -> Answer:
    """The answer, waited for while the cluster cannot be reached."""
    since = time.monotonic()
    while True:
        try:
            return ask()
        except (OSError, RuntimeError) as error:  # requests' errors of connection and time are of the first kind
            lost = isinstance(error, OSError) or _status(error) >= 500  # also what a proxy in between answers
            if not lost or time.monotonic() - since > LOST_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


def _status(error: Exception) -> int:
    """The HTTP status that Ray's client names in its RuntimeError; 0 where it names none."""
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
            return  # it was not taken
        reason = " ".join(str(error).split())
        line = without_credentials(f"slowfast: job {submission} of {address} could not be stopped: {reason}")
        print(line, file=sys.stderr)


@contextmanager
def streamed_logs(client: Any, submission: str) -> Iterator[None]:
    """Copy what the job prints to stderr."""
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
    """Ray sends the whole log at each connection: what has been shown is passed over."""
    import aiohttp

    shown = 0
    while True:
        passed = 0
        try:
            async for text in client.tail_job_logs(submission):
                passed += len(text)
                if passed > shown:
                    sys.stderr.write(text[len(text) - (passed - shown) :] if passed - shown < len(text) else text)
                    sys.stderr.flush()
                    shown = passed
            return
        except (OSError, RuntimeError, aiohttp.ClientError):
            if ended.is_set():
                return
            await asyncio.sleep(2)
