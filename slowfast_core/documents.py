"""Reads untrusted YAML and JSON in bounded time, into plain values or an InputError.

Both formats nest to any depth and their parsers recurse; a few lines of YAML can expand to terabytes through anchors
that refer to anchors. Depth, size and integers are therefore limited here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from slowfast_core.errors import InputError

LARGEST_YAML = 2**16  # characters: PyYAML parses about 50 kB per second
MOST_VALUES = 100_000  # values in a YAML file; a value is counted each time its anchor is used
MOST_MERGED = 100  # mappings merged (`<<`) into one mapping
DEEPEST = 50  # levels of nesting
LARGEST_INTEGER = 2**64

# Raised by PyYAML's constructors for text that looks like a date or a number but is not one.
CONSTRUCTOR_ERRORS = (ValueError, OverflowError, LookupError, AttributeError, TypeError)


def read_yaml(text: str, where: object, fix: str = "correct the file") -> Any:
    """Parse the single document in `text`. Raises InputError."""
    if len(text) > LARGEST_YAML:
        raise InputError(f"YAML of {len(text):,} characters; at most {LARGEST_YAML:,} are allowed", where, fix)
    try:
        tree = yaml.load(text, Loader=_Loader)  # derived from SafeLoader
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}", where, fix) from None
    except RecursionError:
        raise InputError("not YAML: nested too deeply", where, fix) from None
    for count, (depth, value) in enumerate(_values(tree)):
        if count == MOST_VALUES or depth > DEEPEST:
            what = f"nested more than {DEEPEST} levels" if depth > DEEPEST else f"more than {MOST_VALUES:,} values"
            raise InputError(what, where, fix)
        if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
            raise InputError("an integer of more than 19 digits", where, fix)
    return tree


def read_yaml_file(path: Path, fix: str) -> Any:
    """Parse a YAML file. Raises InputError."""
    try:
        if path.stat().st_size > 4 * LARGEST_YAML:
            raise InputError(f"YAML of more than {LARGEST_YAML:,} characters", path, fix)
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("not YAML: not UTF-8 text", path, fix) from None
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", path, "name a readable file") from None
    return read_yaml(text, path, fix)


def read_json(text: str, where: object, fix: str = "correct the file") -> Any:
    """Parse JSON. Raises InputError with the line number."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", f"{where}:{error.lineno}", fix) from None
    except RecursionError:
        raise InputError("not JSON: nested too deeply", where, fix) from None
    except ValueError:  # Python converts at most 4300 digits
        raise InputError("not JSON: a number of thousands of digits", where, fix) from None


def read_json_object(path: Path, what: str, fix: str) -> dict[str, Any]:
    """Read a JSON object from a file that this program wrote. Raises InputError(`what`) if the file is unreadable."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(what, path, fix) from None
    tree = read_json(text, path, fix)
    if not isinstance(tree, dict):
        raise InputError("not a JSON object", path, fix)
    return tree


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Raise ConstructorError, with the line, for a value that looks like a date or number but is not one."""
        try:
            return super().construct_object(node, deep)
        except CONSTRUCTOR_ERRORS as error:
            what = f"wrong value {str(node.value)[:40]!r}{_why(error)}"
            raise ConstructorError(None, None, what, node.start_mark) from None

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Limit merge keys: each copies the mapping it names, so a chain of merges doubles the size with each line."""
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        if sum(len(value.value) if isinstance(value, yaml.SequenceNode) else 1 for value in merged) > MOST_MERGED:
            raise yaml.YAMLError(f"more than {MOST_MERGED} merged mappings")
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES:,} merged keys")


def _values(tree: Any) -> Iterator[tuple[int, Any]]:
    """Yield (depth, value) for every node, without recursion; never ends if an anchor contains itself."""
    rest = [(0, tree)]
    while rest:
        depth, value = rest.pop()
        yield depth, value
        if isinstance(value, Mapping):
            rest.extend((depth + 1, part) for item in value.items() for part in item)
        elif isinstance(value, list | tuple | set):
            rest.extend((depth + 1, part) for part in value)


def _why(error: Exception) -> str:
    """Return the error's text if it explains the input; a LookupError or AttributeError only describes PyYAML."""
    reason = " ".join(str(error).split())
    if "digits" in reason:
        return ": a number of thousands of digits"
    return f": {reason}" if isinstance(error, ValueError | OverflowError) else ""
