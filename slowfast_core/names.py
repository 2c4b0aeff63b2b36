"""Names that become folders: of recipes, data sets and registered models. What passes here stays below its folder."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LONGEST = 100  # characters of a part; a folder's name may have 255 bytes, and stages add to it
STAGE_FOLDERS = ("train", "evaluate", "register")  # below the folder of a recipe


def checked_name(name: str) -> str:
    """A name that is one folder. Raises ValueError."""
    if not PART.fullmatch(name) or len(name) > LONGEST:
        shown = name if len(name) <= LONGEST else f"{name[:20]}..."
        allowed = f"up to {LONGEST} letters, digits, '_', '-' and '.', the first a letter or a digit"
        raise ValueError(f"{shown!r} cannot be the name of a folder: use {allowed}")
    return name


def checked_path_of_names(name: str) -> str:
    """A recipe's name: folders with '/' between them. Raises ValueError."""
    first, *rest = name.split("/")
    for part in (first, *rest):
        checked_name(part)
    if inside_stage := [part for part in rest if part in STAGE_FOLDERS]:
        raise ValueError(f"{name!r} would lie inside the results of another recipe: {inside_stage[0]!r} is a stage")
    return name


Name = Annotated[str, AfterValidator(checked_name)]
PathOfNames = Annotated[str, AfterValidator(checked_path_of_names)]
