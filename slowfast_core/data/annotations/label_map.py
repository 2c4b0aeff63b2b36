"""Reads AVA's action list, a pbtxt: `item { name id }` (ActivityNet, 60 classes) or `label { name label_id }` (80)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from slowfast_core.data.annotations.text_file import TextFile, is_whole_number
from slowfast_core.errors import InputError

# No two alternatives start with the same character, so that even damaged files are read in linear time.
TOKEN = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<text> "(?:\\.|[^"\\])*" | '[^']*' )
    | (?P<mark> [{}:] )
    | (?P<word> [^\s\#"'{}:]+ )""",
    re.VERBOSE,
)
IDS = ("id", "label_id")
LAST = 9999
LONGEST_SHOWN = 200


def read_label_map(labels: TextFile) -> tuple[str, ...]:
    """Names by class: entry j is the name of action id j + 1, empty for an unlisted id. Raises InputError."""
    named: dict[int, str] = {}
    for block in _blocks(labels):
        fields = dict(reversed([*pairwise(block)]))  # the first value of a repeated field
        name = fields.get("name", "")
        number = next((fields[key] for key in IDS if key in fields), "")
        if name[:1] not in ('"', "'") or not is_whole_number(number) or int(number) < 1:
            shown = " ".join(block)[:LONGEST_SHOWN]
            raise InputError(f"label without a name or an id: {shown}", labels.name, "add both")
        if int(number) > LAST:
            raise InputError(f"id {number} is above {LAST}", labels.name, "number the actions from 1")
        if int(number) in named:
            raise InputError(f"duplicate id {number}", labels.name, "use each id once")
        named[int(number)] = name[1:-1]
    if not named:
        raise _no_map(labels)
    return tuple(named.get(number, "") for number in range(1, max(named) + 1))


def _blocks(labels: TextFile) -> Iterator[list[str]]:
    """Yield the words and quoted texts of each `item { ... }`, without colons."""
    tokens = _tokens(labels)
    for kind in tokens:
        opening = next(tokens, "")
        if opening == ":":
            opening = next(tokens, "")
        if kind not in ("item", "label") or opening != "{":
            raise _no_map(labels)
        block: list[str] = []
        while (token := next(tokens, "{")) != "}":
            if token == "{":  # a nested block, or the end of the file
                raise _no_map(labels)
            if token != ":":
                block.append(token)
        yield block


def _tokens(labels: TextFile) -> Iterator[str]:
    position = 0
    while position < len(labels.text):
        match = TOKEN.match(labels.text, position)
        if match is None:  # an unterminated quote
            raise _no_map(labels)
        position = match.end()
        if match.lastgroup:
            yield match[0]


def _no_map(labels: TextFile) -> InputError:
    return InputError("not a label map", labels.name, 'write item { name: "..." id: 1 } for each action')
