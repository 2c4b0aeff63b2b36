"""A run of a fuzz target: examples until the time is up, each in bounded time, and nothing but InputError."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from slowfast_core.errors import InputError

PLAIN, LONG = 10, 300  # seconds of a target in the plain suite and in the long run
SLOWEST = 10  # seconds of an example; on a busy machine too
LARGEST = 1000  # megabytes by which the process may grow
EXAMPLES = 25  # in a row, between looks at the clock

Target = Callable[[st.DataObject], None]


def fuzz(target: Target, seconds: int) -> None:
    """Run the target for so many seconds. Each round has its own seed, so that a failure happens again."""
    before, end = _peak(), time.monotonic() + seconds
    rounds = refused = 0
    while time.monotonic() < end:
        rounds += 1
        refused += _round(target, rounds)
    print(f"{target.__qualname__}: {rounds} rounds of {EXAMPLES}, {refused} refused, {_peak() - before:+d} MB")
    assert refused
    assert _peak() - before < LARGEST


def _round(target: Target, number: int) -> int:
    """How many examples were refused."""
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
