"""What pydantic finds wrong with a field, as a sentence about the value."""

from __future__ import annotations

import reprlib
from datetime import date
from typing import Any

SENTENCES = {
    "missing": "is missing",
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "string": "must be text",
    "string_pattern": "must match {pattern}",
    "dict": "must be a section of keys and values",
    "mapping": "must be a section of keys and values",
    "model": "must be a section of keys and values",
    "tuple": "must be a list",
    "list": "must be a list",
    "literal": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_long": "must have at most {max_length} values",
    "too_short": "must have at least {min_length} values",
    "invalid_key": "has a key that is no text",
    "recursion": "holds itself",
}
ENDINGS = ("_type", "_parsing_size", "_parsing", "_from_float", "_error", "_number", "_mismatch", "_loop")


def key_of(error: Any) -> str:
    """The key as users write it: without pydantic's names for the kinds that a value may be of."""
    parts = [str(part) for part in error["loc"]]
    return ".".join(part for part in parts if "[" not in part and part not in ("str", "int"))


def sentence(error: Any) -> str:
    """Of one of `ValidationError.errors()`: as `must be a whole number, is 'many'`."""
    kind, context = error["type"].removeprefix("model_attributes_"), error.get("ctx", {})
    for ending in ENDINGS:
        kind = kind.removesuffix(ending)
    if kind == "value" or kind not in SENTENCES:
        return str(error["msg"]).removeprefix("Value error, ")
    said = SENTENCES[kind].format(**context)
    return said if kind in ("missing", "invalid_key", "recursion") else f"{said}, is {_shown(error['input'])}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section" if value else "an empty section"
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    if isinstance(value, date):
        return f"a date, {value}"
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        return "a number of thousands of digits"
