"""Validates names of recipes, data sets and registered models, which are used as folder names.

A valid name cannot leave its parent folder.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from slowfast_core.stage import STAGES

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LONGEST = 100  # characters in one part: a folder name may have 255 bytes, and stages add prefixes and suffixes
STAGE_FOLDERS = {stage.name for stage in STAGES if stage.belongs_to == "recipe"}  # folders inside a recipe's folder


def checked_name(name: str) -> str:
    """Return `name` if it is a valid name of one folder. Raises ValueError."""
    if not PART.fullmatch(name) or len(name) > LONGEST:
        shown = name if len(name) <= LONGEST else f"{name[:20]}..."
        allowed = f"up to {LONGEST} letters, digits, '_', '-' and '.', the first a letter or a digit"
        raise ValueError(f"{shown!r} is not a valid folder name: use {allowed}")
    return name


def checked_path_of_names(name: str) -> str:
    """Return `name` if it is a valid recipe name: folder names separated by '/'. Raises ValueError."""
    first, *rest = name.split("/")
    for part in (first, *rest):
        checked_name(part)
    if inside_stage := [part for part in rest if part in STAGE_FOLDERS]:
        raise ValueError(f"{name!r} would be inside the results of another recipe: {inside_stage[0]!r} is a stage")
    return name


Name = Annotated[str, AfterValidator(checked_name)]
PathOfNames = Annotated[str, AfterValidator(checked_path_of_names)]
