"""YAML and JSON of unknown origin: whatever is in them, reading ends soon, in plain values or an InputError.

Both formats nest without end, JSON's and YAML's readers recurse, and a YAML of some lines can stand for terabytes by
anchors that name anchors. Here depth, size and integers are bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from slowfast_core.errors import InputError

LARGEST_YAML = 2**16  # characters: PyYAML reads some 50 kB a second
MOST_VALUES = 100_000  # of a YAML file, each counted as often as its anchor is used
MOST_MERGED = 100  # mappings that one mapping merges (`<<`)
DEEPEST = 50
LARGEST_INTEGER = 2**64

WRONG = (ValueError, OverflowError, LookupError, AttributeError, TypeError)  # of what makes dates and numbers


def read_yaml(text: str, where: object, fix: str = "correct the file") -> Any:
    """The one document in `text`. Raises InputError."""
    if len(text) > LARGEST_YAML:
        raise InputError(f"{len(text):,} characters are more than the {LARGEST_YAML:,} of a YAML file", where, fix)
    try:
        tree = yaml.load(text, Loader=_Loader)  # a safe one
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}", where, fix) from None
    except RecursionError:
        raise InputError("not YAML: nested too deep", where, fix) from None
    for count, (depth, value) in enumerate(_values(tree)):
        if count == MOST_VALUES or depth > DEEPEST:
            what = f"nested more than {DEEPEST} deep" if depth > DEEPEST else f"more than {MOST_VALUES:,} values"
            raise InputError(what, where, fix)
        if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
            raise InputError("a whole number of more than 19 digits", where, fix)
    return tree


def read_yaml_file(path: Path, fix: str) -> Any:
    """Raises InputError."""
    try:
        if path.stat().st_size > 4 * LARGEST_YAML:
            raise InputError(f"larger than the {LARGEST_YAML:,} characters of a YAML file", path, fix)
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("not YAML: no UTF-8 text", path, fix) from None
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", path, "name a file that you may read") from None
    return read_yaml(text, path, fix)


def read_json(text: str, where: object, fix: str = "correct the file") -> Any:
    """Raises InputError, which names the line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", f"{where}:{error.lineno}", fix) from None
    except RecursionError:
        raise InputError("not JSON: nested too deep", where, fix) from None
    except ValueError:  # Python converts no more than 4300 digits
        raise InputError("not JSON: a number of thousands of digits", where, fix) from None


def read_json_object(path: Path, what: str, fix: str) -> dict[str, Any]:
    """The object in a JSON file of ours. Raises InputError, which begins with `what` when the file is not there."""
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
        """Values that look like dates or numbers and are none are errors with a line."""
        try:
            return super().construct_object(node, deep)
        except WRONG as error:
            what = f"wrong value {str(node.value)[:40]!r}{_why(error)}"
            raise ConstructorError(None, None, what, node.start_mark) from None

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys copy what they name: of each other, they double it line by line."""
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        if sum(len(value.value) if isinstance(value, yaml.SequenceNode) else 1 for value in merged) > MOST_MERGED:
            raise yaml.YAMLError(f"more than {MOST_MERGED} merged mappings")
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES:,} merged keys")


def _values(tree: Any) -> Iterator[tuple[int, Any]]:
    """(depth, value) of everything in the tree, without recursion; endless where an anchor holds itself."""
    rest = [(0, tree)]
    while rest:
        depth, value = rest.pop()
        yield depth, value
        if isinstance(value, Mapping):
            rest.extend((depth + 1, part) for item in value.items() for part in item)
        elif isinstance(value, list | tuple | set):
            rest.extend((depth + 1, part) for part in value)


def _why(error: Exception) -> str:
    """The reason where it is one: a missing key or attribute is one of the reader's own."""
    reason = " ".join(str(error).split())
    if "digits" in reason:
        return ": a number of thousands of digits"
    return f": {reason}" if isinstance(error, ValueError | OverflowError) else ""
