"""Reads damaged and hostile checkpoints and person boxes in forked processes, and counts what became of them.

    python tests/fuzz/fuzz_pickles.py --count 100000

Exit code 1 when one ended its process by a signal, took longer than the limit, or raised anything but InputError.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import edits
import pickle_seeds

from slowfast_core.convert.pickles import read_peer_file
from slowfast_core.data.annotations.person_boxes import read_person_boxes
from slowfast_core.errors import InputError

LIMIT = 5  # seconds of CPU a file
WALL = 60  # seconds a file, should it sleep
BATCH = 250  # files a process
MEMORY = 4 << 30  # of address space, on top of what the process has


class Source:
    """File `number` is always the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.pickles, self.torch_files = pickle_seeds.pickles(), pickle_seeds.torch_files()
        self.boxes = pickle_seeds.box_pickles()

    def file(self, number: int) -> tuple[str, bytes]:
        """The name's ending and the bytes."""
        drawn = random.Random(f"{self.seed} {number}")
        if drawn.random() < 0.65:
            boxes = drawn.random() < 0.3
            whole = drawn.choice(self.boxes if boxes else self.pickles)
            return ".boxes.pkl" if boxes else ".pkl", edits.edited(whole, self.pickles, "pickle", drawn)
        zipped, old = self.torch_files
        if drawn.random() < 0.6:
            change = lambda content: edits.edited(content, self.pickles, "pickle", drawn)  # noqa: E731
            return ".pth", pickle_seeds.rezipped(zipped, change)
        return ".pth", edits.edited(drawn.choice((zipped, old)), self.torch_files, "pickle", drawn)


def read(path: Path) -> str:
    """ "read" or "refused"; anything but InputError comes through."""
    try:
        if path.name.endswith(".boxes.pkl"):
            read_person_boxes(path, path.name, 0.5)
        else:
            read_peer_file(path)
    except InputError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from None
        return "refused"
    return "read"


def work(source: Source, numbers: range, folder: Path, report: int) -> None:
    """In the forked process: a line for each file as soon as it is done."""
    soft = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
    for number in numbers:
        ending, data = source.file(number)
        path = folder / f"file{ending}"
        path.write_bytes(data)
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, LIMIT)  # its own time, whatever else the machine does
        signal.alarm(WALL)
        try:
            became = read(path)
        except BaseException:  # noqa: BLE001  whatever it is, it is counted
            became = "escaped"
            os.write(2, f"file {number}:\n{traceback.format_exc()[-1500:]}\n".encode())
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        os.write(report, f"{number} {became} {time.process_time() - started:.3f} {peak}\n".encode())


def run(source: Source, numbers: range, folder: Path) -> tuple[list[list[str]], int]:
    """The lines of a forked process, and the signal that ended it (0: none)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        work(source, numbers, folder, writing)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        done = [line.split() for line in lines]
    return done, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    source, became = Source(asked.seed), Counter[str]()
    slowest, least, most, number = 0.0, 1 << 30, 0, 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        while number < asked.count:
            done, code = run(source, range(number, min(number + BATCH, asked.count)), Path(folder))
            became.update(line[1] for line in done)
            slowest = max([slowest, *(float(line[2]) for line in done)])
            peaks = [int(line[3]) for line in done]
            least, most = min([least, *peaks]), max([most, *peaks])
            number += len(done)
            if code:
                kind = "over the limit" if -code in (signal.SIGALRM, signal.SIGPROF) else "ended by a signal"
                print(f"file {number}: {kind} ({code})", file=sys.stderr)
                became[kind] += 1
                number += 1
    print(
        f"{number} files: {became['read']} read, {became['refused']} refused, {became['ended by a signal']} signals, "
        f"{became['over the limit']} over {LIMIT} s, {became['escaped']} other errors; slowest {slowest:.2f} s, "
        f"memory grew by at most {most - least} MB, {time.monotonic() - started:.0f} s in all"
    )
    return int(became["read"] + became["refused"] < number)


if __name__ == "__main__":
    sys.exit(main())
