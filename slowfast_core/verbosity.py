"""How much a command prints: set once by the command line, inherited by the processes that it starts."""

from __future__ import annotations

import os
import sys

VARIABLE = "SLOWFAST_VERBOSITY"
QUIET, VERBOSE = "quiet", "verbose"


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Neither leaves the environment variable as it is."""
    if quiet or verbose:
        os.environ[VARIABLE] = QUIET if quiet else VERBOSE


def is_quiet() -> bool:
    """Whether to print results, warnings and errors only."""
    return os.environ.get(VARIABLE) == QUIET


def is_verbose() -> bool:
    """Whether to print also why each stage runs or is skipped, and the warnings of libraries."""
    return os.environ.get(VARIABLE) == VERBOSE


def report(message: str) -> None:
    """Print a message about progress to stderr, unless the command is quiet."""
    if not is_quiet():
        print(message, file=sys.stderr, flush=True)
