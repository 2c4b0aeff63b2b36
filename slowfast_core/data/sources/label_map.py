"""AVA's action list, a pbtxt: `item { name id }` (ActivityNet, 60 classes) or `label { name label_id }` (80)."""

from __future__ import annotations

import re

from slowfast_core.data.sources.common import TextFile
from slowfast_core.errors import InputError

BLOCK = re.compile(r"(?:item|label)\s*:?\s*\{((?:\"(?:\\.|[^\"\\])*\"|'[^']*'|[^}\"'])*)\}")
NAME = re.compile(r"\bname\s*:\s*(?:\"((?:\\.|[^\"\\])*)\"|'([^']*)')")
ID = re.compile(r"\b(?:label_)?id\s*:\s*(\d+)")

LAST = 9999


def read_label_map(labels: TextFile) -> tuple[str, ...]:
    """The name of action id j + 1 at j; names of ids that it leaves out are empty. Raises InputError."""
    text = re.sub(r"(?m)^\s*#.*$", "", labels.text)
    named: dict[int, str] = {}
    for block in BLOCK.findall(text):
        name, number = NAME.search(block), ID.search(block)
        if not name or not number or int(number[1]) < 1:
            raise InputError(f"label without a name or an id: {' '.join(block.split())}", labels.name, "give it both")
        if int(number[1]) > LAST:
            raise InputError(f"id {number[1]} is above {LAST}", labels.name, "number the actions from 1")
        if int(number[1]) in named:
            raise InputError(f"id {number[1]} is there twice", labels.name, "ids are unique")
        named[int(number[1])] = name[1] or name[2] or ""
    if not named or BLOCK.sub("", text).strip():
        raise InputError("not a label map", labels.name, 'it is item { name: "..." id: 1 } for each action')
    return tuple(named.get(number, "") for number in range(1, max(named) + 1))
