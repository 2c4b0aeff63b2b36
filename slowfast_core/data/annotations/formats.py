"""The list of annotation formats. A new format is a module in this folder and a line in FORMATS."""

from __future__ import annotations

from collections.abc import Iterable

from slowfast_core.data.annotations.ava import AVA
from slowfast_core.data.annotations.charades import CHARADES
from slowfast_core.data.annotations.folders import FOLDERS
from slowfast_core.data.annotations.frame_lists import FRAME_LIST
from slowfast_core.data.annotations.interface import AnnotationFormat
from slowfast_core.data.annotations.kinetics import KINETICS
from slowfast_core.data.annotations.lists import LIST
from slowfast_core.data.annotations.something import SOMETHING
from slowfast_core.errors import InputError

FORMATS: tuple[AnnotationFormat, ...] = (
    KINETICS,
    LIST,
    FOLDERS,
    CHARADES,
    FRAME_LIST,
    SOMETHING,
    AVA,
)


def format_named(name: str) -> AnnotationFormat:
    """Return the format of this name. Raises InputError, which lists the known names."""
    found = next((each for each in FORMATS if each.name == name), None)
    if found is None:
        raise InputError(f"unknown annotation format {name!r}", "data.format", f"use {names_of(FORMATS)}")
    return found


def names_of(formats: Iterable[AnnotationFormat]) -> str:
    """The names in a sentence: `'kinetics', 'list' or 'ava'`."""
    *others, last = (repr(each.name) for each in formats)
    return f"{', '.join(others)} or {last}" if others else last
