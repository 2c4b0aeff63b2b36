"""Finds suspicious class names: without a label file, a typo in a row creates a class."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from slowfast_core.recipe.data import Data

CLOSE = 0.9  # difflib's similarity above which two names are reported
RARE = 0.1  # share of the other class's clips; for rarer classes, CLOSE_OF_RARE applies
CLOSE_OF_RARE = 0.8


def names_come_from_rows(data: Data) -> bool:
    return data.labels is None and data.annotation_format.names_from_rows and data.source != "synthetic"


def doubtful_names(clips: Mapping[str, int]) -> list[str]:
    """A warning for each class with a name similar to a larger class, or with a single clip."""
    ordered = sorted(clips, key=lambda name: (-clips[name], name))  # the smaller class of a pair is the suspect
    warnings = []
    for index, name in enumerate(ordered):
        count = f"{clips[name]} clip{'' if clips[name] == 1 else 's'}"
        if near := _nearest(name, ordered[:index], clips):
            warnings.append(f"class {name!r} ({count}) is similar to {near!r} ({clips[near]}): is it the same class?")
        elif clips[name] == 1 and not name.isdecimal():
            warnings.append(f"class {name!r} has a single clip")
    return warnings


def _nearest(name: str, larger: Sequence[str], clips: Mapping[str, int]) -> str | None:
    if same := next((other for other in larger if _plain(name) == _plain(other)), None):
        return same
    matcher = difflib.SequenceMatcher(None, b=name.casefold(), autojunk=False)  # it analyses `b` only once
    for other in larger:
        close = CLOSE_OF_RARE if clips[name] <= max(RARE * clips[other], 1) else CLOSE
        matcher.set_seq1(other.casefold())
        similar = matcher.real_quick_ratio() >= close and matcher.quick_ratio() >= close and matcher.ratio() >= close
        if similar and _without_digits(name) != _without_digits(other):  # numbered classes differ only in digits
            return other
    return None


def _plain(name: str) -> str:
    """The name without case, spaces, underscores and hyphens, which are easily written differently."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _without_digits(name: str) -> str:
    return re.sub(r"\d+", "", name)
