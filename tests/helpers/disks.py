"""Filling of a disk in tests."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def fill(disk: Path, leave_kb: int = 0) -> Path:
    """Fill the disk except for `leave_kb`; returns the file that takes the space."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(filler, max(filler.stat().st_size - leave_kb * 1024, 0))
    return filler
