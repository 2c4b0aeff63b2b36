"""Checks a cron expression and converts it to Kubeflow's six fields."""

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
    """Put the field of seconds, which Kubeflow requires, before the usual five. Raises InputError for a wrong field."""
    fields = cron.split()
    if len(fields) != len(FIELDS):
        fix = 'write five fields, such as "0 2 * * *" for 02:00 every day'
        raise InputError(f"a cron expression has five fields, not {len(fields)}", f"--cron {cron!r}", fix)
    for text, (name, low, high, names) in zip(fields, FIELDS, strict=True):
        if not all(_valid(part, low, high, names) for part in text.split(",")):
            values = f"{low} to {high}" + (f" or {names[0]} to {names[-1]}" if names else "")
            fix = f"write {values}, *, a-b, */n, or several of these with commas"
            raise InputError(f"{text!r} is not a valid {name}", f"--cron {cron!r}", fix)
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
