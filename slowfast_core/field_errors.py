"""Converts pydantic's ValidationError into an InputError with a plain sentence about the first wrong field."""

from __future__ import annotations

import reprlib
from datetime import date
from typing import Any

from pydantic import ValidationError

from slowfast_core.errors import InputError

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
    "invalid_key": "has a key that is not text",
    "recursion": "contains itself",
}
ENDINGS = ("_type", "_parsing_size", "_parsing", "_from_float", "_error", "_number", "_mismatch", "_loop")


def input_error(error: ValidationError, where: object, fix: str) -> InputError:
    """Return an InputError for the first wrong field, such as `train.epochs: must be a whole number, is 'many'`."""
    return InputError(describe(error), where, fix)


def describe(error: ValidationError) -> str:
    """Return `key: sentence` for the first wrong field; only the sentence if the whole document is wrong."""
    first = error.errors()[0]
    key = key_of(first)
    return f"{key}: {sentence(first)}" if key else sentence(first)


def key_of(error: Any) -> str:
    """Return the dotted key as users write it, without the names that pydantic adds for members of a union."""
    parts = [str(part) for part in error["loc"]]
    return ".".join(part for part in parts if "[" not in part and part not in ("str", "int"))


def sentence(error: Any) -> str:
    """Describe one entry of `ValidationError.errors()`, such as `must be a whole number, is 'many'`."""
    kind, context = error["type"].removeprefix("model_attributes_"), error.get("ctx", {})
    for ending in ENDINGS:
        kind = kind.removesuffix(ending)
    if kind == "value" or kind not in SENTENCES:
        return str(error["msg"]).removeprefix("Value error, ")
    text = SENTENCES[kind].format(**context)
    return text if kind in ("missing", "invalid_key", "recursion") else f"{text}, is {_abbreviated(error['input'])}"


def _abbreviated(value: Any) -> str:
    if isinstance(value, dict):
        return "a section" if value else "an empty section"
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    if isinstance(value, date):
        return f"a date, {value}"
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints numbers of at most 4300 digits
        return "a number of thousands of digits"
