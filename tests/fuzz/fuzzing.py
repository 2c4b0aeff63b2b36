"""Runs a fuzz target on examples until the time is up; each takes bounded time and raises only InputError."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from slowfast_core.errors import InputError

PLAIN, LONG = 10, 300  # seconds per target in the plain suite and in the long run
SLOWEST = 10  # seconds per example, also on a busy machine
LARGEST = 1000  # megabytes by which the process may grow
EXAMPLES = 25  # examples between checks of the time

Target = Callable[[st.DataObject], None]


def fuzz(target: Target, seconds: int) -> None:
    """Run the target for this time. Each round has its own seed, so that a failure is reproducible."""
    before, end = _peak(), time.monotonic() + seconds
    rounds = refused = 0
    while time.monotonic() < end:
        rounds += 1
        refused += _round(target, rounds)
    print(f"{target.__qualname__}: {rounds} rounds of {EXAMPLES}, {refused} refused, {_peak() - before:+d} MB")
    assert refused
    assert _peak() - before < LARGEST


def _round(target: Target, number: int) -> int:
    """Run a round; returns the number of refused examples."""
    refused = 0

    @seed(number)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
    )
    @given(st.data())
    def one(data: st.DataObject) -> None:
        nonlocal refused
        started = time.monotonic()
        line = _refusal(target, data)
        refused += bool(line)
        assert line.isprintable()
        assert time.monotonic() - started < SLOWEST

    one()
    return refused


def _refusal(target: Target, data: st.DataObject) -> str:
    try:
        target(data)
    except InputError as error:
        return str(error)
    return ""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
