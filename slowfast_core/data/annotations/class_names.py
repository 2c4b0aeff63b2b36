"""Reads label files that most formats share, and suggests the nearest name for an unknown one."""

from __future__ import annotations

import difflib
import reprlib
from collections import Counter
from collections.abc import Iterable

from slowfast_core.data.annotations.text_file import TextFile, is_whole_number
from slowfast_core.errors import InputError

LONGEST_COMPARED = 200  # characters; the search for similar names takes quadratic time


def read_names(labels: TextFile) -> tuple[str, ...]:
    """Class names in order, from a text file (one per line), a JSON list, or a JSON object `name: index`.

    Raises InputError.
    """
    if labels.text.lstrip().startswith(("{", "[")):
        names = _json_names(labels)
    else:
        names = [name for line in labels.text.splitlines() if (name := line.strip())]
    if len({*names}) < len(names):
        repeated, _ = Counter(names).most_common(1)[0]
        raise InputError(f"duplicate label {repeated!r}", labels.name, "write each name once, one per line")
    if not names:
        raise InputError("no labels", labels.name, "write one name per line")
    return tuple(names)


def _json_names(labels: TextFile) -> list[str]:
    tree = labels.json()
    if isinstance(tree, dict):
        # As text, true and 1.0 are not whole numbers.
        indices = {name: int(index) if is_whole_number(str(index)) else -1 for name, index in tree.items()}
        wrong = next((name for name, index in indices.items() if not 0 <= index < len(tree)), None)
        if wrong is not None:
            what = f"label {wrong[:100]!r} has the index {reprlib.repr(tree[wrong])}"
            raise InputError(what, labels.name, f"{len(tree)} labels have the indices 0 to {len(tree) - 1}")
        if len({*indices.values()}) < len(indices):
            raise InputError("two labels have the same index", labels.name, "use each index once")
        tree = sorted(tree, key=indices.__getitem__)
    if not all(isinstance(name, str) for name in tree):
        raise InputError("a label is not a name", labels.name, 'write {"name": index, ...} or ["name", ...]')
    return [name.strip().strip('"') for name in tree]


def nearest(name: str, names: Iterable[str]) -> str:
    """A fix for an unknown name: the most similar known name, if any."""
    short = [other for other in names if len(other) <= LONGEST_COMPARED] if len(name) <= LONGEST_COMPARED else []
    matches = difflib.get_close_matches(name, short, n=1)
    return f"did you mean {matches[0]!r}?" if matches else "correct the row, or add the name to the label file"
