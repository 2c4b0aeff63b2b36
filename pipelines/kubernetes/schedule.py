"""Cron, as people write it and as Kubeflow reads it."""

from __future__ import annotations

import re

from slowfast_core.errors import InputError

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of the week", 0, 6, DAYS),
)


def with_seconds(cron: str) -> str:
    """Kubeflow's cron has a field of seconds before the usual five. Raises InputError when a field is wrong."""
    fields = cron.split()
    if len(fields) != len(FIELDS):
        fix = 'write five fields, for example "0 2 * * *" for two at night'
        raise InputError(f"{len(fields)} fields are no cron expression", f"--cron {cron!r}", fix)
    for text, (name, low, high, names) in zip(fields, FIELDS, strict=True):
        if not all(_valid(part, low, high, names) for part in text.split(",")):
            fix = f"{low} to {high}{f' or {names[0]} to {names[-1]}' if names else ''}, *, a-b, */n or a list of these"
            raise InputError(f"{text!r} is no {name}", f"--cron {cron!r}", fix)
    return " ".join(["0", *fields])


def _valid(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    found = re.fullmatch(r"(\*|[A-Za-z0-9]+(?:-([A-Za-z0-9]+))?)(?:/([0-9]+))?", part)
    if not found or found[3] == "0":
        return False
    if found[1] == "*":
        return True
    ends = [_number(text, low, names) for text in found[1].split("-")]
    return all(low <= end <= high for end in ends) and ends[0] <= ends[-1]


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    if text.upper() in names:
        return names.index(text.upper()) + low
    return int(text) if text.isdigit() else -1
