"""Class names that look like slips: where no label file says what the classes are, a typo makes a class of its own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from slowfast_core.recipe.data import Data

NAMED_BY_ROWS = ("kinetics", "list", "folders")  # formats whose classes are what the rows name, without a label file
CLOSE = 0.9  # similarity of names that are taken for one, of difflib
RARE = 0.1  # of the clips of the other class; the name of so small a class need not be as close
CLOSE_OF_RARE = 0.8


def names_come_from_rows(data: Data) -> bool:
    return data.labels is None and data.format in NAMED_BY_ROWS and data.source != "synthetic"


def doubtful_names(clips: Mapping[str, int]) -> list[str]:
    """A warning for each class whose name is nearly that of a larger one, or that has a single clip."""
    ordered = sorted(clips, key=lambda name: (-clips[name], name))  # of two the smaller is the slip
    warnings = []
    for index, name in enumerate(ordered):
        count = f"{clips[name]} clip{'' if clips[name] == 1 else 's'}"
        if near := _nearest(name, ordered[:index], clips):
            warnings.append(f"class {name!r} ({count}) is nearly {near!r} ({clips[near]}): one class, or two?")
        elif clips[name] == 1 and not name.isdecimal():
            warnings.append(f"class {name!r} has a single clip")
    return warnings


def _nearest(name: str, larger: Sequence[str], clips: Mapping[str, int]) -> str | None:
    if same := next((other for other in larger if _plain(name) == _plain(other)), None):
        return same
    matcher = difflib.SequenceMatcher(None, b=name.casefold(), autojunk=False)  # it prepares `b` once
    for other in larger:
        close = CLOSE_OF_RARE if clips[name] <= max(RARE * clips[other], 1) else CLOSE
        matcher.set_seq1(other.casefold())
        similar = matcher.real_quick_ratio() >= close and matcher.quick_ratio() >= close and matcher.ratio() >= close
        if similar and _without_digits(name) != _without_digits(other):  # numbered classes are alike
            return other
    return None


def _plain(name: str) -> str:
    """Without what is easily written in another way: case, spaces, underscores, hyphens."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _without_digits(name: str) -> str:
    return re.sub(r"\d+", "", name)
