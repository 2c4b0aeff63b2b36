"""Processes many files in worker processes, so that a file that hangs or crashes a decoder does not affect others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Process = subprocess.Popen[bytes]
WATCH_SECONDS = 0.1  # between checks of the workers' memory


CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


@dataclass(frozen=True)
class Failed:
    reason: str
    crashed: bool = field(default=False, compare=False)  # not by a limit of time or memory, and not killed


def cores() -> int:
    return len(os.sched_getaffinity(0))


def run_isolated(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int = 0,
    limit_seconds: float = 0,
    limit_mb: int = 0,
) -> Iterator[tuple[Item, Result | Failed]]:
    """Yield each item with `function(item)` or a Failed, in the order of completion.

    `function` must be importable by its name. `workers` 0 uses all cores. `limit_seconds` is the time limit of an item,
    which `restart_time_limit` restarts; `limit_mb` limits the resident memory of its process; 0 means no limit.
    Workers end when their parent ends, even if it is killed, because their pipe closes.
    """
    todo = list(reversed(items))
    busy: dict[Connection, tuple[Process, Item]] = {}
    idle: list[tuple[Connection, Process]] = []
    too_large: set[Process] = set()
    try:
        while todo or busy:
            while todo and len(busy) < (workers or cores()):
                pipe, process = idle.pop() if idle else _start(function, limit_seconds)
                busy[pipe] = process, todo.pop()
                pipe.send(busy[pipe][1])
            ready = wait(list(busy), WATCH_SECONDS if limit_mb else None)
            for process, _ in (busy[pipe] for pipe in busy if limit_mb and pipe not in ready):
                if _resident_mb(process) > limit_mb:
                    process.kill()
                    too_large.add(process)
            for pipe in [pipe for pipe in ready if isinstance(pipe, Connection)]:
                process, item = busy.pop(pipe)
                try:
                    result = pipe.recv()
                    idle.append((pipe, process))
                except (EOFError, ConnectionResetError):
                    pipe.close()
                    code = process.wait()
                    memory = f"took more than {limit_mb} MB of memory"
                    result = Failed(memory) if process in too_large else _failed(code, limit_seconds)
                yield item, result
    finally:
        for pipe, process in [*idle, *((pipe, process) for pipe, (process, _) in busy.items())]:
            pipe.close()
            process.kill()
            process.wait()


def _start(function: Callable[[Item], Result], limit_seconds: float) -> tuple[Connection, Process]:
    # multiprocessing.Process would import the caller's main module, which may be slow or not a file.
    ours, theirs = multiprocessing.Pipe()
    code = f"from {__name__} import _serve; _serve({theirs.fileno()})"
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    with theirs:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    try:
        ours.send((function, limit_seconds))
        ours.recv()
    except (EOFError, OSError):
        raise RuntimeError(f"a worker process for {function} could not start") from None
    return ours, process


def _serve(descriptor: int) -> None:
    """The worker's main loop."""
    pipe = Connection(descriptor)
    function, limit_seconds = pipe.recv()
    pipe.send("ready")
    # Decoders print to stderr from C; errors that matter are returned as a reason.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            result = run_limited(function, item, limit_seconds)
        except Exception as error:  # noqa: BLE001  (one item's failure, reported to the parent)
            result = Failed(" ".join(str(error).split()) or type(error).__name__)
        pipe.send(result)


def run_limited(function: Callable[[Item], Result], item: Item, limit_seconds: float) -> Result:
    """Return `function(item)`. SIGALRM ends this process, wherever it hangs, after `limit_seconds`; 0: no limit."""
    signal.setitimer(signal.ITIMER_REAL, limit_seconds, limit_seconds)
    try:
        return function(item)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def restart_time_limit() -> None:
    """Restart the time limit of the current item, if it has one, because the item has made progress."""
    _, limit_seconds = signal.getitimer(signal.ITIMER_REAL)  # the interval stores the limit: the first alarm is fatal
    if limit_seconds:
        signal.setitimer(signal.ITIMER_REAL, limit_seconds, limit_seconds)


def _resident_mb(process: Process) -> float:
    try:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # the process has just ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _failed(code: int, limit_seconds: float) -> Failed:
    if code == -signal.SIGALRM:
        return Failed(f"took longer than {limit_seconds:g} s")
    name = signal.Signals(-code).name if code < 0 else f"exit {code}"
    return Failed(f"the decoder crashed ({name})", crashed=-code in CRASHES)
