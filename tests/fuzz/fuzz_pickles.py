"""Reads damaged and hostile checkpoints and person boxes in forked processes, and counts the outcomes.

    python tests/fuzz/fuzz_pickles.py --count 100000

Exit code 1 if a file ended its process by a signal, took longer than the limit, or raised anything but InputError.
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
from slowfast_core.data.person_boxes import read_person_boxes
from slowfast_core.errors import InputError

LIMIT = 5  # seconds of CPU time per file
WALL = 60  # seconds per file, in case it sleeps
BATCH = 250  # files per process
MEMORY = 4 << 30  # bytes of address space, in addition to that of the process at its start


class Source:
    """Generates files; file `number` depends only on the seed and its number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.pickles, self.torch_files = pickle_seeds.pickles(), pickle_seeds.torch_files()
        self.boxes = pickle_seeds.box_pickles()

    def file(self, number: int) -> tuple[str, bytes]:
        """Suffix and bytes of a file."""
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
    """Return "read" or "refused"; raises anything but InputError."""
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
    """Run in the forked process: writes a line to `report` after each file."""
    soft = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
    for number in numbers:
        suffix, data = source.file(number)
        path = folder / f"file{suffix}"
        path.write_bytes(data)
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, LIMIT)  # CPU time of the process, independent of other load
        signal.alarm(WALL)
        try:
            outcome = read(path)
        except BaseException:  # noqa: BLE001  counts every kind of error
            outcome = "escaped"
            os.write(2, f"file {number}:\n{traceback.format_exc()[-1500:]}\n".encode())
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        os.write(report, f"{number} {outcome} {time.process_time() - started:.3f} {peak}\n".encode())


def run(source: Source, numbers: range, folder: Path) -> tuple[list[list[str]], int]:
    """Lines of a forked process, and its exit code (negative for a signal)."""
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
    options = parser.parse_args()
    source, outcomes = Source(options.seed), Counter[str]()
    slowest, least, most, number = 0.0, 1 << 30, 0, 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        while number < options.count:
            done, code = run(source, range(number, min(number + BATCH, options.count)), Path(folder))
            outcomes.update(line[1] for line in done)
            slowest = max([slowest, *(float(line[2]) for line in done)])
            peaks = [int(line[3]) for line in done]
            least, most = min([least, *peaks]), max([most, *peaks])
            number += len(done)
            if code:
                kind = "over the limit" if -code in (signal.SIGALRM, signal.SIGPROF) else "ended by a signal"
                print(f"file {number}: {kind} ({code})", file=sys.stderr)
                outcomes[kind] += 1
                number += 1
    print(
        f"{number} files: {outcomes['read']} read, {outcomes['refused']} refused, "
        f"{outcomes['ended by a signal']} signals, {outcomes['over the limit']} over {LIMIT} s, "
        f"{outcomes['escaped']} other errors; slowest {slowest:.2f} s, "
        f"memory grew by at most {most - least} MB, {time.monotonic() - started:.0f} s in all"
    )
    return int(outcomes["read"] + outcomes["refused"] < number)


if __name__ == "__main__":
    sys.exit(main())
